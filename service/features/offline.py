"""The engine over a table of events: what training sees, computed by the code that serves."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.features.bases import NO_BASES, Bases
from service.features.compiled import Bytes, Float32s, Float64s, Int, Ints, entry_point
from service.features.entry import Column
from service.features.kernel import (
    ATTEMPT,
    C_ID,
    C_TIME,
    FOLLOW_UP,
    N_MEASURES,
    accept,
    advance,
    apply,
    read_known,
    read_transaction,
    remembered,
)
from service.features.plan import END_FEATURE, RING_AT, SPEC_HASH, STATE_SIZE, Plan
from service.features.state import BASE_HEADER, REV, begin, read_base, write_base

LONG_AGO = -(1 << 62)  # a birth so early that no entity is unknown


@dataclass(frozen=True, slots=True)
class Folded:
    """Features of a table of events.

    Attributes:
        numeric: float32 (rows, features), NaN where missing; rows that are not transactions are all NaN.
        revs: int64 (rows, entities), entries of that log accepted before this one; -1 where the event is not in
            that entity's log or was a duplicate.
    """

    numeric: NDArray[np.float32]
    revs: NDArray[np.int64]


class Fold:
    """The engine over a table that comes in pieces: what a log has become by one is where the next continues.

    Example:
        >>> fold = Fold(plan)
        >>> pieces = [fold.take(events[:1000]), fold.take(events[1000:])]  # as fold_events(plan, events), cut in two

    It remembers the base of every log that it saw, some hundred bytes each (`service.features.state`).
    """

    def __init__(self, plan: Plan, *, born_at_ms: int | None = None) -> None:
        """See `fold_events`."""
        self._plan = plan
        self._born_at_ms = born_at_ms
        self._bases = [NO_BASES] * len(plan.entities)

    def take(self, events: NDArray[np.int64], *, last: bool = False, partitions: int = 1, threads: int = 1) -> Folded:
        """Compute every feature of every transaction among further events; see `fold_events`.

        After the `last` there are no more, so that nothing has to be remembered.
        """
        plan = self._plan
        folded = Folded(
            np.full((len(events), len(plan.numeric)), np.nan, np.float32),
            np.full((len(events), len(plan.entities)), -1, np.int64),
        )
        if len(events) == 0:
            return folded
        if self._born_at_ms is None:
            self._born_at_ms = int(events[0, Column.TIME])
        born_at, partitions = self._born_at_ms, max(partitions, threads)
        with ThreadPoolExecutor(threads) as pool:
            for k in range(len(plan.entities)):
                self._take_entity(k, events, folded, pool, born_at=born_at, last=last, partitions=partitions)
        first_own = int(plan.tables.entities[-1, END_FEATURE])
        fold_transactions(events, first_own, plan.tables.features, folded.numeric)
        return folded

    def _take_entity(
        self,
        k: int,
        events: NDArray[np.int64],
        folded: Folded,
        pool: ThreadPoolExecutor,
        *,
        born_at: int,
        last: bool,
        partitions: int,
    ) -> None:
        """Write the features of one entity kind, and remember what its logs have become."""
        plan, before = self._plan, self._bases[k]
        order, starts = logs(events, plan.key_columns[k])
        keys = events[order[starts[:-1]], plan.key_columns[k]]
        seed_starts, seed_ends = before.find(keys)
        lengths = np.zeros(0 if last else len(keys), np.int64)
        parts = [
            pool.submit(
                fold_columns, events, order, starts, first, end, k, born_at, before.content, seed_starts,
                seed_ends, *plan.tables[:7], folded.numeric, folded.revs, lengths,
            )
            for first, end in _ranges(starts, partitions)
        ]  # fmt: skip
        contents = [part.result() for part in parts]
        if not last:
            self._bases[k] = before.updated(Bases.of(keys, lengths, contents))


def fold_events(
    plan: Plan, events: NDArray[np.int64], *, born_at_ms: int | None = None, partitions: int = 1, threads: int = 1
) -> Folded:
    """Compute every feature of every transaction among `events`.

    Args:
        plan: the compiled spec.
        events: int64 (rows, columns), in arrival order; equal to the order in which a store would accept them.
        born_at_ms: effective time of the first entry the store ever accepted; by default the first event's.
        partitions: how many parts the logs are cut into; the result does not depend on it.
        threads: how many parts are folded at once (the kernel releases the interpreter lock).
    """
    return Fold(plan, born_at_ms=born_at_ms).take(events, last=True, partitions=partitions, threads=threads)


def fold_logs(
    plan: Plan, k: int, events: NDArray[np.int64], starts: NDArray[np.int64], seeds: Sequence[bytes]
) -> Folded:
    """Compute the features of logs of entity kind k as a store kept them: each entry in its place, none twice.

    Args:
        plan: the compiled spec.
        k: which entity.
        events: int64 (rows, columns), log by log in the order of their revs. A transaction's row may hold more than
            its entry does: what a feature reads of the transaction itself.
        starts: int64 (logs + 1), where each log begins in `events`.
        seeds: by log, the base it begins with; b"" where it begins with its first entry.

    Returns:
        The entity's own columns of `Folded.numeric`, every entity without a past being new; and its revs, (rows, 1).
    """
    assert len(seeds) == len(starts) - 1, (len(seeds), len(starts))
    own = plan.entity_features[k]
    numeric = np.full((len(events), len(plan.numeric)), np.nan, np.float32)
    revs = np.full((len(events), len(plan.entities)), -1, np.int64)
    ends = np.cumsum([0, *map(len, seeds)])
    fold_columns(
        events, np.arange(len(events)), starts, 0, len(seeds), k, LONG_AGO,
        np.frombuffer(b"".join(seeds), np.uint8), ends[:-1], ends[1:], *plan.tables[:7], numeric, revs,
        np.empty(0, np.int64),
    )  # fmt: skip
    return Folded(numeric[:, own], revs[:, k : k + 1])


def differing(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where features of the same shape differ; two that are missing do not."""
    found: NDArray[np.bool_] = (left != right) & ~(np.isnan(left) & np.isnan(right))
    return found


