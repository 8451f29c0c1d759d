"""The canonical data set: one row per transaction, the request's fields as columns, and what became of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import polars as pl

from service.errors import DataInvalid
from service.vocabulary import COUNTRIES, CURRENCIES, Channel, CheckResult, EntryMode, FollowKind, ThreeDS

MAX_AMOUNT_MINOR = 10**12
PIECE_ROWS = 500_000  # some 250 MB as text, and twice that as features and what they are made of

Acceptable: TypeAlias = Callable[[pl.Expr], pl.Expr]


@dataclass(frozen=True, slots=True)
class Column:
    """What a column must hold.

    Attributes:
        expected: in words, for the person who has to repair the data.
        type: the type it is read as.
        acceptable: which present values are allowed.
        required: whether the column must be there, without nulls.
    """

    expected: str
    type: pl.DataType
    acceptable: Acceptable
    required: bool = False


def load(path: Path) -> pl.DataFrame:
    """Read a canonical Parquet file.

    Returns:
        Rows in the order of `timestamp` (equal times in file order), with those of `COLUMNS` that the file has.

    Raises:
        DataInvalid: the file cannot be read, or names the first column and row that break the format.
    """
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataInvalid(f"{path}: {error}") from error
    return canonical(table, source=str(path))


def pieces(path: Path, *, rows: int = PIECE_ROWS) -> Iterator[pl.DataFrame]:
    """Read a canonical Parquet file in pieces, each checked, in the order of the file.

    Raises:
        DataInvalid: the file cannot be read, or names the first column and row that break the format.
    """
    for start in range(0, max(row_count(path), 1), rows):
        piece = _collected(pl.scan_parquet(path).slice(start, rows), path)
        yield checked(piece, source=str(path), rows=pl.int_range(start, start + len(piece), eager=True))


def row_count(path: Path) -> int:
    """How many rows a Parquet file has.

    Raises:
        DataInvalid: it is not one.
    """
    return int(_collected(pl.scan_parquet(path).select(pl.len()), path).item())


def is_in_order(path: Path) -> bool:
    """Whether the rows of a canonical Parquet file stand in the order of time. Its times are in memory for a moment.

    Raises:
        DataInvalid: the file cannot be read, or its columns are not those of the format.
    """
    table = pl.scan_parquet(path)
    checked(_collected(table.head(1), path), source=str(path))
    return _collected(table.select("timestamp"), path).to_series().is_sorted()


def _collected(table: pl.LazyFrame, path: Path) -> pl.DataFrame:
    try:
        return table.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataInvalid(f"{path}: {error}") from error


def canonical(table: pl.DataFrame, *, source: str) -> pl.DataFrame:
    """Check a table against the format and put it in order.

    Args:
        table: the rows, in arrival order where times are equal.
        source: what to call it in errors.

    Raises:
        DataInvalid: a column is missing, unknown or of another type, or a value is impossible.
    """
    return in_order(checked(table, source=source), source=source)


def checked(table: pl.DataFrame, *, source: str, rows: pl.Series | None = None) -> pl.DataFrame:
    """Check a table, or a piece of one, against the format: everything that a row says by itself.

    Args:
        table: the rows, in any order.
        source: what to call it in errors.
        rows: the number to call each row by in errors; none: counted from 0.

    Raises:
        DataInvalid: a column is missing, unknown or of another type, or a value is impossible.
    """
    if table.is_empty():
        raise DataInvalid(f"{source}: there are no rows")
    unknown = [name for name in table.columns if name not in COLUMNS]
    if unknown:
        raise DataInvalid(
            f"{source}: column {unknown[0]} is not part of the format; its columns are {', '.join(COLUMNS)}"
        )
    missing = [name for name, column in COLUMNS.items() if column.required and name not in table.columns]
    if missing:
        raise DataInvalid(f"{source}: column {missing[0]} is missing, expected {COLUMNS[missing[0]].expected}")
    typed = table.with_columns(_typed(table[name], COLUMNS[name], source) for name in table.columns)
    for name in typed.columns:
        _check_values(typed, name, source, rows)
    _check_relations(typed, source, rows)
    return typed


def in_order(table: pl.DataFrame, *, source: str) -> pl.DataFrame:
    """Put a whole checked table in the order of `timestamp`; equal times keep theirs.

    Raises:
        DataInvalid: a transaction_id is used more than once.
    """
    repeated = pl.col("transaction_id").is_duplicated()
    _refuse(table, repeated, f"{source}: column transaction_id", "is used more than once", None)
    return table if table["timestamp"].is_sorted() else table.sort("timestamp", maintain_order=True)


def _typed(values: pl.Series, column: Column, source: str) -> pl.Series:
    """The column in its type, if it is of that kind at all: text is not parsed and numbers are not rounded."""
    kind, wanted = values.dtype, column.type
    same = (
        (isinstance(wanted, pl.String) and isinstance(kind, pl.String | pl.Categorical | pl.Enum))
        or (isinstance(wanted, pl.Int64) and kind.is_integer())
        or (isinstance(wanted, pl.Float64) and kind.is_numeric())
        or (isinstance(wanted, pl.Boolean) and kind == pl.Boolean)
        or (isinstance(wanted, pl.Datetime) and isinstance(kind, pl.Datetime) and kind.time_zone is not None)
        or kind == pl.Null
    )
    if not same:
        raise DataInvalid(f"{source}: column {values.name} is {kind}, expected {column.expected}")
    if isinstance(wanted, pl.String):
        return (
            values if kind != pl.Null else values.cast(pl.String)
        )  # a dictionary stays one: it is a tenth of the size
    if isinstance(wanted, pl.Datetime):
        return values.dt.convert_time_zone("UTC").cast(wanted) if kind != pl.Null else values.cast(wanted)
    return values.cast(wanted)


def _check_values(table: pl.DataFrame, name: str, source: str, rows: pl.Series | None) -> None:
    column = COLUMNS[name]
    value = pl.col(name)
    if isinstance(column.type, pl.String) and table.schema[name] != pl.String:
        value = value.cast(pl.String)
    bad = value.is_not_null() & ~column.acceptable(value)
    if column.required:
        bad = bad | value.is_null()
    _refuse(table, bad, f"{source}: column {name}", f"expected {column.expected}", rows)


def _check_relations(table: pl.DataFrame, source: str, rows: pl.Series | None) -> None:
    if "reported_at" in table.columns:
        early = pl.col("is_fraud") & (pl.col("reported_at") < pl.col("timestamp")).fill_null(value=False)
        _refuse(table, early, f"{source}: column reported_at", "is before the transaction", rows)
    if ("latitude" in table.columns) != ("longitude" in table.columns):
        raise DataInvalid(f"{source}: latitude and longitude come together")


def _refuse(table: pl.DataFrame, bad: pl.Expr, where: str, what: str, rows: pl.Series | None) -> None:
    """Name the first bad row; never its value, which may be a card number."""
    found = table.select(bad.arg_true().first()).item()
    if found is not None:
        raise DataInvalid(f"{where}, row {found if rows is None else rows[found]}: {what}")


def _one_of(words: "frozenset[str] | type[Channel | CheckResult | EntryMode | FollowKind | ThreeDS]") -> Acceptable:
    allowed = sorted(str(word) for word in words)
    return lambda value: value.is_in(allowed)


def _matching(pattern: str) -> Acceptable:
    return lambda value: value.str.contains(pattern)


def _between(low: float, high: float) -> Acceptable:
    return lambda value: value.is_between(low, high)


def _anything(value: pl.Expr) -> pl.Expr:
    return value.is_not_null()


def _token(*, required: bool = False) -> Column:
    return Column(
        "a string of 1 to 64 of A-Z a-z 0-9 . _ : -",
        pl.String(),
        _matching(r"^[A-Za-z0-9._:-]{1,64}$"),
        required,
    )


_UTC_MS = pl.Datetime("ms", "UTC")
_COUNTRY = Column("an ISO 3166 alpha-2 country", pl.String(), _one_of(COUNTRIES))
_CHECK = Column("one of " + ", ".join(CheckResult), pl.String(), _one_of(CheckResult))

COLUMNS = {
    "transaction_id": _token(required=True),
    "timestamp": Column("a time with a time zone", _UTC_MS, _anything, required=True),
    "card_id": _token(required=True),
    "merchant_id": _token(required=True),
    "amount": Column(
        f"whole minor units from 0 to {MAX_AMOUNT_MINOR}", pl.Int64(), _between(0, MAX_AMOUNT_MINOR), required=True
    ),
    "currency": Column("an ISO 4217 currency", pl.String(), _one_of(CURRENCIES), required=True),
    "merchant_category_code": Column("4 digits (ISO 18245)", pl.String(), _matching(r"^[0-9]{4}$")),
    "merchant_country": _COUNTRY,
    "card_country": _COUNTRY,
    "billing_country": _COUNTRY,
    "shipping_country": _COUNTRY,
    "ip_country": _COUNTRY,
    "terminal_id": _token(),
    "device_id": _token(),
    "customer_id": _token(),
    "email_hash": _token(),
    "ip_address": Column("an IPv4 or IPv6 address", pl.String(), _matching(r"^[0-9A-Fa-f.:]{2,45}$")),
    "channel": Column("one of " + ", ".join(Channel), pl.String(), _one_of(Channel)),
    "entry_mode": Column("one of " + ", ".join(EntryMode), pl.String(), _one_of(EntryMode)),
    "cvc_check": _CHECK,
    "avs_check": _CHECK,
    "three_ds": Column("one of " + ", ".join(ThreeDS), pl.String(), _one_of(ThreeDS)),
    "latitude": Column("degrees from -90 to 90", pl.Float64(), _between(-90, 90)),
    "longitude": Column("degrees from -180 to 180", pl.Float64(), _between(-180, 180)),
    "follows": _token(),
    "follow_kind": Column("one of " + ", ".join(FollowKind), pl.String(), _one_of(FollowKind)),
    "is_fraud": Column("true or false", pl.Boolean(), _anything, required=True),
    "reported_at": Column("a time with a time zone", _UTC_MS, _anything),
    "typology": Column("the name of a kind of fraud", pl.String(), _matching(r"^[a-z0-9_]{1,64}$")),
}
"""The format, in the order in which columns are described. Required ones first come as the request names them."""
