"""Writing transactions as one canonical Parquet file, in the order of time, with a bounded part of them in memory."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from service.errors import DataInvalid
from training.datasets.canonical import in_order

SLICE_ROWS = 500_000  # of the sorted table, in memory at once; a time that more rows share is not cut
RUN_GROUP_ROWS = 32_768  # a slice reads only the groups of a run that its times lie in


def convert(
    pieces: Iterable[pl.DataFrame],
    out: Path,
    *,
    source: str,
    tell: Callable[[int], None],
    slice_rows: int = SLICE_ROWS,
) -> int:
    """Sort checked pieces into one file: each by itself into a run on disk, then all runs together slice by slice.

    Besides a piece or a slice, eight bytes a row are in memory: the times, to cut the slices, and then the ids' hashes.

    Args:
        pieces: canonical transactions (`training.datasets.canonical.checked`), of the same columns.
        out: the Parquet file. It appears whole or not at all; runs and slices lie beside it for a while.
        source: what to call the pieces in errors.
        tell: told how many transactions more were read.
        slice_rows: how many sorted rows to hold at once.

    Returns:
        How many transactions were written. Equal times are in the order of the pieces, and of the rows in each.

    Raises:
        DataInvalid: there is no piece, or a transaction_id is used more than once.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as scratch:
        runs: list[Path] = []
        count = 0
        for piece in pieces:
            runs.append(Path(scratch) / f"run-{len(runs)}.parquet")
            in_order(piece, source=source).write_parquet(runs[-1], row_group_size=RUN_GROUP_ROWS)
            count += len(piece)
            tell(len(piece))
        if not runs:
            raise DataInvalid(f"{source}: there are no rows")
        slices: list[Path] = []
        for part in _slices(pl.scan_parquet(runs, glob=False), slice_rows):
            slices.append(Path(scratch) / f"slice-{len(slices)}.parquet")
            part.sink_parquet(slices[-1])
        table = pl.scan_parquet(slices, glob=False)
        refuse_repeated_ids(table, source)
        whole = Path(scratch) / "whole.parquet"
        table.sink_parquet(whole)
        whole.replace(out)
    return count


def refuse_repeated_ids(transactions: pl.LazyFrame, source: str) -> None:
    """Look for a transaction_id that is used more than once. Exact: ids whose hashes meet are compared themselves.

    Raises:
        DataInvalid: there is one.
    """
    name = pl.col("transaction_id")
    hashes = transactions.select(name.hash()).collect(engine="streaming").to_series().sort()
    met = hashes.filter(hashes == hashes.shift()).unique()
    if met.is_empty():
        return
    suspects = transactions.select(name).filter(name.hash().is_in(met.implode())).collect(engine="streaming")
    if suspects["transaction_id"].is_duplicated().any():
        raise DataInvalid(f"{source}: column transaction_id: one is used more than once")


def _slices(runs: pl.LazyFrame, rows: int) -> Iterator[pl.LazyFrame]:
    """The runs, one after the other, as slices of about so many rows that follow each other in time, each sorted."""
    times = runs.select("timestamp").collect(engine="streaming").to_series().sort()
    starts = times.gather_every(rows).unique(maintain_order=True).to_list()
    del times
    time = pl.col("timestamp")
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        within = time >= start if end is None else (time >= start) & (time < end)
        yield runs.filter(within).sort("timestamp", maintain_order=True)
