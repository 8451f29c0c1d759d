"""The engine over the bytes a store returns: what serving sees, computed by the code that trains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.features.compiled import Bytes, Flags, Float32s, Float64s, Int, Ints, compiled, entry_point, int64
from service.features.entry import MISSING, read_entry, write_entry
from service.features.kernel import (
    ABSENT,
    ATTEMPT,
    C_ID,
    C_ORIGIN,
    C_TIME,
    COMPACTABLE,
    DUPLICATE,
    FOLLOW_UP,
    N_COLUMNS,
    RETRIED,
    UNAVAILABLE,
    VOID,
    accept,
    advance,
    apply,
    read_known,
    read_transaction,
)
from service.features.plan import (
    COMPACT_AT,
    END_FEATURE,
    FIRST_FEATURE,
    FIRST_LAYOUT,
    KEEP,
    KEY_COLUMN,
    RING_AT,
    RING_SIZE,
    SPEC_HASH,
    STATE_SIZE,
    Plan,
)
from service.features.spec import DAY_MS
from service.features.state import (
    BASE_MARK,
    GENERATION,
    REMEMBERED,
    REV,
    base_length,
    base_spec_hash,
    begin,
    read_base,
    write_base,
)

RENEW_AFTER_MS = 30 * DAY_MS  # a log whose oldest entry is older is compacted, which renews its expiry in the store
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing, for the index of remembered ids

SMALLEST_ENTRY = 13  # bytes: kind, id and time
MAX_ENTRY = 256  # bytes; the widest entry a spec can ask for has 1 + 27 columns of at most 6


@dataclass(frozen=True, slots=True)
class Histories:
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


@dataclass(frozen=True, slots=True)
class Compaction:
    """A base, and the beginning of a log for which it can stand.

    Attributes:
        base: bytes of the base.
        prefix: the bytes it replaces: an earlier base, if there is one, and entries.
        elements: how many of these there are.
        first: the first of them.
        last: the last of them.
        generation: which life of the log this is.
        first_rev: rev of the first of `entries`.
        entries: the replaced entries without duplicates, one after the other; entry i has rev first_rev + i.
    """

    base: bytes
    prefix: bytes
    elements: int
    first: bytes
    last: bytes
    generation: int
    first_rev: int
    entries: bytes


def encode(plan: Plan, row: NDArray[np.int64], k: int) -> bytes:
    """The bytes that an event (int64, one row) adds to the log of its entity of kind k."""
    out = np.empty(MAX_ENTRY, np.uint8)
    length = encode_entry(row, k, plan.tables.entities, plan.tables.layout, out)
    return out[:length].tobytes()


def encode_all(plan: Plan, rows: NDArray[np.int64], wanted: NDArray[np.bool_]) -> list[bytes]:
    """The bytes that events add to the logs of their entities, event by event.

    Args:
        plan: the compiled spec.
        rows: int64 (n, columns).
        wanted: bool (n, entities), whose logs there are; of the others there is nothing in the result.
    """
    out = np.empty(wanted.size * MAX_ENTRY, np.uint8)
    ends = np.empty(wanted.size, np.int64)
    count = encode_entries(rows, wanted, plan.tables.entities, plan.tables.layout, out, ends)
    bounds = [0, *ends[:count].tolist()]
    packed = out[: bounds[-1]].tobytes()
    return [packed[first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]


def fold(
    plan: Plan, rows: NDArray[np.int64], values: Sequence[bytes | None], *, births_ms: Sequence[int] | NDArray[np.int64]
) -> Histories:
    """Features of a batch of transactions.

    Args:
        plan: the compiled spec.
        rows: int64 (n, columns).
        values: n · entities logs, transaction by transaction, each holding the transaction's own entry; b"" where
            the transaction does not name the entity, None where the store did not answer.
        births_ms: by log, effective time of the first entry ever accepted where it is kept.
    """
    count, kinds = len(rows), len(plan.entities)
    assert len(values) == count * kinds, (len(values), count, kinds)
    starts = np.zeros(len(values) + 1, np.int64)
    np.cumsum([0 if value is None else len(value) for value in values], out=starts[1:])
    reachable = np.array([value is not None for value in values], np.bool_).reshape(count, kinds)
    buffer = np.frombuffer(b"".join([value or b"" for value in values]), np.uint8)
    histories = Histories(
        np.empty((count, len(plan.numeric)), np.float32),
        np.ascontiguousarray(rows[:, list(plan.categorical_columns)]),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
    )
    fold_histories(
        buffer, starts, reachable, rows, np.asarray(births_ms, np.int64), *plan.tables,
        histories.numeric, histories.revs, histories.lateness_ms, histories.findings,
    )  # fmt: skip
    return histories


def compact(plan: Plan, value: bytes, k: int, *, keep: int | None = None) -> Compaction | None:
    """The base that can stand for the beginning of a log.

    Args:
        plan: the compiled spec.
        value: the log of an entity of kind k.
        k: which entity.
        keep: entries that stay behind the base; by default what the spec says.

    Returns:
        None where there is nothing to replace.
    """
    tables = plan.tables
    kept = int(tables.entities[k, KEEP]) if keep is None else keep
    base, entries = np.empty(plan.base_space(k), np.uint8), np.empty(len(value), np.uint8)
    end, elements, first, last, base_size, entries_size, generation, first_rev = compact_log(
        np.frombuffer(value, np.uint8), k, kept, *tables[:5], tables.layout, base, entries
    )
    if elements == 0:
        return None
    return Compaction(
        base=base[:base_size].tobytes(),
        prefix=value[:end],
        elements=elements,
        first=value[:first],
        last=value[last:end],
        generation=generation,
        first_rev=first_rev,
        entries=entries[:entries_size].tobytes(),
    )


def read_entries(plan: Plan, k: int, entries: bytes) -> NDArray[np.int64]:
    """The rows of packed entries of entity kind k: int64 (entries, columns), missing what they do not carry."""
    rows = np.tile(MISSING, (len(entries) // SMALLEST_ENTRY, 1))
    count = unpack_entries(np.frombuffer(entries, np.uint8), k, plan.tables.entities, plan.tables.layout, rows)
    assert count >= 0, "these bytes are not entries"
    return rows[:count]


def split_base(value: bytes) -> tuple[bytes, bytes]:
    """A log's base, b"" if it has none, and the entries behind it."""
    length = int.from_bytes(value[1:5], "little") if value[:1] == bytes([BASE_MARK]) else 0
    return value[:length], value[length:]


