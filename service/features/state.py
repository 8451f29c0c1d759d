"""The state of one entity: a vector of integers while it is folded, a few hundred bytes at rest.

Layout of the vector (offsets of the variable parts stand in the plan):

    [rev, hwm, generation, first, last, remembered] [registers] [windows] [sets] [decays] [ring of ids]

At rest it is a *base*: mark, length, spec hash, then the vector as zigzag varints with runs of zeros counted.
"""

import numpy as np

from service.features.compiled import Bytes, Int, Ints, compiled, int64

REV = 0  # entries accepted so far
HWM = 1  # high-water mark: the largest time accepted, NONE before the first
GENERATION = 2  # id of the log's first entry: tells one life of a key from the next
FIRST = 3  # time of the first attempt since the last reset
LAST = 4  # time of the latest attempt
REMEMBERED = 5  # how many of the ring's ids are in use
HEAD = 6
NONE = -1

BASE_MARK = 0xBA  # no entry kind has this value, so a value's first byte says whether it begins with a base
BASE_HEADER = 13  # mark (1), length (4), spec hash (8)


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
def write_base(state: Ints, spec_hash: Int, out: Bytes) -> Int:
    """Write `state` as a base into `out` (uint8, at least 10 bytes per slot + header). Returns its length."""
    offset = BASE_HEADER
    index = 0
    size = state.shape[0]
    while index < size:
        value = state[index]
        if value == 0:
            run = index
            while run < size and state[run] == 0:
                run += 1
            out[offset] = 0
            offset = _write_varint(np.uint64(run - index), out, offset + 1)
            index = run
        else:
            offset = _write_varint(np.uint64((value << 1) ^ (value >> 63)), out, offset)
            index += 1
    out[0] = BASE_MARK
    for byte in range(4):
        out[1 + byte] = np.uint8((offset >> (8 * byte)) & 0xFF)
    for byte in range(8):
        out[5 + byte] = np.uint8((spec_hash >> (8 * byte)) & 0xFF)
    return offset


@compiled
def base_length(buffer: Bytes, start: Int) -> Int:
    """Length of the base that begins at `start`, header included."""
    length = int64(0)
    for byte in range(4):
        length |= int64(buffer[start + 1 + byte]) << (8 * byte)
    return length


@compiled
def base_spec_hash(buffer: Bytes, start: Int) -> Int:
    """Hash of the spec under which the base at `start` was written."""
    value = int64(0)
    for byte in range(8):
        value |= int64(buffer[start + 5 + byte]) << (8 * byte)
    return value


@compiled
def read_base(buffer: Bytes, start: Int, end: Int, state: Ints) -> bool:
    """Read the base in buffer[start:end] into `state`. Returns False where it does not fill the vector exactly."""
    offset = start + BASE_HEADER
    index = 0
    size = state.shape[0]
    while offset < end and index < size:
        if buffer[offset] == 0:
            run, offset = _read_varint(buffer, offset + 1)
            stop = min(size, index + int64(run))
            while index < stop:
                state[index] = 0
                index += 1
        else:
            value, offset = _read_varint(buffer, offset)
            state[index] = int64(value >> np.uint64(1)) ^ -int64(value & np.uint64(1))
            index += 1
    return offset == end and index == size


@compiled
def _write_varint(value: np.uint64, out: Bytes, offset: Int) -> Int:
    while value >= np.uint64(128):
        out[offset] = np.uint8((value & np.uint64(127)) | np.uint64(128))
        value >>= np.uint64(7)
        offset += 1
    out[offset] = np.uint8(value)
    return offset + 1


@compiled
def _read_varint(buffer: Bytes, offset: Int) -> tuple[np.uint64, Int]:
    value = np.uint64(0)
    shift = np.uint64(0)
    while buffer[offset] >= 128:  # noqa: PLR2004 - the continuation bit
        value |= np.uint64(buffer[offset] & 127) << shift
        shift += np.uint64(7)
        offset += 1
    value |= np.uint64(buffer[offset]) << shift
    return value, offset + 1
