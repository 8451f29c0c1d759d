"""What a simulation is asked for: its size, its period and its seed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from training.simulation.atlas import CITIES, COUNTRIES, LOCAL, REMOTE, STANDING

MAX_TRANSACTIONS = 1_000_000_000  # transaction ids carry nine digits
MAX_DAYS = 3_650
MIN_LOCAL_MERCHANTS = len(CITIES) * len(LOCAL)  # every city sells everything
MIN_REMOTE_MERCHANTS = len(COUNTRIES) * len(REMOTE + STANDING)
MIN_MERCHANTS = MIN_LOCAL_MERCHANTS + MIN_REMOTE_MERCHANTS

_TRANSACTIONS_PER_CARD_DAY = 0.9
_CARDS_PER_MERCHANT = 3
_TERMINALS_PER_MERCHANT = 1.5
_EARLIEST = datetime(2000, 1, 2, tzinfo=UTC)  # the service accepts event times from 2000-01-01
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """The whole input of a simulation: equal configurations draw equal rows.

    Args:
        transactions: rows to draw, exactly; 1 to 10⁹.
        seed: 0 to 2⁶³ - 1. Also part of every transaction id.
        start: the first moment, with an offset; whole hours.
        days: length of the period, 1 to 3650.
        prevalence: share of rows that are fraud, 0 to 0.2.
        cards, merchants, terminals: sizes of the world, or None for those that fit `transactions` and `days`:
            0.9 transactions per card and day, 3 cards per merchant, 1.5 terminals per merchant with a shop.

    Raises:
        ValueError: a value is out of its range.
    """

    transactions: int
    seed: int = 7
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    days: int = 120
    prevalence: float = 0.001
    cards: int | None = None
    merchants: int | None = None
    terminals: int | None = None

    def __post_init__(self) -> None:
        _require_between("transactions", self.transactions, 1, MAX_TRANSACTIONS)
        _require_between("seed", self.seed, 0, 2**63 - 1)
        _require_between("days", self.days, 1, MAX_DAYS)
        _require_between("prevalence", self.prevalence, 0.0, 0.2)
        if self.start.utcoffset() is None or (self.start.minute, self.start.second, self.start.microsecond) != (
            0,
            0,
            0,
        ):
            raise ValueError(f"start must be a whole hour with an offset, not {self.start.isoformat()}")
        if self.start < _EARLIEST or self.start + timedelta(days=self.days) > _LATEST:
            raise ValueError(f"the period must lie between 2000-01-02 and 2100, not start {self.start.isoformat()}")
        _require_between("cards", self.card_count, 1, 2**31)
        _require_between("merchants", self.merchant_count, MIN_MERCHANTS, 2**31)
        _require_between("terminals", self.terminal_count, self.local_merchant_count, 2**31)

    @property
    def card_count(self) -> int:
        """Cards of the world."""
        if self.cards is not None:
            return self.cards
        return max(50, round(self.transactions / (self.days * _TRANSACTIONS_PER_CARD_DAY)))

    @property
    def merchant_count(self) -> int:
        """Merchants of the world, with a shop or without."""
        return max(MIN_MERCHANTS, self.card_count // _CARDS_PER_MERCHANT) if self.merchants is None else self.merchants

    @property
    def local_merchant_count(self) -> int:
        """Merchants with a shop: all that exceed the smallest world are split evenly."""
        return MIN_LOCAL_MERCHANTS + (self.merchant_count - MIN_MERCHANTS) // 2

    @property
    def terminal_count(self) -> int:
        """Terminals of the world; every merchant with a shop has at least one."""
        if self.terminals is not None:
            return self.terminals
        return round(self.local_merchant_count * _TERMINALS_PER_MERCHANT)

    @property
    def fraud_count(self) -> int:
        """Rows that are fraud, exactly."""
        return round(self.transactions * self.prevalence)


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, not {value}")