def base_head(plan: Plan, k: int, base: bytes) -> tuple[int, int]:
    """Which life of a log of entity kind k a base is about, and how many entries it stands for: (generation, rev)."""
    generation, rev = read_head(np.frombuffer(base, np.uint8), k, plan.tables.entities)
    assert rev >= 0, "these bytes are not a base of this spec"
    return generation, rev


# ---------------------------------------------------------------- compiled


@entry_point
def fold_histories(
    values: Bytes,
    starts: Ints,
    reachable: Flags,
    rows: Ints,
    births: Ints,
    entities: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    features: Ints,
    defaults: Float64s,
    layout: Ints,
    numeric: Float32s,
    revs: Ints,
    lateness: Ints,
    findings: Ints,
) -> None:
    """Features of a batch of transactions from the bytes of their entities' logs.

    Args:
        values: uint8, all logs one after the other; transaction i's own entry is in each of its logs.
        starts: int64 (n · entities + 1), where each log begins.
        reachable: bool (n, entities), False where the store did not answer.
        rows: int64 (n, columns), the transactions.
        births: int64 (n · entities), effective time of the first entry ever accepted where each log is kept.
        entities, windows, sets, decays, registers, features, defaults, layout: the plan's tables.
        numeric: float32 (n, features), written.
        revs: int64 (n, entities), written: entries accepted before mine, -1 where unknown.
        lateness: int64 (n, entities), written: as_of − event time in milliseconds.
        findings: int64 (n, entities), written: bits FOLDED .. COMPACTABLE.
    """
    count, kinds = rows.shape[0], entities.shape[0]
    state = np.empty(entities[:, STATE_SIZE].max() if kinds else 0, np.int64)
    scratch = np.empty(N_COLUMNS, np.int64)
    index = new_index(entities, starts)
    for i in range(count):
        for k in range(kinds):
            entity = entities[k]
            revs[i, k], lateness[i, k] = -1, 0
            if rows[i, entity[KEY_COLUMN]] == 0 or not reachable[i, k]:
                findings[i, k] = ABSENT if rows[i, entity[KEY_COLUMN]] == 0 else UNAVAILABLE
                numeric[i, entity[FIRST_FEATURE] : entity[END_FEATURE]] = math.nan
                continue
            own = state[: entity[STATE_SIZE]]
            start, end = starts[i * kinds + k], starts[i * kinds + k + 1]
            entry = _open(values, start, end, entity, own)
            entries = _count_entries(values, entry, end, entity, layout) if entry >= 0 else -1
            if entries < 0:
                findings[i, k] = UNAVAILABLE
                numeric[i, entity[FIRST_FEATURE] : entity[END_FEATURE]] = math.nan
                continue
            findings[i, k], revs[i, k], lateness[i, k] = _fold_one(
                values, entry, end, entity, windows, sets, decays, registers, features, defaults, layout, rows[i],
                births[i * kinds + k], own, scratch, index, numeric[i],
            )  # fmt: skip
            long = entries >= entity[COMPACT_AT] + entity[KEEP]
            if long or (entries > 0 and rows[i, C_TIME] - _entry_time(values, entry) > RENEW_AFTER_MS):
                findings[i, k] |= COMPACTABLE
        first = entities[kinds - 1, END_FEATURE] if kinds else 0
        read_transaction(features, first, rows[i], numeric[i])


