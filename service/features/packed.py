"""Whole numbers as little-endian bytes."""

import numpy as np

from service.features.compiled import Bytes, Int, compiled, int64, unsigned

WORD = 8  # bytes


@compiled
def read_integer(buffer: Bytes, offset: Int, width: Int) -> Int:
    """The unsigned number in `width` bytes, at most 8, from `offset` on."""
    value, place = np.uint64(0), unsigned(offset)
    if offset + WORD <= buffer.shape[0]:
        for byte in range(WORD):  # one load of the machine
            value |= np.uint64(buffer[place + unsigned(byte)]) << np.uint64(8 * byte)
        surplus = np.uint64(8 * (WORD - width))
        return int64((value << surplus) >> surplus)
    for byte in range(width):
        value |= np.uint64(buffer[place + unsigned(byte)]) << np.uint64(8 * byte)
    return int64(value)


@compiled
def write_integer(value: Int, width: Int, out: Bytes, offset: Int) -> Int:
    """Write the lowest `width` bytes of a number. Returns the offset behind them."""
    place, rest = unsigned(offset), np.uint64(value)
    for byte in range(width):
        out[place + unsigned(byte)] = np.uint8(rest >> np.uint64(8 * byte))
    return offset + width
