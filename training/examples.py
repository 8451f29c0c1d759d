"""Examples: what the service's own engine computes for a table of transactions, with their labels."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.currency import CurrencyTable
from service.features.entry import (
    AMOUNT_LIMIT,
    CHANNELS,
    CHECK_RESULTS,
    COUNTRY_CODES,
    ENTRY_MODES,
    FIELD_COLUMNS,
    MISSING,
    THREE_DS,
    Column,
    Kind,
    category_code,
    coordinate,
    entry_id,
    or_missing,
    outcome_id,
    token_hash,
)
from service.features.offline import Fold, categorical_codes
from service.features.plan import Plan
from service.features.spec import COUNTRY_FIELDS, DAY_MS, KEY_FIELDS
from service.vocabulary import FollowKind

KEYS = {name: FIELD_COLUMNS[name] for name in KEY_FIELDS}
COUNTRIES = {name: FIELD_COLUMNS[name] for name in COUNTRY_FIELDS}
CODES = {
    "channel": (Column.CHANNEL, CHANNELS),
    "entry_mode": (Column.ENTRY_MODE, ENTRY_MODES),
    "cvc_check": (Column.CVC_CHECK, CHECK_RESULTS),
    "avs_check": (Column.AVS_CHECK, CHECK_RESULTS),
    "three_ds": (Column.THREE_DS, THREE_DS),
}


@dataclass(frozen=True, slots=True)
class Examples:
    """Feature vectors of n transactions, in the order of the table they came from.

    Attributes:
        numeric: float32 (n, features), NaN where missing.
        categorical: int64 (n, categories), raw codes.
        labels: bool (n,), fraud.
        reported_at_ms: int64 (n,), when the fraud was reported; -1 for what never was.
        event_time_ms: int64 (n,), epoch milliseconds.
        amount_minor: int64 (n,), in the base currency.
        card: int64 (n,), the card's hash.
        typology: int32 (n,), which of `typologies`.
        typologies: the kinds of fraud that the data name; the first is "", where it names none.
    """

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    labels: NDArray[np.bool_]
    reported_at_ms: NDArray[np.int64]
    event_time_ms: NDArray[np.int64]
    amount_minor: NDArray[np.int64]
    card: NDArray[np.int64]
    typology: NDArray[np.int32]
    typologies: tuple[str, ...] = ("",)

    def fingerprint(self, *more: NDArray[np.int64]) -> str:
        """SHA-256 of everything that is learned from, and of what else of the same rows a result depends on."""
        digest = hashlib.sha256()
        of_rows = (self.labels, self.reported_at_ms, self.event_time_ms)
        for array in (self.numeric, self.categorical, *of_rows, *more):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Everything that a table says, in the order in which it became known. All (m,).

    Attributes:
        source: int64, the row of the table each comes from.
        time_ms: int64, when it arrived.
        is_report: bool, whether it is the report of a fraud; else the transaction itself.
    """

    source: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    is_report: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Transactions and outcomes of a table in the order in which they arrive.

    Attributes:
        events: int64 (m, columns), the engine's rows.
        source: int64 (m,), the row of the table each comes from.
    """

    events: NDArray[np.int64]
    source: NDArray[np.int64]


def replay_offline(frame: pl.DataFrame, plan: Plan, currencies: CurrencyTable, *, threads: int = 1) -> Examples:
    """Compute the features of a canonical table, every outcome taking effect when it was reported.

    Args:
        frame: canonical transactions (`training.datasets.canonical`), sorted by timestamp.
        plan: the compiled spec.
        currencies: rates to the base currency.
        threads: cores to use; the result does not depend on it.
    """
    (examples,) = replay_pieces([frame], plan, currencies, threads=threads)
    return examples


def replay_pieces(
    pieces: Iterable[pl.DataFrame], plan: Plan, currencies: CurrencyTable, *, threads: int = 1
) -> Iterator[Examples]:
    """Compute the features of a canonical table that comes in pieces; where it is cut changes none of them.

    Beside a piece, the frauds that are not reported yet are in memory, and the bases of all logs.

    Args:
        pieces: parts of a table, as for `replay_offline`, each later than the one before.
        plan: the compiled spec.
        currencies: rates to the base currency.
        threads: cores to use; the result does not depend on it.

    Yields:
        The examples of each piece. Each knows the typologies of those before, under the same numbers.
    """
    fold = Fold(plan)
    waiting = np.empty((0, len(Column)), np.int64)
    typologies = {"": 0}
    for piece in pieces:
        transactions = transaction_rows(piece, currencies)
        reported_at_ms = _reported_at_ms(piece)
        reported = np.flatnonzero(reported_at_ms >= 0)
        reports = np.concatenate([waiting, _label_rows(piece, transactions, reported, reported_at_ms[reported])])
        reached = transactions[:, Column.TIME].max(initial=0)
        due = reports[:, Column.TIME] < reached  # at equal times the next piece may come first
        events, waiting = np.concatenate([transactions, reports[due]]), reports[~due]
        order = np.argsort(events[:, Column.TIME], kind="stable")
        numeric = fold.take(events[order], threads=threads).numeric
        yield Examples(
            numeric=numeric[order < len(transactions)],
            categorical=categorical_codes(plan, transactions),
            labels=piece["is_fraud"].to_numpy().astype(np.bool_),
            reported_at_ms=reported_at_ms,
            event_time_ms=transactions[:, Column.TIME].copy(),
            amount_minor=transactions[:, Column.AMOUNT].copy(),
            card=transactions[:, Column.CARD].copy(),
            typology=_typologies(piece, typologies),
            typologies=tuple(typologies),
        )


def declare_reports(frame: pl.DataFrame, label_delay_days: float) -> pl.DataFrame:
    """Fill in when a fraud was reported, where the data does not say: so long after the transaction."""
    delay = pl.duration(milliseconds=round(label_delay_days * DAY_MS))
    told = pl.col("reported_at") if "reported_at" in frame.columns else pl.lit(None, pl.Datetime("ms", "UTC"))
    declared = pl.when(pl.col("is_fraud")).then(pl.coalesce(told, pl.col("timestamp") + delay))
    return frame.with_columns(reported_at=declared)


def timeline(frame: pl.DataFrame, currencies: CurrencyTable) -> Timeline:
    """Lay a table out as it happened: each transaction at its event time, each fraud label when it was reported.

    At equal times transactions come before outcomes, and each in the table's order.
    """
    order = arrivals(frame)
    transactions = transaction_rows(frame, currencies)
    events = transactions[order.source]
    reported = order.source[order.is_report]
    events[order.is_report] = _label_rows(frame, transactions, reported, order.time_ms[order.is_report])
    return Timeline(events, order.source)


def arrivals(frame: pl.DataFrame) -> Arrivals:
    """The order in which a table's transactions and reports arrive; see `timeline`."""
    reported_at_ms = _reported_at_ms(frame)
    reported = np.flatnonzero(reported_at_ms >= 0)
    source = np.concatenate([np.arange(len(frame)), reported])
    time_ms = np.concatenate([frame["timestamp"].dt.epoch("ms").to_numpy(), reported_at_ms[reported]])
    order = np.argsort(time_ms, kind="stable")
    return Arrivals(source[order], time_ms[order], order >= len(frame))


