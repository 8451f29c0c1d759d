"""Events as the bytes that they add to logs, and back."""

import numpy as np
from numpy.typing import NDArray

from service.features.compiled import Bytes, Flags, Int, Ints, entry_point, int64
from service.features.entry import MISSING, write_entry
from service.features.joined import Joined
from service.features.log import count_entries, next_entry
from service.features.plan import FIRST_LAYOUT, Plan

SMALLEST_ENTRY = 13  # bytes: kind, id and time
MAX_ENTRY = 256  # bytes; the widest entry a spec can ask for has 1 + 27 columns of at most 6


def encode(plan: Plan, row: NDArray[np.int64], k: int) -> bytes:
    """The bytes that an event (int64, one row) adds to the log of its entity of kind k."""
    out = np.empty(MAX_ENTRY, np.uint8)
    length = encode_entry(row, k, plan.tables.entities, plan.tables.layout, out)
    return out[:length].tobytes()


def encode_all(plan: Plan, rows: NDArray[np.int64], wanted: NDArray[np.bool_]) -> Joined:
    """The bytes that events add to the logs of their entities, event by event.

    Args:
        plan: the compiled spec.
        rows: int64 (n, columns).
        wanted: bool (n, entities), whose logs there are; of the others there is nothing in the result.
    """
    out = np.empty(wanted.size * MAX_ENTRY, np.uint8)
    lengths = np.empty(wanted.size, np.int64)
    count, size = encode_entries(rows, wanted, plan.tables.entities, plan.tables.layout, out, lengths)
    return Joined(out[:size], lengths[:count])


def read_entries(plan: Plan, k: int, entries: bytes) -> NDArray[np.int64]:
    """The rows of packed entries of entity kind k: int64 (entries, columns), missing what they do not carry."""
    rows = np.tile(MISSING, (len(entries) // SMALLEST_ENTRY, 1))
    count = unpack_entries(np.frombuffer(entries, np.uint8), k, plan.tables.entities, plan.tables.layout, rows)
    assert count >= 0, "these bytes are not entries"
    return rows[:count]


# ---------------------------------------------------------------- compiled


@entry_point
def encode_entry(row: Ints, k: Int, entities: Ints, layout: Ints, out: Bytes) -> Int:
    """Pack an event for entity kind k's log into `out` (uint8). Returns its length."""
    entity = entities[k]
    return write_entry(row, layout, entity[FIRST_LAYOUT + row[0] - 1], entity[FIRST_LAYOUT + row[0]], out, 0)


@entry_point
def encode_entries(
    rows: Ints, wanted: Flags, entities: Ints, layout: Ints, out: Bytes, lengths: Ints
) -> tuple[Int, Int]:
    """Pack events for the logs that are wanted into `out`, one after the other.

    Args:
        rows: int64 (n, columns).
        wanted: bool (n, entities).
        entities, layout: the plan's tables.
        out: uint8, `MAX_ENTRY` bytes for each cell of `wanted`; written.
        lengths: int64, written: of each entry.

    Returns:
        How many entries there are, and how many bytes.
    """
    count, offset = 0, int64(0)
    for i in range(rows.shape[0]):
        kind = rows[i, 0]
        for k in range(entities.shape[0]):
            if wanted[i, k]:
                first, last = entities[k, FIRST_LAYOUT + kind - 1], entities[k, FIRST_LAYOUT + kind]
                end = write_entry(rows[i], layout, first, last, out, offset)
                lengths[count] = end - offset
                count, offset = count + 1, end
    return count, offset


@entry_point
def unpack_entries(entries: Bytes, k: Int, entities: Ints, layout: Ints, rows: Ints) -> Int:
    """Read the entries of entity kind k one after the other into `rows` (int64). Returns how many, or -1."""
    entity = entities[k]
    count = count_entries(entries, 0, entries.shape[0], entity)
    offset = int64(0)
    for index in range(count):
        offset = next_entry(entries, offset, entity, layout, rows[index])
    return count
