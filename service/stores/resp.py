"""Redis' protocol (RESP2) where it is most of the work: the commands that enter a batch, and the logs that come back.

Two commands and eleven strings for each of a hundred entities are a Python object each, if hiredis reads them; here
they stay bytes. Everything else goes through hiredis.
"""

import numpy as np

from service.features.compiled import Bytes, Int, Ints, compiled, entry_point, int64, unsigned
from service.features.joined import Joined

NESTED_TOO_DEEP = 8  # replies of commands that we send are arrays of arrays of arrays
_RPUSH, _LRANGE, _WHOLE = b"*3\r\n$5\r\nRPUSH\r\n", b"*4\r\n$6\r\nLRANGE\r\n", b"$1\r\n0\r\n$2\r\n-1\r\n"
_COMMANDS = len(_RPUSH + _LRANGE + _WHOLE) + 3 * len(b"$99999999\r\n\r\n")  # but for the strings themselves
_LITERALS = np.frombuffer(_RPUSH + _LRANGE + _WHOLE, np.uint8)
_AFTER_RPUSH, _AFTER_LRANGE = len(_RPUSH), len(_RPUSH + _LRANGE)
_ERROR, _INTEGER, _STATUS, _BULK, _ARRAY = (int(mark) for mark in b"-:+$*")
_CR, _MINUS, _ZERO = (int(mark) for mark in b"\r-0")
_BROKEN = -1  # instead of an offset


def warm_up() -> None:
    """Have everything compiled, or loaded: it takes seconds once, and nobody shall wait for it."""
    keys, entries = Joined.of([b"key"]), Joined(np.zeros(1, np.uint8), np.ones(1, np.int64))
    push_and_read(keys, entries)
    replies = b":1\r\n*1\r\n$1\r\n.\r\n"
    reply_ends(replies, 2)
    read_lists(replies, 1)


def push_and_read(keys: Joined, entries: Joined) -> bytes:
    """For each key in order: RPUSH of its entry, and LRANGE of the whole list."""
    assert len(keys.lengths) == len(entries.lengths), (len(keys.lengths), len(entries.lengths))
    size = len(keys.lengths) * _COMMANDS + 2 * len(keys.buffer) + len(entries.buffer)
    out = np.empty(size, np.uint8)
    end = write_commands(keys.buffer, keys.lengths, entries.buffer, entries.lengths, _LITERALS, out)
    return out[:end].tobytes()


def read_lists(replies: bytes, count: int) -> tuple[Joined, list[int]] | None:
    """What came back for `push_and_read`.

    Args:
        replies: whole ones, two for each key.
        count: of keys.

    Returns:
        The elements of each list, joined; and how many each list had after the push. None where a reply is none that
        was asked for, such as an error.
    """
    buffer = np.empty(len(replies), np.uint8)
    lengths, elements = np.empty(count, np.int64), np.empty(count, np.int64)
    size = gather_lists(np.frombuffer(replies, np.uint8), buffer, lengths, elements)
    if size == _BROKEN:
        return None
    buffer.flags.writeable = False  # the type that the kernel is compiled for, which mostly reads what Python joined
    return Joined(buffer[:size], lengths), elements.tolist()


def reply_ends(received: bytes, most: int) -> list[int]:
    """Where each whole reply ends at the beginning of what was received so far; of `most` at most.

    Raises:
        ValueError: these bytes are no replies.
    """
    ends = np.empty(most, np.int64)
    found = find_replies(np.frombuffer(received, np.uint8), ends)
    if found == _BROKEN:
        raise ValueError("a reply begins with no mark of one, or is nested too deep")
    whole: list[int] = ends[:found].tolist()
    return whole


# ---------------------------------------------------------------- compiled


@compiled
def _put_length(out: Bytes, at: Int, length: Int) -> Int:
    """Write `$length` and the end of its line. Returns the offset behind it."""
    out[at] = _BULK
    at += 1
    digits, rest = int64(1), length // 10
    while rest > 0:
        digits += 1
        rest //= 10
    rest = length
    for place in range(at + digits - 1, at - 1, -1):
        out[place] = _ZERO + rest % 10
        rest //= 10
    return _put_line_end(out, at + digits)


@compiled
def _put_line_end(out: Bytes, at: Int) -> Int:
    out[at], out[at + 1] = 13, 10
    return at + 2