def transaction_rows(frame: pl.DataFrame, currencies: CurrencyTable) -> NDArray[np.int64]:
    """What `service.features.entry.transaction_row` gives for each row, column by column."""
    rows = np.tile(MISSING, (len(frame), 1))
    rows[:, Column.TIME] = rows[:, Column.ORIGIN] = frame["timestamp"].dt.epoch("ms").to_numpy()
    rows[:, Column.ID] = [entry_id(name, "transaction") for name in frame["transaction_id"]]
    rows[:, Column.AMOUNT] = _amounts(frame, currencies)
    kinds = _by_value(frame, "follow_kind", lambda kind: Kind.ATTEMPT if kind is None else Kind.FOLLOW_UP)
    rows[:, Column.KIND] = kinds
    incremental = _by_value(frame, "follow_kind", lambda kind: int(kind == FollowKind.INCREMENTAL))
    rows[:, Column.ADDED] = rows[:, Column.AMOUNT] * incremental
    for name, column in KEYS.items():
        rows[:, column] = _by_value(frame, name, token_hash)
    for name, column in COUNTRIES.items():
        rows[:, column] = _by_value(frame, name, or_missing(COUNTRY_CODES, 0).__getitem__)
    for name, (column, codes) in CODES.items():
        rows[:, column] = _by_value(frame, name, or_missing(codes, -1).__getitem__)
    rows[:, Column.MCC] = _by_value(frame, "merchant_category_code", category_code)
    for name, column in (("latitude", Column.LATITUDE), ("longitude", Column.LONGITUDE)):
        rows[:, column] = _by_value(frame, name, coordinate)
    return rows


