"""Streams of events to fold: a step says what happens next at a few cards and merchants; steps become event rows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import numpy as np
import numpy.typing as npt

from service.features.entry import FIELD_COLUMNS, MISSING, Column
from tests.features.oracle import Event, Kind

Rows = npt.NDArray[np.int64]

START_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z: no tile of any length begins here
SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

PLACES = (  # 10^-4 degree; the poles, the date line and both sides of a whole degree are among them
    (488_566, 23_522),
    (488_600, 23_500),
    (-338_688, 1_512_093),
    (179_999, -1_799_999),
    (180_001, 1_800_000),
    (900_000, 0),
    (-900_000, -1_800_000),
    (0, 0),
)


class Action(StrEnum):
    """What a step does."""

    ATTEMPT = "attempt"
    RETRY = "retry"
    INCREMENT = "increment"
    LABEL = "label"
    DECLINE = "decline"
    VOID = "void"
    AGAIN = "again"
    AGAIN_ELSEWHERE = "again_elsewhere"


@dataclass(frozen=True)
class Step:
    """What happens next. Indices choose among few values, so that logs get long; 0 means the field is missing.

    `wait_ms` passes before the step arrives, and it happened `late_ms` before that. `back` counts earlier transactions
    backwards to the one that a follow-up, an outcome, a void or a duplicate is about. An outcome may claim that its
    transaction happened `ahead_ms` later than it did.
    """

    action: Action = Action.ATTEMPT
    wait_ms: int = MINUTE_MS
    late_ms: int = 0
    back: int = 0
    ahead_ms: int = 0
    card: int = 1
    merchant: int = 1
    terminal: int = 0
    device: int = 0
    customer: int = 0
    amount: int = 1_000
    category: int = 0
    country: int = 0
    card_country: int = 0
    place: int = 0


def rows_of(steps: Sequence[Step], *, start_ms: int = START_MS) -> Rows:
    """The steps as event rows in arrival order."""
    rows: list[Rows] = []
    transactions: list[Rows] = []
    labels: dict[int, int] = {}
    clock_ms = start_ms
    for index, step in enumerate(steps):
        clock_ms += step.wait_ms
        about = earlier(step, transactions)
        row = (
            attempt(step, index, clock_ms)
            if about is None or step.action is Action.ATTEMPT
            else later_row(step, about, index, clock_ms, labels)
        )
        rows.append(row)
        if row[Column.KIND] in {Kind.ATTEMPT, Kind.FOLLOW_UP}:
            transactions.append(row)
    return np.array(rows, np.int64).reshape(len(rows), len(Column))


def earlier(step: Step, transactions: Sequence[Rows]) -> Rows | None:
    """The transaction that a step is about."""
    return next(islice(reversed(transactions), step.back % max(1, len(transactions)), None), None)


def attempt(step: Step, index: int, clock_ms: int) -> Rows:
    """The row of a transaction."""
    row = MISSING.copy()
    row[Column.KIND] = Kind.ATTEMPT
    row[Column.ID] = mixed(index + 1, bits=48)
    row[Column.TIME] = row[Column.ORIGIN] = clock_ms - step.late_ms
    row[Column.AMOUNT] = step.amount
    for column, value in (
        (Column.CARD, step.card),
        (Column.MERCHANT, step.merchant),
        (Column.TERMINAL, step.terminal),
        (Column.DEVICE, step.device),
        (Column.CUSTOMER, step.customer),
    ):
        row[column] = token(value)
    row[Column.MCC] = step.category - 1
    row[Column.MERCHANT_COUNTRY], row[Column.CARD_COUNTRY] = step.country, step.card_country
    row[Column.IP_COUNTRY] = max(0, step.country - 1)
    row[Column.BILLING_COUNTRY], row[Column.SHIPPING_COUNTRY] = step.device % 3, step.merchant % 3
    row[Column.CHANNEL] = step.merchant % 5
    if step.place:
        row[Column.LATITUDE], row[Column.LONGITUDE] = PLACES[step.place - 1]
    return row


def later_row(step: Step, about: Rows, index: int, clock_ms: int, labels: dict[int, int]) -> Rows:
    """The row of a step that is about an earlier transaction; `labels` keeps each transaction's current label."""
    if step.action in {Action.AGAIN, Action.AGAIN_ELSEWHERE}:
        again = about.copy()
        if step.action is Action.AGAIN_ELSEWHERE:
            again[Column.CARD] = token(step.card)
        return again
    if step.action in {Action.RETRY, Action.INCREMENT}:
        return follow_up(step, about, index, clock_ms)
    row = about.copy() if step.action is Action.VOID else outcome(about, step.ahead_ms)
    row[Column.ID] = mixed(index + 1, bits=48)
    row[Column.TIME] = clock_ms - step.late_ms
    if step.action is Action.VOID:
        attempt = about[Column.KIND] == Kind.ATTEMPT
        row[Column.KIND], row[Column.DELTA] = Kind.VOID, -1 if attempt else 0
        row[Column.AMOUNT] = about[Column.AMOUNT] if attempt else about[Column.ADDED]
    elif step.action is Action.DECLINE:
        row[Column.KIND] = Kind.ISSUER_DECLINE
    else:
        before = labels.get(int(about[Column.ID]), 0)
        labels[int(about[Column.ID])] = 1 - before
        row[Column.KIND], row[Column.DELTA] = Kind.FRAUD_LABEL, 1 - 2 * before
        row[Column.AMOUNT] = about[Column.AMOUNT]
    return row


