"""Walking through a table: every row and every column, once and in order, however little is held at a time."""

import numpy as np
import pytest

from training import blocks as walking
from training.blocks import blocks, columns


@pytest.mark.parametrize("rows", [0, 1, 6, 7, 8, 21])
def test_blocks_are_all_rows_in_order(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out, none is there twice, and none of the blocks is empty."""
    monkeypatch.setattr(walking, "BLOCK_ROWS", 7)
    found = [np.arange(rows)[block] for block in blocks(rows)]
    assert np.concatenate([np.empty(0, np.int64), *found]).tolist() == list(range(rows))
    assert all(0 < len(block) <= 7 for block in found)


@pytest.mark.parametrize("column_bytes", [0, 80, 170, 10_000])
@pytest.mark.parametrize("shape", [(20, 5), (20, 1), (0, 3), (3, 0)])
def test_columns_are_those_of_the_table(
    shape: tuple[int, int], column_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and contiguous, whether one is held at a time or all of them."""
    monkeypatch.setattr(walking, "BLOCK_ROWS", 7)
    table = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    found = list(columns(table, column_bytes=column_bytes))
    assert len(found) == shape[1]
    for index, column in enumerate(found):
        np.testing.assert_array_equal(column, table[:, index], strict=True)
        assert column.flags.c_contiguous