def _label_rows(
    frame: pl.DataFrame, transactions: NDArray[np.int64], reported: NDArray[np.int64], times_ms: NDArray[np.int64]
) -> NDArray[np.int64]:
    """One entry for each report: of which transaction, and when. It has the transaction's entities and its amount."""
    rows = np.tile(MISSING, (len(reported), 1))
    names = frame["transaction_id"].gather(reported)
    rows[:, Column.KIND] = Kind.FRAUD_LABEL
    rows[:, Column.DELTA] = 1
    rows[:, Column.TIME] = times_ms
    rows[:, Column.ORIGIN] = transactions[reported, Column.TIME]
    rows[:, Column.AMOUNT] = transactions[reported, Column.AMOUNT]
    rows[:, Column.ID] = [
        outcome_id(name, Kind.FRAUD_LABEL, delta=1, reported_ms=time)
        for name, time in zip(names, times_ms.tolist(), strict=True)
    ]
    for column in KEYS.values():
        rows[:, column] = transactions[reported, column]
    return rows


def _reported_at_ms(frame: pl.DataFrame) -> NDArray[np.int64]:
    if "reported_at" not in frame.columns:
        return np.full(len(frame), -1, np.int64)
    times = frame["reported_at"].dt.epoch("ms").fill_null(-1).to_numpy()
    return np.where(frame["is_fraud"].to_numpy(), times, -1).astype(np.int64)


def _typologies(frame: pl.DataFrame, known: dict[str, int]) -> NDArray[np.int32]:
    """The number of each row's typology. Those that are not known yet get the next numbers, in alphabetical order."""
    if "typology" in frame.columns:
        for name in frame["typology"].drop_nulls().cast(pl.String).unique().sort():
            known.setdefault(name, len(known))
    return _by_value(frame, "typology", lambda name: known[name or ""]).astype(np.int32)


def _amounts(frame: pl.DataFrame, currencies: CurrencyTable) -> NDArray[np.int64]:
    """Amounts in the base currency; 0 where the table has no rate, as in the service."""
    amounts = frame["amount"].to_numpy().astype(np.int64)
    for currency in frame["currency"].unique().sort():
        if currency != currencies.base:
            rows = (frame["currency"] == currency).to_numpy()
            distinct, inverse = np.unique(amounts[rows], return_inverse=True)
            amounts[rows] = np.array([currencies.to_base(value, currency) or 0 for value in distinct.tolist()])[inverse]
    limited: NDArray[np.int64] = np.minimum(amounts, AMOUNT_LIMIT)
    return limited


def _by_value(frame: pl.DataFrame, name: str, code: Callable[[Any], int]) -> NDArray[np.int64]:
    """Apply the service's scalar function once to each distinct value of a column; an absent column is all missing."""
    if name not in frame.columns:
        return np.full(len(frame), code(None), np.int64)
    column = frame[name]
    if column.dtype == pl.Categorical or isinstance(column.dtype, pl.Enum):
        column = column.cast(pl.String)
    distinct = column.unique()
    codes = pl.Series([code(value) for value in distinct.to_list()], dtype=pl.Int64)
    return column.replace_strict(distinct, codes, return_dtype=pl.Int64).to_numpy()
