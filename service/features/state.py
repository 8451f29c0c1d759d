"""The state of one entity: a vector of integers while it is folded, a few hundred bytes at rest.

Layout of the vector (offsets of the variable parts stand in the plan):

    [rev, hwm, generation, first, last, remembered] [registers] [windows] [sets] [decays] [ring of ids]

At rest it is a *base*: mark, length, spec hash, then the vector as zigzag varints with runs of zeros counted, but the
ring's ids, which are as good as random, six bytes each.
"""

import numpy as np

from service.features.compiled import Bytes, Int, Ints, compiled, int64, unsigned
from service.features.packed import read_integer, write_integer

REV = 0  # entries accepted so far
HWM = 1  # high-water mark: the largest time accepted, NONE before the first
GENERATION = 2  # id of the log's first entry: tells one life of a key from the next
FIRST = 3  # time of the first attempt since the last reset
LAST = 4  # time of the latest attempt
REMEMBERED = 5  # how many of the ring's ids are in use
HEAD = 6
NONE = -1

# No entry kind has one of these values, so a value's first byte says whether it begins with a base.
BASE_MARK = 0xBB
VARINT_BASE_MARK = 0xBA  # of a base that holds the ids as varints too; such are read, and no longer written
BASE_MARKS = (BASE_MARK, VARINT_BASE_MARK)
BASE_HEADER = 13  # mark (1), length (4), spec hash (8)
ID_BYTES = 6


@compiled
def begin(state: Ints) -> None:
    """The state before a log's first entry."""
    state[REV] = 0
    state[GENERATION] = 0
    clear(state)


@compiled
def clear(state: Ints) -> None:
    """Forget everything but rev and generation; what crossing the horizon does."""
    state[HEAD:] = 0
    state[HWM] = NONE
    state[FIRST] = NONE
    state[LAST] = NONE
    state[REMEMBERED] = 0


@compiled
def write_base(state: Ints, ring_at: Int, spec_hash: Int, out: Bytes) -> Int:
    """Write `state` as a base into `out` (uint8, at least 10 bytes per slot + header). Returns its length."""
    offset = BASE_HEADER
    index = 0
    while index <= ring_at:
        value = state[index]
        if value == 0:
            run = index
            while run <= ring_at and state[run] == 0:
                run += 1
            out[offset] = 0
            offset = _write_varint(np.uint64(run - index), out, offset + 1)
            index = run
        else:
            offset = _write_varint(np.uint64((value << 1) ^ (value >> 63)), out, offset)
            index += 1
    for slot in range(state[REMEMBERED]):
        offset = write_integer(state[ring_at + 1 + slot], ID_BYTES, out, offset)
    out[0] = BASE_MARK
    write_integer(offset, 4, out, 1)
    write_integer(spec_hash, 8, out, 5)
    return offset


@compiled
def base_length(buffer: Bytes, start: Int) -> Int:
    """Length of the base that begins at `start`, header included."""
    return read_integer(buffer, start + 1, 4)


@compiled
def base_spec_hash(buffer: Bytes, start: Int) -> Int:
    """Hash of the spec under which the base at `start` was written."""
    return read_integer(buffer, start + 5, 8)


@compiled
def read_base(buffer: Bytes, start: Int, end: Int, ring_at: Int, state: Ints) -> bool:
    """Read the base in buffer[start:end] into `state`. Returns False where it does not fill the vector exactly."""
    state[:] = 0
    places = state.shape[0] if buffer[start] == VARINT_BASE_MARK else ring_at + 1
    offset, index = start + BASE_HEADER, int64(0)
    while offset < end and index < places:
        byte = int64(buffer[unsigned(offset)])
        if byte == 0:
            run, offset = _read_varint(buffer, offset + 1, end)
            if run > np.uint64(places):
                return False
            index += int64(run)
        elif byte < 128:  # noqa: PLR2004 - the continuation bit
            state[unsigned(index)] = (byte >> 1) ^ -(byte & 1)
            offset += 1
            index += 1
        else:
            value, offset = _read_varint(buffer, offset, end)
            state[unsigned(index)] = int64(value >> np.uint64(1)) ^ -int64(value & np.uint64(1))
            index += 1
    ring = state.shape[0] - ring_at - 1
    if index != places or not 0 <= state[ring_at] < ring or not 0 <= state[REMEMBERED] <= ring or state[REV] < 0:
        return False
    if buffer[start] == VARINT_BASE_MARK:
        return offset == end
    if end - offset != ID_BYTES * state[REMEMBERED]:
        return False
    for slot in range(state[REMEMBERED]):
        state[unsigned(ring_at + 1 + slot)] = read_integer(buffer, offset, ID_BYTES)
        offset += ID_BYTES
    return True


@compiled
def _write_varint(value: np.uint64, out: Bytes, offset: Int) -> Int:
    while value >= np.uint64(128):
        out[offset] = np.uint8((value & np.uint64(127)) | np.uint64(128))
        value >>= np.uint64(7)
        offset += 1
    out[offset] = np.uint8(value)
    return offset + 1


@compiled
def _read_varint(buffer: Bytes, offset: Int, end: Int) -> tuple[np.uint64, Int]:
    """The number that begins at `offset`, and the offset behind it: behind `end` where it is cut off."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while offset < end:
        byte = np.uint64(buffer[unsigned(offset)])
        offset += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return value, offset
        shift += np.uint64(7)
    return value, end + 1