@compiled
def _put(out: Bytes, at: Int, source: Bytes, first: Int, last: Int) -> Int:
    """Write a part of what is elsewhere. Returns the offset behind it."""
    for index in range(last - first):
        out[unsigned(at + index)] = source[unsigned(first + index)]
    return at + last - first


@compiled
def _put_string(out: Bytes, at: Int, source: Bytes, first: Int, last: Int) -> Int:
    at = _put_length(out, at, last - first)
    return _put_line_end(out, _put(out, at, source, first, last))


@entry_point
def write_commands(  # noqa: PLR0917 - one array each
    keys: Bytes, key_lengths: Ints, entries: Bytes, entry_lengths: Ints, literals: Bytes, out: Bytes
) -> Int:
    """Write RPUSH and LRANGE for each key into `out`. Returns how many bytes they take."""
    at = key = entry = int64(0)
    for index in range(key_lengths.shape[0]):
        key_end, entry_end = key + key_lengths[index], entry + entry_lengths[index]
        at = _put(out, at, literals, 0, _AFTER_RPUSH)
        at = _put_string(out, at, keys, key, key_end)
        at = _put_string(out, at, entries, entry, entry_end)
        at = _put(out, at, literals, _AFTER_RPUSH, _AFTER_LRANGE)
        at = _put_string(out, at, keys, key, key_end)
        at = _put(out, at, literals, _AFTER_LRANGE, literals.shape[0])
        key, entry = key_end, entry_end
    return at


@compiled
def _read_line(received: Bytes, at: Int) -> tuple[Int, Int]:
    """The number behind the mark at `at`, some number if it is none, and where its line ends: -1 if it does not."""
    negative, value = False, int64(0)
    at += 1
    while at < received.shape[0] and received[unsigned(at)] != _CR:
        if received[unsigned(at)] == _MINUS:
            negative = True
        else:
            value = 10 * value + int64(received[unsigned(at)]) - _ZERO
        at += 1
    end = at + 2 if at + 1 < received.shape[0] else int64(-1)
    return -value if negative else value, end


@entry_point
def find_replies(received: Bytes, ends: Ints) -> Int:
    """Where whole replies end, as many as `ends` (int64, written) has room for. Returns how many; -1 if it is none."""
    found = at = int64(0)
    left = np.empty(NESTED_TOO_DEEP, np.int64)  # elements that are still to come, by depth
    depth = 0
    while found < ends.shape[0] and at < received.shape[0]:
        mark = received[unsigned(at)]
        if mark not in (_ERROR, _INTEGER, _STATUS, _BULK, _ARRAY):
            return int64(-1)
        number, at = _read_line(received, at)
        if at < 0:
            break
        if mark == _BULK and number >= 0:
            at += number + 2
            if at > received.shape[0]:
                break
        if mark == _ARRAY and number > 0:
            if depth == NESTED_TOO_DEEP:
                return int64(-1)
            left[depth] = number
            depth += 1
            continue
        while depth > 0:
            left[depth - 1] -= 1
            if left[depth - 1] > 0:
                break
            depth -= 1
        if depth == 0:
            ends[found] = at
            found += 1
    return found


@entry_point
def gather_lists(replies: Bytes, buffer: Bytes, lengths: Ints, elements: Ints) -> Int:
    """Read pairs of an integer and an array of strings, all there whole.

    Args:
        replies: uint8.
        buffer: uint8, as long; written: the strings of all arrays, one after the other.
        lengths: int64 (n,), written: of each array's strings together.
        elements: int64 (n,), written: the integers.

    Returns:
        How many bytes of `buffer` were written; -1 where there is something else.
    """
    at = size = int64(0)
    for index in range(lengths.shape[0]):
        if at >= replies.shape[0] or replies[at] != _INTEGER:
            return int64(-1)
        elements[index], at = _read_line(replies, at)
        if at >= replies.shape[0] or replies[at] != _ARRAY:
            return int64(-1)
        count, at = _read_line(replies, at)
        before = size
        for _ in range(count):
            if replies[unsigned(at)] != _BULK:
                return int64(-1)
            length, first = _read_line(replies, at)
            if length < 0:
                return int64(-1)
            at = first + length
            size = _put(buffer, size, replies, first, at)
            at += 2
        lengths[index] = size - before
    return size
