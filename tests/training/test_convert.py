"""Converting: any number of pieces become one sorted canonical file, or none."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from service.errors import DataInvalid
from training.__main__ import app
from training.convert import convert
from training.datasets import canonical, published, tabformer
from training.datasets.formats import Format
from training.stream import in_order

SAMPLES = Path(__file__).parent / "samples"
START = datetime(2026, 1, 1, tzinfo=UTC)


def transactions(count: int) -> pl.DataFrame:
    """Rows in no order, many of them at the same time."""
    minutes = np.random.default_rng(5).integers(0, count // 4, count)
    times = [START + timedelta(minutes=int(minute)) for minute in minutes]
    return pl.DataFrame(
        {
            "transaction_id": [f"t{row}" for row in range(count)],
            "timestamp": pl.Series(times, dtype=pl.Datetime("ms", "UTC")),
            "card_id": pl.Series([f"c{row % 7}" for row in range(count)], dtype=pl.Categorical),
            "merchant_id": pl.Series([f"m{row % 5}" for row in range(count)], dtype=pl.Categorical),
            "amount": np.arange(count),
            "currency": pl.Series(["EUR"] * count, dtype=pl.Categorical),
            "is_fraud": minutes == 0,
        }
    )


@pytest.mark.parametrize(("rows", "slice_rows"), [(1000, 1000), (300, 1), (37, 100), (1, 999)])
def test_pieces_become_what_the_whole_would(rows: int, slice_rows: int, tmp_path: Path) -> None:
    """Sorting in pieces, written in slices, gives the rows, and the order among equal times, of sorting at once."""
    whole, out, told = transactions(1000), tmp_path / "out.parquet", list[int]()
    pieces = whole.iter_slices(rows)
    assert convert(pieces, out, source="test", tell=told.append, slice_rows=slice_rows) == sum(told) == 1000
    read = canonical.load(out)
    assert read.schema["card_id"] == pl.Categorical
    assert read.rows() == canonical.canonical(whole, source="test").rows()
    assert list(tmp_path.iterdir()) == [out]


def test_an_id_in_two_pieces_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    """Uniqueness is of the whole, however it was cut."""
    rows = transactions(10)
    with pytest.raises(DataInvalid, match="transaction_id: one is used more than once"):
        convert([rows, rows.tail(1)], tmp_path / "out.parquet", source="test", tell=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_fault_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    """An older file is replaced by a whole one or not at all."""
    out = tmp_path / "out.parquet"
    out.write_bytes(b"older")

    def broken() -> Iterator[pl.DataFrame]:
        yield transactions(10)
        raise DataInvalid("row 11")

    with pytest.raises(DataInvalid, match="row 11"):
        convert(broken(), out, source="test", tell=lambda _: None)
    with pytest.raises(DataInvalid, match="there are no rows"):
        convert([], out, source="test", tell=lambda _: None)
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_one_command_converts_a_published_file(tmp_path: Path) -> None:
    """What it writes is what the adapter reads, and what was left out is counted."""
    out = tmp_path / "new" / "canonical.parquet"
    command = ["convert", "--data", str(SAMPLES / "tabformer.csv"), "--format", "tabformer", "--out", str(out)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert "wrote 5 transactions" in ran.output
    assert "left out 1 rows" in ran.output
    assert canonical.load(out).rows() == published.load(SAMPLES / "tabformer.csv", tabformer.DATA_SET).rows()


def test_the_handbook_is_converted_without_a_guess_at_its_reports(tmp_path: Path) -> None:
    """When frauds became known is assumed where the table is used, so that the assumption can be changed there."""
    data, out = tmp_path / "handbook.parquet", tmp_path / "out.parquet"
    pl.DataFrame(
        {
            "TRANSACTION_ID": [1, 2],
            "TX_DATETIME": [datetime(2018, 4, 1, 1), datetime(2018, 4, 1)],  # noqa: DTZ001 - the Handbook names no zone
            "CUSTOMER_ID": [3, 4],
            "TERMINAL_ID": [5, 5],
            "TX_AMOUNT": [1.5, 2.0],
            "TX_FRAUD": [1, 0],
        }
    ).write_parquet(data)
    ran = CliRunner().invoke(app, ["convert", "--data", str(data), "--format", "handbook", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    read = canonical.load(out)
    assert read["transaction_id"].to_list() == ["h2", "h1"]
    assert "reported_at" not in read.columns


def test_a_fit_reads_a_file_in_order_as_it_is_and_sorts_any_other(tmp_path: Path) -> None:
    """So a fit needs no memory for the table, and its data no preparation."""
    rows, path, said = transactions(100), tmp_path / "data.parquet", list[str]()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    rows.sort("timestamp", maintain_order=True).write_parquet(path)
    assert in_order(path, Format.CANONICAL, scratch, said.append) == path
    assert (said, list(scratch.iterdir())) == ([], [])
    rows.write_parquet(path)
    ordered = in_order(path, Format.CANONICAL, scratch, said.append)
    assert ordered.parent == scratch
    assert pl.concat(canonical.pieces(ordered)).rows() == canonical.load(path).rows()
    assert len(said) == 1


def test_a_fit_refuses_an_id_that_is_used_twice(tmp_path: Path) -> None:
    """Also in a file that it reads as it is."""
    path = tmp_path / "data.parquet"
    rows = transactions(10).sort("timestamp")
    pl.concat([rows, rows.tail(1)]).write_parquet(path)
    with pytest.raises(DataInvalid, match="transaction_id: one is used more than once"):
        in_order(path, Format.CANONICAL, tmp_path, lambda _: None)
