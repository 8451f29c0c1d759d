"""Replaces the beginning of a log by a base that stands for it."""

from dataclasses import dataclass

import numpy as np

from service.features.compiled import Bytes, Int, Ints, entry_point
from service.features.entry import MISSING
from service.features.kernel import N_MEASURES, accept
from service.features.log import count_entries, next_entry, open_log, skip_entry
from service.features.plan import KEEP, RING_AT, SPEC_HASH, STATE_SIZE, Plan
from service.features.state import BASE_MARKS, GENERATION, REV, write_base


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


def split_base(value: bytes) -> tuple[bytes, bytes]:
    """A log's base, b"" if it has none, and the entries behind it."""
    length = int.from_bytes(value[1:5], "little") if value and value[0] in BASE_MARKS else 0
    return value[:length], value[length:]


def base_head(plan: Plan, k: int, base: bytes) -> tuple[int, int]:
    """Which life of a log of entity kind k a base is about, and how many entries it stands for: (generation, rev)."""
    generation, rev = read_head(np.frombuffer(base, np.uint8), k, plan.tables.entities, plan.tables.sets)
    assert rev >= 0, "these bytes are not a base of this spec"
    return generation, rev


# ---------------------------------------------------------------- compiled


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
    state, added = np.empty(entity[STATE_SIZE], np.int64), np.empty(N_MEASURES, np.int64)
    event = MISSING.copy()
    offset = open_log(value, 0, value.shape[0], entity, sets, state)
    spare = count_entries(value, offset, value.shape[0], entity) - keep if offset >= 0 else 0
    if spare <= 0:
        return 0, 0, 0, 0, 0, 0, 0, 0
    first = offset if offset > 0 else skip_entry(value, 0, entity)
    elements = spare + (1 if offset > 0 else 0)
    first_rev, written, last = state[REV], 0, offset
    for _ in range(spare):
        last = offset
        offset = next_entry(value, offset, entity, layout, event)
        if accept(state, entity, windows, sets, decays, registers, event, added):
            accepted[written : written + offset - last] = value[last:offset]
            written += offset - last
    size = write_base(state, entity[RING_AT], entity[SPEC_HASH], base)
    return offset, elements, first, last, size, written, state[GENERATION], first_rev


@entry_point
def read_head(base: Bytes, k: Int, entities: Ints, sets: Ints) -> tuple[Int, Int]:
    """Generation and rev of a base of entity kind k; (0, -1) where it is none."""
    entity = entities[k]
    state = np.empty(entity[STATE_SIZE], np.int64)
    if open_log(base, 0, base.shape[0], entity, sets, state) != base.shape[0]:
        return 0, -1
    return state[GENERATION], state[REV]
