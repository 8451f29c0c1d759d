"""The engine over the bytes a store returns: what serving sees, computed by the code that trains."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.features.compiled import Bytes, Float32s, Float64s, Int, Ints, Words, compiled, entry_point, int64
from service.features.entry import MISSING
from service.features.joined import NO_STRING, Joined
from service.features.kernel import (
    ABSENT,
    C_ID,
    C_TIME,
    COMPACTABLE,
    DUPLICATE,
    N_COLUMNS,
    N_MEASURES,
    RETRIED,
    UNAVAILABLE,
    advance,
    apply,
    read_known,
    read_transaction,
    remembered,
)
from service.features.log import count_entries, next_entry, open_log, time_at
from service.features.plan import COMPACT_AT, END_FEATURE, FIRST_FEATURE, KEEP, KEY_COLUMN, STATE_SIZE, Plan
from service.features.repeats import MARK_WORDS, some_id_repeats
from service.features.spec import DAY_MS
from service.features.state import REV

RENEW_AFTER_MS = 30 * DAY_MS  # a log whose oldest entry is older is compacted, which renews its expiry in the store
NOT_SEEN = -1  # instead of a rev, what `remembered` says of an id that it does not find


class Histories(NamedTuple):
    """What the kernel made of the logs of a batch of n transactions.

    Attributes:
        numeric: float32 (n, features), NaN where missing.
        categorical: int64 (n, categories), raw codes.
        revs: int64 (n, entities), entries accepted before mine; -1 where unknown.
        lateness_ms: int64 (n, entities), as_of − event time.
        findings: int64 (n, entities), the kernel's bits, FOLDED to COMPACTABLE.
    """

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    revs: NDArray[np.int64]
    lateness_ms: NDArray[np.int64]
    findings: NDArray[np.int64]

    def at(self, places: Sequence[int]) -> "Histories":
        """Those of some of the transactions."""
        if len(places) == len(self.revs):
            return self
        chosen = list(places)
        return Histories(
            self.numeric[chosen],
            self.categorical[chosen],
            self.revs[chosen],
            self.lateness_ms[chosen],
            self.findings[chosen],
        )


def fold(
    plan: Plan, rows: NDArray[np.int64], values: Joined, *, births_ms: Sequence[int] | NDArray[np.int64]
) -> Histories:
    """Features of a batch of transactions.

    Args:
        plan: the compiled spec.
        rows: int64 (n, columns).
        values: n · entities logs, transaction by transaction, each holding the transaction's own entry; empty where
            the transaction does not name the entity, none where the store did not answer.
        births_ms: by log, effective time of the first entry ever accepted where it is kept.
    """
    count, kinds = len(rows), len(plan.entities)
    assert len(values.lengths) == count * kinds, (len(values.lengths), count, kinds)
    histories = Histories(
        np.empty((count, len(plan.numeric)), np.float32),
        np.empty((count, len(plan.categorical)), np.int64),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
    )
    fold_histories(
        values.buffer, values.lengths, np.asarray(births_ms, np.int64), rows, *plan.tables,
        histories.numeric, histories.categorical, histories.revs, histories.lateness_ms, histories.findings,
    )  # fmt: skip
    return histories


# ---------------------------------------------------------------- compiled


@entry_point
def fold_histories(
    values: Bytes,
    lengths: Ints,
    births: Ints,
    rows: Ints,
    entities: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    features: Ints,
    defaults: Float64s,
    layout: Ints,
    categories: Ints,
    numeric: Float32s,
    categorical: Ints,
    revs: Ints,
    lateness: Ints,
    findings: Ints,
) -> None:
    """Features of a batch of transactions from the bytes of their entities' logs.

    Args:
        values: uint8, all logs one after the other; transaction i's own entry is in each of its logs.
        lengths: int64 (n · entities), of each log; `NO_STRING` where the store gave none.
        births: int64 (n · entities), effective time of the first entry ever accepted where each log is kept.
        rows: int64 (n, columns), the transactions.
        entities, windows, sets, decays, registers, features, defaults, layout, categories: the plan's tables.
        numeric: float32 (n, features), written.
        categorical: int64 (n, categories), written.
        revs: int64 (n, entities), written: entries accepted before mine, -1 where unknown.
        lateness: int64 (n, entities), written: as_of − event time in milliseconds.
        findings: int64 (n, entities), written: bits FOLDED .. COMPACTABLE.
    """
    kinds = entities.shape[0]
    state = np.empty(entities[:, STATE_SIZE].max(), np.int64)
    event, added = np.empty(N_COLUMNS, np.int64), np.empty(N_MEASURES, np.int64)
    marks = np.empty(MARK_WORDS, np.uint64)
    start = int64(0)
    for i in range(rows.shape[0]):
        for k in range(kinds):
            entity, log = entities[k], i * kinds + k
            end = start + max(lengths[log], 0)
            revs[i, k], lateness[i, k] = NOT_SEEN, 0
            if rows[i, entity[KEY_COLUMN]] == 0:
                findings[i, k] = ABSENT
            elif lengths[log] == NO_STRING:
                findings[i, k] = UNAVAILABLE
            else:
                findings[i, k], revs[i, k], lateness[i, k] = _fold_log(
                    values, start, end, entity, windows, sets, decays, registers, features, defaults, layout,
                    rows[i], births[log], state[: entity[STATE_SIZE]], event, added, marks, numeric[i],
                )  # fmt: skip
            if revs[i, k] == NOT_SEEN:
                numeric[i, entity[FIRST_FEATURE] : entity[END_FEATURE]] = math.nan
            start = end
        read_transaction(features, entities[kinds - 1, END_FEATURE], rows[i], numeric[i])
        for category in range(categories.shape[0]):
            categorical[i, category] = rows[i, categories[category]]


@compiled
def _fold_log(
    values: Bytes,
    start: Int,
    end: Int,
    entity: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    features: Ints,
    defaults: Float64s,
    layout: Ints,
    mine: Ints,
    born_at: Int,
    state: Ints,
    event: Ints,
    added: Ints,
    marks: Words,
    out: Float32s,
) -> tuple[Int, Int, Int]:
    """Read my features from a log, unless it cannot be read. Returns (finding, rev, lateness)."""
    first = open_log(values, start, end, entity, sets, state)
    entries = count_entries(values, first, end, entity) if first >= 0 else int64(-1)
    if entries <= 0:
        return UNAVAILABLE, int64(NOT_SEEN), int64(0)
    some_repeat = some_id_repeats(values, first, end, entity, state, marks)
    finding, rev, lateness = _fold_entries(
        values, first, end, entity, windows, sets, decays, registers, features, defaults, layout, mine, born_at,
        state, event, added, some_repeat, out,
    )  # fmt: skip
    long = entries >= entity[COMPACT_AT] + entity[KEEP]
    if long or mine[C_TIME] - time_at(values, first) > RENEW_AFTER_MS:
        finding |= COMPACTABLE
    return finding, rev, lateness


@compiled
def _fold_entries(
    values: Bytes,
    offset: Int,
    end: Int,
    entity: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    features: Ints,
    defaults: Float64s,
    layout: Ints,
    mine: Ints,
    born_at: Int,
    state: Ints,
    event: Ints,
    added: Ints,
    some_repeat: bool,
    out: Float32s,
) -> tuple[Int, Int, Int]:
    """Fold entries up to mine and read my features. Returns (finding, rev, lateness).

    Where my id was accepted twice, because the first was forgotten in between, the second is mine: the same one that
    an offline fold accepts for it. Where my entry was lost on its way back, nothing is read.
    """
    finding, rev, lateness = UNAVAILABLE, int64(NOT_SEEN), int64(0)
    remembered_rev = int64(NOT_SEEN)
    for column in range(N_COLUMNS):
        event[column] = MISSING[column]
    while offset < end:
        offset = next_entry(values, offset, entity, layout, event)
        is_mine = event[C_ID] == mine[C_ID]
        seen = remembered(state, entity, event[C_ID]) if some_repeat else int64(NOT_SEEN)
        if seen != NOT_SEEN:
            if is_mine and rev == NOT_SEEN:
                remembered_rev = seen
            elif is_mine:
                finding |= RETRIED
            continue
        as_of = advance(state, entity, windows, event[C_TIME])
        if is_mine:
            time = event[C_TIME]
            finding = read_known(
                state, entity, windows, sets, decays, features, defaults, mine, time, as_of, born_at, out
            )
            rev, lateness = state[REV], as_of - time
            if not some_repeat:
                break
        apply(state, entity, windows, sets, decays, registers, event, added, as_of)
    if rev == NOT_SEEN and remembered_rev != NOT_SEEN:
        as_of = advance(state, entity, windows, mine[C_TIME])
        read_known(state, entity, windows, sets, decays, features, defaults, mine, mine[C_TIME], as_of, born_at, out)
        return DUPLICATE, remembered_rev, as_of - mine[C_TIME]
    return finding, rev, lateness