@compiled
def _open(values: Bytes, start: Int, end: Int, entity: Ints, state: Ints) -> Int:
    """Load the base, if there is one. Returns where the entries begin, or -1 where the base is not ours."""
    begin(state)
    if start < end and values[start] == BASE_MARK:
        length = base_length(values, start)
        if start + length > end or base_spec_hash(values, start) != entity[SPEC_HASH]:
            return int64(-1)
        if not read_base(values, start, start + length, state):
            return int64(-1)
        return start + length
    return start


@compiled
def _fold_one(
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
    index: Ints,
    out: Float32s,
) -> tuple[Int, Int, Int]:
    """Fold a log up to my entry and read my features. Returns (finding, rev, lateness).

    Where my id was accepted twice, because the first was forgotten in between, the second is mine: the same one that
    an offline fold accepts for it.
    """
    load_index(index, state, entity)
    finding, rev, lateness = UNAVAILABLE, int64(-1), int64(0)
    remembered_rev = int64(-1)
    event[:] = MISSING
    while offset < end:
        offset = _next(values, offset, entity, layout, event)
        is_mine = event[C_ID] == mine[C_ID]
        seen = find(index, state, event[C_ID])
        if seen >= 0:
            if is_mine and rev < 0:
                remembered_rev = seen
            elif is_mine:
                finding |= RETRIED
            continue
        as_of = advance(state, entity, windows, event[C_TIME])
        if is_mine:
            time = event[C_TIME]
            finding = read_known(state, entity, sets, decays, features, defaults, mine, time, as_of, born_at, out)
            rev, lateness = state[REV], as_of - time
            if not _occurs(values, offset, end, entity, layout, mine[C_ID]):
                return finding, rev, lateness
        apply(state, entity, windows, sets, decays, registers, event, as_of)
        add(index, state, event[C_ID])
    if rev >= 0:
        return finding, rev, lateness
    if remembered_rev >= 0:
        as_of = advance(state, entity, windows, mine[C_TIME])
        read_known(state, entity, sets, decays, features, defaults, mine, mine[C_TIME], as_of, born_at, out)
        return DUPLICATE, remembered_rev, as_of - mine[C_TIME]
    out[entity[FIRST_FEATURE] : entity[END_FEATURE]] = math.nan  # my entry was lost on its way back
    return finding, rev, lateness


