"""Reading data sets: what is accepted, what is refused, and with which words."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from service.errors import DataInvalid
from training.datasets import canonical, handbook

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

HANDBOOK = pl.DataFrame(
    {
        "TRANSACTION_ID": [0, 1, 2],
        "TX_DATETIME": [datetime(2018, 4, 1, 0, 0, 31), datetime(2018, 4, 1, 0, 2, 10), datetime(2018, 4, 1, 0, 7, 56)],  # noqa: DTZ001 - the Handbook's times name no zone
        "CUSTOMER_ID": [596, 4961, 596],
        "TERMINAL_ID": [3156, 3412, 3156],
        "TX_AMOUNT": [57.16, 81.51, 146.0],
        "TX_TIME_SECONDS": [31, 130, 476],
        "TX_TIME_DAYS": [0, 0, 0],
        "TX_FRAUD": [0, 1, 0],
        "TX_FRAUD_SCENARIO": [0, 2, 0],
    }
)


def table(**columns: object) -> pl.DataFrame:
    """Two good canonical rows, with columns replaced or added."""
    rows: dict[str, object] = {
        "transaction_id": ["a", "b"],
        "timestamp": [NOON, NOON + timedelta(minutes=1)],
        "card_id": ["c1", "c2"],
        "merchant_id": ["m1", "m1"],
        "amount": [1250, 0],
        "currency": ["EUR", "JPY"],
        "is_fraud": [False, True],
    }
    return pl.DataFrame(rows | columns)


def test_a_canonical_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Columns, types and values survive; times become UTC milliseconds."""
    path = tmp_path / "data.parquet"
    table(merchant_country=["DE", None], latitude=[52.5, None], longitude=[13.4, None]).write_parquet(path)
    read = canonical.load(path)
    assert read.schema["timestamp"] == pl.Datetime("ms", "UTC")
    assert read["amount"].to_list() == [1250, 0]
    assert read["merchant_country"].to_list() == ["DE", None]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_pieces_of_a_file_are_the_file(rows: int, tmp_path: Path) -> None:
    """Of any size, one after the other, they are what is read at once."""
    path = tmp_path / "data.parquet"
    minutes = range(7)
    times = pl.Series([NOON + timedelta(minutes=minute) for minute in minutes])
    names = [f"t{minute}" for minute in minutes]
    columns = {"timestamp": times, "transaction_id": names, "amount": list(minutes), "is_fraud": [True] * 7}
    table().select("card_id", "merchant_id", "currency").head(1).join(pl.DataFrame(columns), how="cross").write_parquet(
        path, row_group_size=2
    )
    read = list(canonical.pieces(path, rows=rows))
    assert [len(piece) for piece in read] == [min(rows, 7 - start) for start in range(0, 7, rows)]
    assert pl.concat(read).rows() == canonical.load(path).rows()
    assert canonical.row_count(path) == 7


def test_a_fault_in_a_later_piece_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    """Not by its place in the piece."""
    path = tmp_path / "data.parquet"
    table(currency=["EUR", "euros"]).write_parquet(path)
    with pytest.raises(DataInvalid, match="column currency, row 1: expected an ISO 4217 currency"):
        list(canonical.pieces(path, rows=1))


def test_whether_a_file_is_in_order_is_read_from_its_times(tmp_path: Path) -> None:
    """Equal times are in order; a file without times is refused as such."""
    path = tmp_path / "data.parquet"
    for second, in_order in ((NOON, True), (NOON + timedelta(minutes=1), True), (NOON - timedelta(minutes=1), False)):
        table(timestamp=[NOON, second]).write_parquet(path)
        assert canonical.is_in_order(path) == in_order
    for faulty, fault in ((table().drop("timestamp"), "column timestamp is missing"), (table().clear(), "no rows")):
        faulty.write_parquet(path)
        with pytest.raises(DataInvalid, match=fault):
            canonical.is_in_order(path)


def test_rows_are_put_in_order_and_equal_times_keep_theirs() -> None:
    """Sorted by time; among equal times the file's order decides."""
    rows = table(transaction_id=["late", "first"], timestamp=[NOON, NOON - timedelta(hours=1)])
    same = table(transaction_id=["x", "a"], timestamp=[NOON, NOON])
    read = canonical.canonical(pl.concat([rows, same]), source="test")
    assert read["transaction_id"].to_list() == ["first", "late", "x", "a"]


