"""Histories that are always the same: payments drawn by integer arithmetic, and the logs they left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.features.encoding import encode
from service.features.entry import MISSING, Column, Kind
from service.features.joined import Joined
from service.features.offline import base_of
from service.features.plan import Plan

NOW_MS = 1_780_000_000_000  # 2026-05-28T20:26:40Z, when the payments that are scored happen
FIRST_BIRTH_MS = 0  # of the store: old enough to know what is new
COUNTRIES = 8
CATEGORIES = 20
PAST = (60, 400, 200, 40)  # events in the log of a card, a merchant, a terminal, a device
GAP_MS = (43_000_000, 1_300_000, 9_000_000, 60_000_000)  # mean time between them
LABEL_EVERY, FOLLOW_UP_EVERY = 31, 29  # events


@dataclass(frozen=True, slots=True)
class Waiting:
    """Payments that are scored together.

    Attributes:
        rows: int64 (n, columns).
        values: n · entities logs as a store returns them, each ending in the payment's own entry.
        births_ms: by log.
    """

    rows: NDArray[np.int64]
    values: Joined
    births_ms: Sequence[int]


def waiting(plan: Plan, count: int) -> Waiting:
    """The first `count` of a fixed row of payments, each with logs of mixed lengths."""
    rows = _payments(np.arange(count), NOW_MS + 1_000 * np.arange(count))
    values = [_log(plan, k, place, rows[place]) for place in range(count) for k in range(len(plan.entities))]
    return Waiting(rows, Joined.of(values), [FIRST_BIRTH_MS] * len(values))


def _log(plan: Plan, k: int, place: int, own: NDArray[np.int64]) -> bytes:
    """A base, what came after it, and the payment: as long as a log between two compactions is."""
    past = PAST[k] + 7 * place
    numbers = 1_000_000 * (k + 1) + 1_000 * place + np.arange(past)
    gaps_ms = _mixed(numbers, salt=1) % (2 * GAP_MS[k])
    events = _payments(numbers, int(own[Column.TIME]) - np.cumsum(gaps_ms)[::-1])
    events[::LABEL_EVERY] = _labels(events[::LABEL_EVERY])
    events[FOLLOW_UP_EVERY::FOLLOW_UP_EVERY, Column.KIND] = Kind.FOLLOW_UP
    log = plan.spec.entities[k].log
    behind = log.keep + (5 * place + 3 * k) % log.compact_at
    entries = [encode(plan, event, k) for event in [*events[past - behind :], own]]
    return base_of(plan, k, events[: past - behind]) + b"".join(entries)


def _payments(numbers: NDArray[np.int64], times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """A payment for each number at its time: int64 (n, columns)."""
    rows = np.tile(MISSING, (len(numbers), 1))
    rows[:, Column.KIND] = Kind.ATTEMPT
    rows[:, Column.ID] = _mixed(numbers, salt=2) % (1 << 48)
    rows[:, Column.TIME] = rows[:, Column.ORIGIN] = times_ms
    rows[:, Column.AMOUNT] = 100 + _mixed(numbers, salt=3) % 20_000
    for salt, (column, choices) in enumerate(
        [(Column.CARD, 30), (Column.MERCHANT, 40), (Column.TERMINAL, 10), (Column.DEVICE, 4)], start=4
    ):
        rows[:, column] = _mixed(_mixed(numbers, salt=salt) % choices, salt=column) | 1
    rows[:, Column.MCC] = _mixed(numbers, salt=8) % CATEGORIES
    for column in (Column.MERCHANT_COUNTRY, Column.CARD_COUNTRY, Column.IP_COUNTRY):
        rows[:, column] = 1 + _mixed(numbers, salt=column) % COUNTRIES
    rows[:, Column.LATITUDE] = 480_000 + _mixed(numbers, salt=9) % 20_000
    rows[:, Column.LONGITUDE] = 20_000 + _mixed(numbers, salt=10) % 20_000
    return rows


def _labels(transactions: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of some payments, in their place, the report that another one a week before was fraud."""
    rows = np.tile(MISSING, (len(transactions), 1))
    rows[:, Column.KIND] = Kind.FRAUD_LABEL
    rows[:, [Column.ID, Column.TIME]] = transactions[:, [Column.ID, Column.TIME]]
    rows[:, Column.ORIGIN] = transactions[:, Column.TIME] - 7 * 86_400_000
    rows[:, Column.DELTA] = 1
    return rows


def _mixed(numbers: NDArray[np.int64], *, salt: int) -> NDArray[np.int64]:
    """63 bits for each number that look drawn (SplitMix64, Steele et al. 2014)."""
    z = numbers.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