@compiled
def _next(values: Bytes, offset: Int, entity: Ints, layout: Ints, event: Ints) -> Int:
    """Read the entry at `offset` into `event`. Returns the offset behind it."""
    kind = int64(values[offset])
    offset = read_entry(values, offset, layout, entity[FIRST_LAYOUT + kind - 1], entity[FIRST_LAYOUT + kind], event)
    if kind in (ATTEMPT, FOLLOW_UP):
        event[C_ORIGIN] = event[C_TIME]
    return offset


@compiled
def _entry_length(values: Bytes, offset: Int, entity: Ints, layout: Ints) -> Int:
    kind = int64(values[offset])
    length = 1
    for item in range(entity[FIRST_LAYOUT + kind - 1], entity[FIRST_LAYOUT + kind]):
        length += layout[item, 1]
    return length


@compiled
def _entry_time(values: Bytes, offset: Int) -> Int:
    """The time of an entry. It is the second column of every one, behind kind and id."""
    value = int64(0)
    for byte in range(6):
        value |= int64(values[offset + 7 + byte]) << (8 * byte)
    return value


@compiled
def _count_entries(values: Bytes, offset: Int, end: Int, entity: Ints, layout: Ints) -> Int:
    """How many entries stand in values[offset:end], or -1 where these bytes are not entries."""
    entries = 0
    while offset < end:
        if values[offset] < ATTEMPT or values[offset] > VOID:
            return -1
        offset += _entry_length(values, offset, entity, layout)
        entries += 1
    return entries if offset == end else -1


@compiled
def _occurs(values: Bytes, offset: Int, end: Int, entity: Ints, layout: Ints, identity: Int) -> bool:
    """Whether an id stands in a part of a log. The id is the first column of every entry."""
    while offset < end:
        value = int64(0)
        for byte in range(6):
            value |= int64(values[offset + 1 + byte]) << (8 * byte)
        if value == identity:
            return True
        offset += _entry_length(values, offset, entity, layout)
    return False


@entry_point
def compact_log(
    value: Bytes,
    k: Int,
    keep: Int,
    entities: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    layout: Ints,
    base: Bytes,
    accepted: Bytes,
) -> tuple[Int, Int, Int, Int, Int, Int, Int, Int]:
    """Replace all but the last `keep` entries of entity kind k's log by a base.

    Args:
        value: uint8, the log.
        k: which entity.
        keep: entries left after the base; fewer than the log has.
        entities, windows, sets, decays, registers, layout: the plan's tables.
        base: uint8, at least 10 bytes per state slot + header; the base is written here.
        accepted: uint8, as long as `value`; the replaced entries without duplicates are written here.

    Returns:
        Length of the replaced prefix, elements in it, end of its first, start of its last, length of the base, length
        of the accepted entries, generation, rev of the first accepted; zeros where there is nothing to do.
    """
    entity = entities[k]
    state = np.empty(entity[STATE_SIZE], np.int64)
    event = MISSING.copy()
    offset = _open(value, 0, value.shape[0], entity, state)
    spare = _count_entries(value, offset, value.shape[0], entity, layout) - keep if offset >= 0 else 0
    if spare <= 0:
        return 0, 0, 0, 0, 0, 0, 0, 0
    first = offset if offset > 0 else _entry_length(value, 0, entity, layout)
    elements = spare + (1 if offset > 0 else 0)
    first_rev, written, last = state[REV], 0, offset
    for _ in range(spare):
        last = offset
        offset = _next(value, offset, entity, layout, event)
        if accept(state, entity, windows, sets, decays, registers, event):
            accepted[written : written + offset - last] = value[last:offset]
            written += offset - last
    size = write_base(state, entity[SPEC_HASH], base)
    return offset, elements, first, last, size, written, state[GENERATION], first_rev


@entry_point
def read_head(base: Bytes, k: Int, entities: Ints) -> tuple[Int, Int]:
    """Generation and rev of a base of entity kind k; (0, -1) where it is none."""
    entity = entities[k]
    state = np.empty(entity[STATE_SIZE], np.int64)
    if _open(base, 0, base.shape[0], entity, state) != base.shape[0]:
        return 0, -1
    return state[GENERATION], state[REV]


