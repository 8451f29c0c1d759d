"""Blocks: walking through tables that may be larger than memory, because they are mapped from files."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 65_536
"""Looked at together: some tens of megabytes of features."""

COLUMN_BYTES = 1 << 28
"""Of columns in memory at a time, if one is not larger by itself. Each time costs a walk through the whole table."""

Scalar = TypeVar("Scalar", bound=np.generic)


def blocks(rows: int) -> Iterator[slice]:
    """So many rows, in order, as slices of at most `BLOCK_ROWS`."""
    return (slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS))


def columns(table: NDArray[Scalar], *, column_bytes: int = COLUMN_BYTES) -> Iterator[NDArray[Scalar]]:
    """Each column of a table (rows, n) in turn, (rows,) and contiguous.

    Args:
        table: the rows, of which a few columns are copied at a time.
        column_bytes: how much to copy, at least one column.
    """
    rows, width = table.shape
    together = max(1, column_bytes // max(1, rows * table.itemsize))
    for first in range(0, width, together):
        copied = np.empty((min(together, width - first), rows), table.dtype)
        for block in blocks(rows):
            copied[:, block] = table[block, first : first + together].T
        yield from copied