def test_dictionary_columns_stay_dictionaries() -> None:
    """A categorical column is as good as text, and is not blown up into it."""
    cards = pl.Series(["c1", "c2"], dtype=pl.Categorical)
    assert canonical.canonical(table(card_id=cards), source="test").schema["card_id"] == pl.Categorical


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"amount": [12.5, 1.0]}, "column amount is Float64, expected whole minor units"),
        ({"amount": [-1, 5]}, "column amount, row 0: expected whole minor units"),
        ({"amount": [5, 10**12 + 1]}, "column amount, row 1: expected whole minor units"),
        ({"amount": [5, None]}, "column amount, row 1: expected whole minor units"),
        ({"timestamp": ["2026-11-21T12:00:00Z"] * 2}, "column timestamp is String, expected a time with a time zone"),
        ({"timestamp": [NOON.replace(tzinfo=None)] * 2}, "expected a time with a time zone"),
        ({"card_id": ["c1", "not a token"]}, "column card_id, row 1: expected a string of 1 to 64"),
        ({"card_id": ["c1", "x" * 65]}, "column card_id, row 1"),
        ({"currency": ["EUR", "EURO"]}, "column currency, row 1: expected an ISO 4217 currency"),
        ({"merchant_country": ["DE", "XX"]}, "column merchant_country, row 1: expected an ISO 3166"),
        ({"merchant_category_code": ["5411", "541"]}, "column merchant_category_code, row 1: expected 4 digits"),
        ({"channel": ["pos", "POS"]}, "column channel, row 1: expected one of ecommerce, pos"),
        ({"latitude": [1.0, 91.0], "longitude": [1.0, 1.0]}, "column latitude, row 1: expected degrees"),
        ({"latitude": [1.0, 1.0]}, "latitude and longitude come together"),
        ({"transaction_id": ["a", "a"]}, "column transaction_id, row 0: is used more than once"),
        ({"reported_at": [None, NOON]}, "column reported_at, row 1: is before the transaction"),
        ({"is_fraud": [0, 1]}, "column is_fraud is Int64, expected true or false"),
        ({"terminalid": ["t", "t"]}, "column terminalid is not part of the format"),
    ],
)  # fmt: skip
def test_impossible_data_are_refused_with_column_row_and_expectation(changed: dict[str, object], expected: str) -> None:
    """The first thing that is wrong is named: where it stands and what should stand there."""
    with pytest.raises(DataInvalid, match=expected):
        canonical.canonical(table(**changed), source="test")


@pytest.mark.parametrize(
    "name", ["transaction_id", "timestamp", "card_id", "merchant_id", "amount", "currency", "is_fraud"]
)
def test_a_missing_column_is_refused_by_name(name: str) -> None:
    """Every required column is required."""
    with pytest.raises(DataInvalid, match=f"column {name} is missing"):
        canonical.canonical(table().drop(name), source="test")


def test_a_refusal_never_repeats_the_value() -> None:
    """What stands in the wrong place may be a card number."""
    with pytest.raises(DataInvalid) as refusal:
        canonical.canonical(table(card_id=["c1", "4111 1111 1111 1111"]), source="test")
    assert "4111" not in str(refusal.value)


def test_an_empty_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    """Neither gives an empty model."""
    with pytest.raises(DataInvalid, match="there are no rows"):
        canonical.canonical(table().clear(), source="test")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataInvalid, match=r"broken\.parquet"):
        canonical.load(tmp_path / "broken.parquet")


@pytest.mark.parametrize("kind", ["parquet", "csv", "folder"])
def test_the_handbook_is_read_from_parquet_csv_or_a_folder(kind: str, tmp_path: Path) -> None:
    """Terminals stand for merchants, amounts become cents, frauds are reported a label delay later."""
    path = tmp_path / {"parquet": "hb.parquet", "csv": "hb.csv", "folder": "days"}[kind]
    if kind == "csv":
        HANDBOOK.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S")
    elif kind == "parquet":
        HANDBOOK.write_parquet(path)
    else:
        path.mkdir()
        HANDBOOK.head(2).write_parquet(path / "2018-04-01.parquet")
        HANDBOOK.tail(1).write_parquet(path / "2018-04-02.parquet")
    read = handbook.load(path, label_delay_days=7)
    assert read["transaction_id"].to_list() == ["h0", "h1", "h2"]
    assert read["card_id"].to_list() == ["c596", "c4961", "c596"]
    assert read["merchant_id"].to_list() == read["terminal_id"].to_list() == ["t3156", "t3412", "t3156"]
    assert read["amount"].to_list() == [5716, 8151, 14600]
    assert read["timestamp"][0] == datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)
    assert read["is_fraud"].to_list() == [False, True, False]
    assert read["typology"].to_list() == [None, "scenario_2", None]
    assert read["reported_at"].to_list() == [None, datetime(2018, 4, 8, 0, 2, 10, tzinfo=UTC), None]


def test_another_table_is_not_taken_for_the_handbook(tmp_path: Path) -> None:
    """A file without the Handbook's columns is refused by the name of the first that is missing."""
    table().write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataInvalid, match="the Handbook's column TRANSACTION_ID is missing"):
        handbook.load(tmp_path / "other.parquet")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    """The published pickles can run code; a folder of them holds nothing we read."""
    (tmp_path / "2018-04-01.pkl").write_bytes(b"")
    with pytest.raises(DataInvalid, match=r"expected a \.parquet or \.csv file"):
        handbook.load(tmp_path)
