"""A log as a store keeps it: perhaps a base, then entries, one after the other."""

from service.features.compiled import Bytes, Int, Ints, compiled, int64, unsigned
from service.features.entry import ID_AT, TIME_AT, Column, Kind, read_entry
from service.features.packed import read_integer
from service.features.plan import (
    END_SET,
    FIRST_LAYOUT,
    FIRST_SET,
    LENGTH,
    RING_AT,
    S_AT,
    S_CAPACITY,
    SPEC_HASH,
)
from service.features.state import BASE_HEADER, BASE_MARKS, base_length, base_spec_hash, begin, read_base

FIRST_KIND, LAST_KIND = int(min(Kind)), int(max(Kind))
ATTEMPT, FOLLOW_UP = int(Kind.ATTEMPT), int(Kind.FOLLOW_UP)
C_ORIGIN, C_TIME = int(Column.ORIGIN), int(Column.TIME)


@compiled
def open_log(values: Bytes, start: Int, end: Int, entity: Ints, sets: Ints, state: Ints) -> Int:
    """Load the base, if there is one. Returns where the entries begin, or -1 where the base is not ours."""
    if start >= end or values[start] not in BASE_MARKS:
        begin(state)
        return start
    if start + BASE_HEADER > end:
        return int64(-1)
    length = base_length(values, start)
    if start + length > end or base_spec_hash(values, start) != entity[SPEC_HASH]:
        return int64(-1)
    if not read_base(values, start, start + length, entity[RING_AT], state):
        return int64(-1)
    for index in range(entity[FIRST_SET], entity[END_SET]):  # or it would be read beyond its end
        if state[sets[index, S_AT]] < 0 or state[sets[index, S_AT]] > sets[index, S_CAPACITY]:
            return int64(-1)
    return start + length


@compiled
def count_entries(values: Bytes, offset: Int, end: Int, entity: Ints) -> Int:
    """How many entries stand in values[offset:end], or -1 where these bytes are not entries."""
    entries = int64(0)
    while offset < end:
        kind = int64(values[unsigned(offset)])
        if kind < FIRST_KIND or kind > LAST_KIND:
            return int64(-1)
        offset += entity[unsigned(LENGTH + kind)]
        entries += 1
    return entries if offset == end else int64(-1)


@compiled
def next_entry(values: Bytes, offset: Int, entity: Ints, layout: Ints, event: Ints) -> Int:
    """Read the entry at `offset` into `event`. Returns the offset behind it."""
    kind = int64(values[unsigned(offset)])
    first, last = entity[unsigned(FIRST_LAYOUT + kind - 1)], entity[unsigned(FIRST_LAYOUT + kind)]
    offset = read_entry(values, offset, layout, first, last, event)
    if kind in (ATTEMPT, FOLLOW_UP):
        event[C_ORIGIN] = event[C_TIME]
    return offset


@compiled
def skip_entry(values: Bytes, offset: Int, entity: Ints) -> Int:
    """The offset behind the entry at `offset`."""
    return offset + entity[unsigned(LENGTH + int64(values[unsigned(offset)]))]


@compiled
def id_at(values: Bytes, offset: Int) -> Int:
    """The id of the entry at `offset`."""
    return read_integer(values, offset + ID_AT, 6)


@compiled
def time_at(values: Bytes, offset: Int) -> Int:
    """The time of the entry at `offset`."""
    return read_integer(values, offset + TIME_AT, 6)


@compiled
def occurs(values: Bytes, offset: Int, end: Int, entity: Ints, identity: Int) -> bool:
    """Whether an id stands in a part of a log."""
    while offset < end:
        if id_at(values, offset) == identity:
            return True
        offset = skip_entry(values, offset, entity)
    return False