def categorical_codes(plan: Plan, events: NDArray[np.int64]) -> NDArray[np.int64]:
    """The graph's categorical input: int64 (rows, categories), raw codes as the entry module defines them."""
    return np.ascontiguousarray(events[:, list(plan.categorical_columns)])


def logs(events: NDArray[np.int64], key_column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group a table's rows by entity.

    Returns:
        order: row numbers, grouped by log, in arrival order within each; without rows that do not name the entity.
        starts: where each log begins in `order`, and its end.
    """
    keys = events[:, key_column]
    order = np.argsort(keys, kind="stable").astype(np.int64)
    order = order[keys[order] != 0]
    grouped = keys[order]
    changes = np.flatnonzero(grouped[1:] != grouped[:-1]) + 1
    starts = np.concatenate([[0], changes, [len(order)]]) if len(order) else np.zeros(1, np.int64)
    return order, starts.astype(np.int64)


def bases(plan: Plan, events: NDArray[np.int64], k: int) -> Iterator[tuple[int, bytes]]:
    """The base of each log of entity kind k after all `events`: (row of its last event, base).

    This is the hand-off: a store that begins with these continues as if it had seen the events itself.
    """
    order, starts = logs(events, plan.key_columns[k])
    tables = plan.tables
    out = np.empty(plan.base_space(k), np.uint8)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        rows = order[first:last]
        length = final_base(events, rows, k, *tables[:5], out)
        yield int(rows[-1]), out[:length].tobytes()


def base_of(plan: Plan, k: int, events: NDArray[np.int64]) -> bytes:
    """The base of one log of entity kind k after `events` (int64, one row each), in their order."""
    out = np.empty(plan.base_space(k), np.uint8)
    length = final_base(events, np.arange(len(events)), k, *plan.tables[:5], out)
    return out[:length].tobytes()


def _ranges(starts: NDArray[np.int64], parts: int) -> Iterator[tuple[int, int]]:
    """Cut the logs into ranges with about equally many events each."""
    count = len(starts) - 1
    edges = np.searchsorted(starts, np.linspace(0, starts[-1], parts + 1)[1:-1], side="left")
    cuts = [0, *(int(edge) for edge in edges), count]
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        if first < last:
            yield first, last


# ---------------------------------------------------------------- compiled


@entry_point
def fold_columns(
    events: Ints,
    order: Ints,
    starts: Ints,
    first: Int,
    last: Int,
    k: Int,
    born_at: Int,
    seeds: Bytes,
    seed_starts: Ints,
    seed_ends: Ints,
    entities: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    features: Ints,
    defaults: Float64s,
    numeric: Float32s,
    revs: Ints,
    lengths: Ints,
) -> Bytes:
    """Features of one entity kind over a table of events, for the logs first .. last.

    Args:
        events: int64 (rows, columns), in arrival order.
        order: int64, row numbers grouped by log, in log order within each.
        starts: int64 (logs + 1), where each log begins in `order`.
        first, last: the logs to fold, as positions in `starts`; they are independent, so threads can share the work.
        k: which entity.
        born_at: effective time of the first entry of all.
        seeds: uint8, the bases that logs begin with.
        seed_starts: int64 (logs,), where each log's base begins in `seeds`.
        seed_ends: int64 (logs,), where it ends: where it begins, if the log begins empty.
        entities, windows, sets, decays, registers, features, defaults: the plan's tables.
        numeric: float32 (rows, features), this entity's columns are written for transactions.
        revs: int64 (rows, entities), written: entries accepted before this one, -1 where it was a duplicate.
        lengths: int64 (logs,), written: how long the base is that each log has come to. Empty if nobody wants these.

    Returns:
        These bases, one after the other.
    """
    entity = entities[k]
    state, added = np.empty(entity[STATE_SIZE], np.int64), np.empty(N_MEASURES, np.int64)
    space = 10 * entity[STATE_SIZE] + BASE_HEADER
    content, size = np.empty(space, np.uint8), 0
    for log in range(first, last):
        begin(state)
        if seed_starts[log] < seed_ends[log]:
            read_base(seeds, seed_starts[log], seed_ends[log], entity[RING_AT], state)
        for position in range(starts[log], starts[log + 1]):
            row = order[position]
            event = events[row]
            if remembered(state, entity, event[C_ID]) >= 0:
                revs[row, k] = -1
                continue
            as_of = advance(state, entity, windows, event[C_TIME])
            revs[row, k] = state[REV]
            if event[0] in (ATTEMPT, FOLLOW_UP):
                read_known(
                    state,
                    entity,
                    windows,
                    sets,
                    decays,
                    features,
                    defaults,
                    event,
                    event[C_TIME],
                    as_of,
                    born_at,
                    numeric[row],
                )
            apply(state, entity, windows, sets, decays, registers, event, added, as_of)
        if lengths.shape[0] == 0:
            continue
        if size + space > content.shape[0]:
            longer = np.empty(2 * (size + space), np.uint8)
            longer[:size] = content[:size]
            content = longer
        lengths[log] = write_base(state, entity[RING_AT], entity[SPEC_HASH], content[size:])
        size += lengths[log]
    return content[:size]


@entry_point
def fold_transactions(events: Ints, first: Int, features: Ints, numeric: Float32s) -> None:
    """The history-free features of every transaction in a table of events, from feature `first` on."""
    for row in range(events.shape[0]):
        if events[row, 0] in (ATTEMPT, FOLLOW_UP):
            read_transaction(features, first, events[row], numeric[row])


@entry_point
def final_base(
    events: Ints,
    rows: Ints,
    k: Int,
    entities: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    out: Bytes,
) -> Int:
    """The base of one log after all its events: the hand-off from history to the live store. Returns its length."""
    entity = entities[k]
    state, added = np.empty(entity[STATE_SIZE], np.int64), np.empty(N_MEASURES, np.int64)
    begin(state)
    for row in rows:
        accept(state, entity, windows, sets, decays, registers, events[row], added)
    return write_base(state, entity[RING_AT], entity[SPEC_HASH], out)