@entry_point
def unpack_entries(entries: Bytes, k: Int, entities: Ints, layout: Ints, rows: Ints) -> Int:
    """Read the entries of entity kind k one after the other into `rows` (int64). Returns how many, or -1."""
    entity = entities[k]
    count = _count_entries(entries, 0, entries.shape[0], entity, layout)
    offset = int64(0)
    for index in range(count):
        offset = _next(entries, offset, entity, layout, rows[index])
    return count


@entry_point
def encode_entry(row: Ints, k: Int, entities: Ints, layout: Ints, out: Bytes) -> Int:
    """Pack an event for entity kind k's log into `out` (uint8). Returns its length."""
    entity = entities[k]
    return write_entry(row, layout, entity[FIRST_LAYOUT + row[0] - 1], entity[FIRST_LAYOUT + row[0]], out, 0)


# ---------------------------------------------------------------- the index of remembered ids
# Online each entry of a log is looked up among the ring's ids. Instead of scanning the ring for each, they are put into
# an open-addressing table once: slots of (id, rev). An id counts as remembered while its rev is one of the last `ring`.


@compiled
def new_index(entities: Ints, starts: Ints) -> Ints:
    """A table with room for the largest ring and the longest log of a batch, at most half full."""
    largest_ring, longest_log = 1, 0
    for k in range(entities.shape[0]):
        largest_ring = max(largest_ring, entities[k, RING_SIZE])
    for log in range(starts.shape[0] - 1):
        longest_log = max(longest_log, starts[log + 1] - starts[log])
    room = 2 * (largest_ring + longest_log // SMALLEST_ENTRY + 1)
    size = 64
    while size < room:
        size *= 2
    return np.empty((size, 2), np.int64)


@compiled
def load_index(index: Ints, state: Ints, entity: Ints) -> None:
    """Fill the table with what the ring remembers."""
    index[:, 0] = 0
    at, size = entity[RING_AT], entity[RING_SIZE]
    for back in range(1, state[REMEMBERED] + 1):
        slot = (state[at] - back) % size
        _put(index, state[at + 1 + slot], state[REV] - back)


@compiled
def find(index: Ints, state: Ints, identity: Int) -> Int:
    """The rev under which an id was accepted, or -1 where it is not remembered (any more)."""
    slot = _probe(index, identity)
    rev = index[slot, 1]
    return rev if index[slot, 0] == identity and rev >= state[REV] - state[REMEMBERED] else int64(-1)


@compiled
def add(index: Ints, state: Ints, identity: Int) -> None:
    """Note the entry that was just accepted."""
    _put(index, identity, state[REV] - 1)


@compiled
def _put(index: Ints, identity: Int, rev: Int) -> None:
    slot = _probe(index, identity)
    index[slot, 0] = identity
    index[slot, 1] = rev


@compiled
def _probe(index: Ints, identity: Int) -> Int:
    """The slot that holds an id, or the empty one where it belongs."""
    mask = index.shape[0] - 1
    slot = int64((np.uint64(identity) * MULTIPLIER) >> np.uint64(40)) & mask
    while index[slot, 0] != 0 and index[slot, 0] != identity:
        slot = (slot + 1) & mask
    return slot


@entry_point
def encode_entries(rows: Ints, wanted: Flags, entities: Ints, layout: Ints, out: Bytes, ends: Ints) -> Int:
    """Pack events for the logs that are wanted into `out`, one after the other.

    Args:
        rows: int64 (n, columns).
        wanted: bool (n, entities).
        entities, layout: the plan's tables.
        out: uint8, `MAX_ENTRY` bytes for each cell of `wanted`; written.
        ends: int64, written: where each entry ends in `out`.

    Returns:
        How many entries there are.
    """
    count, offset = 0, int64(0)
    for i in range(rows.shape[0]):
        kind = rows[i, 0]
        for k in range(entities.shape[0]):
            if wanted[i, k]:
                first, last = entities[k, FIRST_LAYOUT + kind - 1], entities[k, FIRST_LAYOUT + kind]
                offset = write_entry(rows[i], layout, first, last, out, offset)
                ends[count] = offset
                count += 1
    return count
