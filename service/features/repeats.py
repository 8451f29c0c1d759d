"""Tells whether any id occurs twice in a log.

Only a retry makes one do that. Where none does, and that is nearly always, no entry needs to be looked up among the ids
before it. A Bloom filter with one hash (Bloom 1970) finds the few ids that are worth a look; ids are digests already.
"""

import numpy as np

from service.features.compiled import Bytes, Int, Ints, Words, compiled, unsigned
from service.features.log import id_at, occurs, skip_entry
from service.features.plan import RING_AT
from service.features.state import REMEMBERED

MARKS = 1024  # bits, so that beside the 16 entries of a long log one id in 64 is looked for in vain
MARK_WORDS = MARKS // 64


@compiled
def some_id_repeats(values: Bytes, offset: Int, end: Int, entity: Ints, state: Ints, marks: Words) -> bool:
    """Whether an id occurs twice among the entries in values[offset:end] and the ids that their base remembers.

    Args:
        values, offset, end: the entries.
        entity: its row of the plan's table.
        state: as the base has it.
        marks: uint64 (MARK_WORDS), scratch.
    """
    marks[:] = 0
    entry = offset
    while entry < end:
        identity = id_at(values, entry)
        if _is_marked(marks, identity) and occurs(values, offset, entry, entity, identity):
            return True
        marks[_word(identity)] |= _bit(identity)
        entry = skip_entry(values, entry, entity)
    for slot in range(state[REMEMBERED]):
        identity = state[unsigned(entity[RING_AT] + 1 + slot)]
        if _is_marked(marks, identity) and occurs(values, offset, end, entity, identity):
            return True
    return False


@compiled
def _is_marked(marks: Words, identity: Int) -> bool:
    return (marks[_word(identity)] & _bit(identity)) != 0


@compiled
def _word(identity: Int) -> np.uint64:
    return (np.uint64(identity) >> np.uint64(6)) & np.uint64(MARK_WORDS - 1)


@compiled
def _bit(identity: Int) -> np.uint64:
    return np.uint64(1) << (np.uint64(identity) & np.uint64(63))
