"""Published data sets: how a CSV file that others made becomes canonical transactions, a piece at a time."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from service.errors import DataInvalid
from training.datasets.canonical import checked, in_order

PIECE_ROWS = 250_000  # read at once: with TabFormer's columns the process then takes 1 GB
ROW = "row"  # our own column beside the published ones: the number of the row in its file, from 0
TOKEN = r"^[A-Za-z0-9._:-]{1,64}$"  # noqa: S105 - a pattern, not a password


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a canonical column comes from.

    Attributes:
        value: of the published columns, all text, and `ROW`; null where they do not say it.
        expected: in words, what must stand there; none: it may be absent.
    """

    value: pl.Expr
    expected: str | None = None

    @property
    def sources(self) -> list[str]:
        """The published columns that the value is made of."""
        return [name for name in dict.fromkeys(self.value.meta.root_names()) if name != ROW]


def scan_csv(file: Path) -> pl.LazyFrame:
    """A CSV file as it is: every column text, empty is null, and `ROW`."""
    return pl.scan_csv(file, infer_schema=False, row_index_name=ROW, glob=False)


@dataclass(frozen=True, slots=True)
class Published:
    """How one published data set is read.

    Attributes:
        name: what people call it.
        files: what its files are called, in the order of time. Any other name is read when it is given itself.
        columns: where each canonical column comes from.
        kept: of the canonical columns, which rows are transactions at all.
        scan: opens a file; every column but `ROW` is text.
    """

    name: str
    files: tuple[str, ...]
    columns: Mapping[str, Reading]
    kept: pl.Expr | None = None
    scan: Callable[[Path], pl.LazyFrame] = scan_csv


def load(path: Path, published: Published) -> pl.DataFrame:
    """Read a published data set whole.

    Args:
        path: its file, or the directory that its files are in.
        published: which one it is.

    Returns:
        Canonical transactions in the order of time; equal times in the order of the file.

    Raises:
        DataInvalid: a file, a column or a value is not what was published.
    """
    read = list(pieces(path, published))
    if not read:
        raise DataInvalid(f"{path}: there are no rows")
    return in_order(pl.concat(read), source=str(path))


def pieces(
    path: Path, published: Published, *, rows: int = PIECE_ROWS, left_out: Callable[[int], None] = lambda _: None
) -> Iterator[pl.DataFrame]:
    """Read a published data set in pieces, each checked, in the order of the file.

    Text becomes a dictionary: that is a tenth of the size, and stays so in Parquet. Only `transaction_id` stays text.

    Args:
        path: its file, or the directory that its files are in.
        published: which one it is.
        rows: the size of a piece, at most.
        left_out: told how many rows of a piece are not transactions.

    Raises:
        DataInvalid: as for `load`.
    """
    words = pl.selectors.string() - pl.selectors.by_name("transaction_id")
    for file in _files(path, published):
        for raw in _raw_pieces(file, published, rows):
            read = _read(raw, published, file)
            kept = read if published.kept is None else read.filter(published.kept)
            left_out(len(read) - len(kept))
            if not kept.is_empty():
                yield checked(kept.drop(ROW), source=str(file), rows=kept[ROW]).with_columns(words.cast(pl.Categorical))


def text(name: str, pattern: str) -> pl.Expr:
    """A published column where it matches the whole pattern."""
    return pl.when(pl.col(name).str.contains(pattern)).then(pl.col(name))


def number(name: str) -> pl.Expr:
    """A published column as a finite number."""
    value = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def minor_units(value: pl.Expr) -> pl.Expr:
    """Units of a currency that has cents, in cents. What is finer than a cent is rounded."""
    return (value * 100).round(mode="half_away_from_zero").cast(pl.Int64, strict=False)


def word(name: str, words: Mapping[str, str | bool]) -> pl.Expr:
    """What a published word means; null for any other."""
    kind = pl.Boolean() if all(isinstance(meaning, bool) for meaning in words.values()) else pl.String()
    return pl.col(name).replace_strict(words, default=None, return_dtype=kind)


def instant(start: datetime, seconds: pl.Expr) -> pl.Expr:
    """So many seconds after a start, to the millisecond."""
    milliseconds = (seconds * 1000).round().cast(pl.Int64, strict=False)
    return (milliseconds + round(start.timestamp() * 1000)).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def token(value: pl.Expr, *, kind: str, data_set: str) -> pl.Expr:
    """A name that stands for a value: the kind, and 32 hexadecimal digits of a SHA-256 salted by the data set's name.

    It makes any text a token and keeps what looks like a card number out of the table. It is no secret: whoever has
    the published file can compute it again.
    """

    def named(values: pl.Series) -> pl.Series:
        distinct = values.unique().drop_nulls()
        salted = (f"{data_set}:{kind}:{one}".encode() for one in distinct)
        names = [f"{kind}{hashlib.sha256(one).hexdigest()[:32]}" for one in salted]
        return values.replace_strict(distinct, pl.Series(names, dtype=pl.String), default=None, return_dtype=pl.String)

    return value.map_batches(named, return_dtype=pl.String)


def _files(path: Path, published: Published) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [path / name for name in published.files if (path / name).is_file()]
    if not files:
        raise DataInvalid(f"{path}: expected {published.name}'s {' or '.join(published.files)} in it")
    return files


def _raw_pieces(file: Path, published: Published, rows: int) -> Iterator[pl.DataFrame]:
    needed = dict.fromkeys(name for reading in published.columns.values() for name in reading.sources)
    try:
        table = published.scan(file)
        there = table.collect_schema()
        missing = [name for name in needed if name not in there]
        if missing:
            raise DataInvalid(f"{file}: {published.name}'s column {missing[0]} is missing; is this another format?")
        yield from table.select(ROW, *needed).collect_batches(chunk_size=rows, engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataInvalid(f"{file}: {error}") from error


def _read(raw: pl.DataFrame, published: Published, file: Path) -> pl.DataFrame:
    """The canonical columns of a piece, and `ROW`. Names the first value that does not say what it must."""
    read = raw.select(ROW, **{name: reading.value for name, reading in published.columns.items()})
    for name, reading in published.columns.items():
        if reading.expected is not None and read[name].null_count():
            row = read.filter(pl.col(name).is_null())[ROW][0]
            column = " and ".join(reading.sources)
            raise DataInvalid(f"{file}: column {column}, row {row}: expected {reading.expected}")
    return read
