"""A stream of payments as bad as they come: ties, lateness, retries, outcomes taken back, months of silence."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from service.scorer import ScoreRequest
from service.transaction import Outcome, read_outcome, write_instant
from tests.scoring import START_MS

DAY_MS = 24 * 3600 * 1000
SILENCE_MS = 95 * DAY_MS  # longer than the horizon
LATE_SHARE, LATEST_MS = 0.1, 3 * DAY_MS
RETRIED_SHARE, AT_ONCE_SHARE = 0.04, 0.01
COUNTRIES = ("DE", "FR", "NL", "US", "GB")
CHANNELS = ("ecommerce", "pos", "atm", "recurring")


@dataclass(frozen=True)
class Payment:
    """One payment, and how it is sent."""

    request: ScoreRequest
    retried: bool
    at_once: bool


@dataclass(frozen=True)
class Told:
    """One outcome, and when it arrives."""

    outcome: Outcome
    arrival_ms: int


def stream(count: int, *, seed: int, cards: int = 3_000, merchants: int = 200) -> Iterator[Payment | Told]:
    """So many payments in the order of their arrival, with outcomes of some of them in between."""
    rng = np.random.default_rng(seed)
    clock_ms = START_MS
    names: list[str] = []
    for index in range(count):
        clock_ms += 60_000 if index % 7 == 0 else 0 if index % 7 in {1, 2} else 1_000 * int(rng.integers(1, 90))
        if index == count * 3 // 5:
            clock_ms += SILENCE_MS
        late_ms = int(rng.integers(LATEST_MS)) if rng.random() < LATE_SHARE else 0
        name = f"tx-{seed}-{index}"
        names.append(name)
        luck = rng.random()
        yield Payment(
            _request(rng, clock_ms, late_ms, names, card=_popular(rng, cards), merchant=_popular(rng, merchants)),
            retried=luck < RETRIED_SHARE,
            at_once=RETRIED_SHARE <= luck < RETRIED_SHARE + AT_ONCE_SHARE,
        )
        if rng.random() < 0.05:
            yield Told(_outcome(rng, names[int(rng.integers(max(0, index - 500), index + 1))], clock_ms), clock_ms)


def _popular(rng: np.random.Generator, size: int) -> int:
    """Few come often, most rarely."""
    return int(size * rng.random() ** 3)


def _request(
    rng: np.random.Generator, arrival_ms: int, late_ms: int, names: list[str], *, card: int, merchant: int
) -> ScoreRequest:
    fields: dict[str, object] = {
        "transaction_id": names[-1],
        "timestamp": write_instant(arrival_ms - late_ms),
        "card_id": f"card-{card}",
        "merchant_id": f"merchant-{merchant}",
        "amount": int(rng.lognormal(8, 1.2)),
        "currency": "EUR",
        "merchant_category_code": f"{5000 + merchant % 40}",
        "merchant_country": COUNTRIES[merchant % 5],
        "card_country": COUNTRIES[card % 3],
        "channel": CHANNELS[merchant % 4],
    }
    if merchant % 2:
        fields["terminal_id"] = f"terminal-{merchant}-{int(rng.integers(3))}"
        fields |= {"latitude": 48 + merchant % 7 + 0.01 * (index := card % 9), "longitude": 8 + index / 10}
    else:
        fields["device_id"] = f"device-{card // 2}"
    if rng.random() < 0.05 and len(names) > 1:
        fields |= {"follows": names[-2], "follow_kind": str(rng.choice(["retry", "after_challenge", "incremental"]))}
    body = orjson.dumps(fields)
    return ScoreRequest.read(body, arrival_ms=arrival_ms, allow_card_numbers=False)


def _outcome(rng: np.random.Generator, name: str, clock_ms: int) -> Outcome:
    kind = str(rng.choice(["confirmed_fraud", "withdrawn", "issuer_declined", "refund", "early_fraud_warning"]))
    body = orjson.dumps({
        "transaction_id": name,
        "type": kind,
        "occurred_at": write_instant(clock_ms),
        "reported_at": write_instant(clock_ms),
    })  # fmt: skip
    return read_outcome(body, arrival_ms=clock_ms, allow_card_numbers=False)