def follow_up(step: Step, about: Rows, index: int, clock_ms: int) -> Rows:
    row = attempt(step, index, clock_ms)
    row[Column.KIND] = Kind.FOLLOW_UP
    row[Column.ADDED] = step.amount if step.action is Action.INCREMENT else 0
    row[Column.CARD], row[Column.MERCHANT] = about[Column.CARD], about[Column.MERCHANT]
    return row


def outcome(about: Rows, ahead_ms: int) -> Rows:
    row = MISSING.copy()
    row[Column.ORIGIN] = about[Column.ORIGIN] + ahead_ms
    for column in (Column.CARD, Column.MERCHANT, Column.TERMINAL, Column.DEVICE, Column.CUSTOMER):
        row[column] = about[column]
    return row


def token(index: int) -> int:
    """A token's hash: 64 mixed bits as a signed integer, 0 for 0 (missing)."""
    value = mixed(index, bits=64)
    return value - (1 << 64) if value >= 1 << 63 else value


def mixed(index: int, *, bits: int) -> int:
    """An integer spread over `bits` bits, different for different indices below 2**32, and 0 only for 0."""
    return index * 0x9E3779B97F4A7C15 % (1 << bits)


def events_of(rows: Rows) -> list[Event]:
    """Event rows in the oracle's words."""
    return [event_of(row) for row in rows.tolist()]


def event_of(row: Sequence[int]) -> Event:
    fields = {
        name: None if row[column] == MISSING[column] and name != "amount" else row[column]
        for name, column in FIELD_COLUMNS.items()
    }
    own = (Column.KIND, Column.ID, Column.TIME, Column.ORIGIN, Column.ADDED, Column.DELTA)
    return fields | {column.name.lower(): row[column] for column in own}


WAITS_MS = (
    0, 0, 1, 999, SECOND_MS, 7 * SECOND_MS, MINUTE_MS, 11 * MINUTE_MS, HOUR_MS, 13 * HOUR_MS, DAY_MS, 5 * DAY_MS,
)  # fmt: skip
LONG_WAITS_MS = (21 * DAY_MS, 90 * DAY_MS, 90 * DAY_MS + 1)
LATE_MS = (0, 0, 0, 0, 0, SECOND_MS, MINUTE_MS, HOUR_MS, 30 * HOUR_MS, 4 * DAY_MS, 20 * DAY_MS)
AMOUNTS = (  # the last is more than a decayed weight can hold
    0,
    1,
    99,
    100,
    2_550,
    2_550,
    4_000,
    99_999,
    9_999_999,
    10_000_000,
    123_456_789_012,
    10**12,
    2 * 10**13,
)
ACTIONS = (
    *[Action.ATTEMPT] * 12, *[Action.LABEL] * 3, *[Action.AGAIN] * 2,
    Action.RETRY, Action.INCREMENT, Action.DECLINE, Action.VOID, Action.AGAIN_ELSEWHERE,
)  # fmt: skip


def random_steps(seed: int, size: int, *, entities: int = 3, wait_ms: int | None = None) -> list[Step]:
    """A seeded stream of `size` steps over about `entities` cards.

    Args:
        seed: the same seed gives the same steps.
        size: how many.
        entities: how many cards; there are as many merchants, terminals, devices and customers.
        wait_ms: the mean time between steps; None draws it anew for each step, from nothing to days.
    """
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream, nothing secret

    def one_of(count: int) -> int:
        return rng.randint(1, count)

    def maybe(count: int) -> int:
        return rng.randint(0, count)

    return [
        Step(
            action=rng.choice(ACTIONS),
            wait_ms=rng.choice(WAITS_MS) if wait_ms is None else rng.choice((0, 1, 1, 2)) * wait_ms,
            late_ms=rng.choice(LATE_MS) if rng.random() < 0.3 else 0,
            back=rng.choice((0, 0, 1, 2, 5, 20, rng.randint(0, 200))),
            ahead_ms=rng.choice(LATE_MS),
            card=one_of(entities),
            merchant=one_of(entities),
            terminal=maybe(entities),
            device=maybe(entities),
            customer=maybe(entities),
            amount=rng.choice(AMOUNTS),
            category=maybe(6),
            country=maybe(3),
            card_country=maybe(3),
            place=maybe(len(PLACES)),
        )
        for _ in range(size)
    ]
