"""Published data sets: each file's rows as canonical transactions, and what is refused."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from service.currency import parse_currency_table
from service.errors import DataInvalid
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from service.transaction import read_transaction
from service.vocabulary import COUNTRIES
from training.__main__ import app
from training.datasets import ieee_cis, paysim, published, sparkov, tabformer, ulb
from training.datasets.countries import country_codes
from training.datasets.published import Published
from training.examples import declare_reports, replay_offline
from training.requests import Bodies, request_lines

SAMPLES = Path(__file__).parent / "samples"
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
ARRIVAL_MS = 1_790_000_000_000

SETS = {
    "sparkov": sparkov.DATA_SET,
    "tabformer.csv": tabformer.DATA_SET,
    "ieee_cis": ieee_cis.DATA_SET,
    "ulb.csv": ulb.DATA_SET,
    "paysim.csv": paysim.DATA_SET,
}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# SHA-256 of "sparkov:c:4111111111111111" and so on, as sha256sum prints it.
ANN, BEN = "c5b976df1a071b1d13d4c3935984a1369", "cf1b60966744617c1f524c68a3f3dcf47"
OAK, BIRCH = "mba22112e01af730144cb7a78c6025a51", "m6979da35f356d1e4c4c94d7472840430"

EXPECTED = {
    "sparkov": pl.DataFrame(
        {
            "transaction_id": [
                "00112233445566778899aabbccddeeff",
                "ffeeddccbbaa99887766554433221100",
                "0123456789abcdef0123456789abcdef",
            ],
            "timestamp": [at("2019-03-02 03:04:05"), at("2019-03-02 03:04:05"), at("2020-08-21 12:00")],
            "card_id": [ANN, BEN, ANN],
            "merchant_id": [OAK, BIRCH, BIRCH],
            "amount": [1234, 560, 125000],
            "currency": ["USD"] * 3,
            "merchant_category_code": ["5999", "5411", "5200"],
            "channel": ["ecommerce", "pos", None],
            "latitude": [40.75, 45.25, 40.0],
            "longitude": [-90.125, -120.0, -91.0],
            "is_fraud": [False, True, False],
        }
    ),
    "tabformer.csv": pl.DataFrame(
        {
            "transaction_id": ["t0", "t3", "t4", "t5", "t2"],
            "timestamp": [
                at("2015-04-09 08:15"),
                at("2015-04-09 08:15"),
                at("2015-04-09 08:16"),
                at("2015-04-09 08:17"),
                at("2016-12-31 23:59"),
            ],
            "card_id": ["c0-0", "c1-0", "c1-0", "c1-0", "c0-1"],
            "customer_id": ["u0", "u1", "u1", "u1", "u0"],
            "merchant_id": ["m3500000000000000001", "m17", "m17", "m17", "m-720000000000000002"],
            "amount": [2345, 120000, 0, 100, 750],
            "currency": ["USD"] * 5,
            "merchant_category_code": ["5300", "0742", "5812", "5812", "4829"],
            "merchant_country": ["US", "IT", "BS", None, None],
            "channel": ["pos", "pos", "pos", "pos", "ecommerce"],
            "entry_mode": ["magstripe", "chip", "chip", "chip", None],
            "cvc_check": [None, None, None, None, "fail"],
            "avs_check": [None, None, None, None, "fail"],
            "is_fraud": [False, False, False, False, True],
        }
    ),
    "ieee_cis": pl.DataFrame(
        {
            "transaction_id": ["i3000001", "i3000002", "i3000003"],
            "timestamp": [at("2017-12-02 01:00"), at("2017-12-02 01:00:01"), at("2017-12-02 01:08:20")],
            "card_id": [
                "ce5f0454945f225b8b0253a0f8865d197",
                "cae2664257e9e040cea5651ae0ebeedb6",
                "ce5f0454945f225b8b0253a0f8865d197",
            ],
            "merchant_id": ["pW", "pC", "pW"],
            "amount": [2025, 3313, 4100],
            "currency": ["USD"] * 3,
            "device_id": [None, "d8cc1a1374818179ca8409a3a1380e819", None],
            "channel": ["ecommerce"] * 3,
            "is_fraud": [False, True, False],
        }
    ),
    "ulb.csv": pl.DataFrame(
        {
            "transaction_id": ["b0", "b1", "b2"],
            "timestamp": [at("2013-09-01"), at("2013-09-01"), at("2013-09-02 03:46:40")],
            "card_id": ["c0", "c1", "c2"],
            "merchant_id": ["m0", "m1", "m2"],
            "amount": [1234, 0, 250],
            "currency": ["EUR"] * 3,
            "is_fraud": [False, False, True],
        }
    ),
    "paysim.csv": pl.DataFrame(
        {
            "transaction_id": ["p0", "p1", "p2"],
            "timestamp": [at("2017-01-01"), at("2017-01-01"), at("2017-01-31 19:00")],
            "card_id": ["C1000000001", "C1000000003", "C1000000005"],
            "merchant_id": ["M1000000002", "C1000000004", "C1000000004"],
            "amount": [123456, 25000, 9876543],
            "currency": ["EUR"] * 3,
            "merchant_category_code": ["5999", "4829", "6010"],
            "is_fraud": [False, True, True],
        }
    ),
}

every_set = pytest.mark.parametrize("sample", SETS)


def plain(table: pl.DataFrame) -> list[dict[str, object]]:
    return table.rows(named=True)


@every_set
def test_a_sample_becomes_exactly_these_transactions(sample: str) -> None:
    """Columns, values and order are what the adapter's documentation says."""
    read = published.load(SAMPLES / sample, SETS[sample])
    assert read.columns == EXPECTED[sample].columns
    assert plain(read) == plain(EXPECTED[sample])


@every_set
def test_small_pieces_together_are_the_whole(sample: str) -> None:
    """How much is read at once changes nothing."""
    one_by_one = list(published.pieces(SAMPLES / sample, SETS[sample], rows=1))
    whole = published.load(SAMPLES / sample, SETS[sample])
    assert [len(piece) for piece in one_by_one] == [1] * len(whole)
    assert plain(pl.concat(one_by_one).sort("timestamp", maintain_order=True)) == plain(whole)


@every_set
def test_features_are_computed_for_every_row(sample: str) -> None:
    """The engine takes the table as it is, whatever columns the set has."""
    plan = compile_plan(parse_spec(yaml.safe_load((CONFIGS / "features.yaml").read_bytes())))
    currencies = parse_currency_table(yaml.safe_load((CONFIGS / "currencies.yaml").read_bytes()))
    frame = declare_reports(published.load(SAMPLES / sample, SETS[sample]), 7)
    examples = replay_offline(frame, plan, currencies)
    assert examples.numeric.shape == (len(frame), len(plan.numeric))
    assert examples.labels.tolist() == EXPECTED[sample]["is_fraud"].to_list()
    assert (examples.amount_minor > 0).tolist() == (EXPECTED[sample]["amount"] > 0).to_list()
    assert np.isfinite(examples.numeric).any(axis=1).all()


@every_set
def test_the_service_takes_every_row_as_a_request(sample: str) -> None:
    """Ids are tokens and no card numbers, words are the service's, times are in its range."""
    frame = published.load(SAMPLES / sample, SETS[sample])
    lines = list(request_lines(frame))
    assert len(lines) == len(frame)
    for row, line in enumerate(lines):
        transaction = read_transaction(line, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)
        assert transaction.transaction_id == Bodies(frame).transaction(row)["transaction_id"]


@pytest.mark.parametrize(
    ("data_format", "sample"), list(zip(("sparkov", "tabformer", "ieee-cis", "ulb", "paysim"), SETS, strict=True))
)
def test_the_commands_read_it_by_its_name(data_format: str, sample: str, tmp_path: Path) -> None:
    """One option is all it takes; each fraud is reported the declared delay later."""
    out = tmp_path / "requests.ndjson"
    command = ["requests", "--data", str(SAMPLES / sample), "--format", data_format, "--label-delay", "3"]
    ran = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    bodies = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    reports = [datetime.fromisoformat(body["reported_at"]) for body in bodies if "reported_at" in body]
    frauds = EXPECTED[sample].filter("is_fraud")
    assert len(bodies) == len(EXPECTED[sample]) + len(frauds)
    assert reports == [time + timedelta(days=3) for time in frauds["timestamp"]]


MISSING = [
    ("sparkov/fraudTrain.csv", "merch_lat", "Sparkov's column merch_lat is missing"),
    ("tabformer.csv", "Errors?", "TabFormer's column Errors[?] is missing"),
    ("ieee_cis/train_transaction.csv", "card6", "IEEE-CIS's column card6 is missing"),
    ("ieee_cis/train_identity.csv", "id_31", "id_31"),
    ("ulb.csv", '"Amount"', "ULB's column Amount is missing"),
    ("paysim.csv", "nameDest", "PaySim's column nameDest is missing"),
]


@pytest.mark.parametrize(("file", "column", "expected"), MISSING)
def test_a_missing_column_is_refused_by_name(file: str, column: str, expected: str, tmp_path: Path) -> None:
    """Each column that is read must be there; the error says which, and of which set."""
    path, data_set = spoilt(tmp_path, file, column, "another")
    with pytest.raises(DataInvalid, match=f"(?s){path}.*{expected}"):
        published.load(path, data_set)


BAD = [
    ("sparkov/fraudTrain.csv", "60000000001,", "6000x,", "fraudTrain.csv: column cc_num, row 1: expected 8 to 19"),
    ("sparkov/fraudTrain.csv", "2019-03-02 03:04:05", "02/03/2019 03:04", "column trans_date_trans_time, row 0"),
    ("sparkov/fraudTrain.csv", "grocery_pos", "grocery", "column category, row 1: expected one of entertainment,"),
    ("sparkov/fraudTrain.csv", ",12.34,", ",-12.34,", "fraudTrain.csv: column amount, row 0: expected whole minor"),
    ("sparkov/fraudTest.csv", ",40.0,-91.0,", ",140.0,-91.0,", "fraudTest.csv: column latitude, row 0: expected deg"),
    ("sparkov/fraudTest.csv", ",-91.0,", ",,", "fraudTest.csv: column merch_long, row 0: expected degrees"),
    ("sparkov/fraudTest.csv", "0123456789abcdef" * 2, "ffeeddccbbaa99887766554433221100", "used more than once"),
    ("tabformer.csv", "$1200.00", "1200.00 USD", "column Amount, row 3: expected an amount like"),
    ("tabformer.csv", "2015,4,9,08:16,$0", "2015,2,30,08:16,$0", "column Year and Month and Day and Time, row 4"),
    ("tabformer.csv", "Online Transaction", "Online", "column Use Chip, row 2: expected one of Chip"),
    ("tabformer.csv", ",Yes", ",yes", "column Is Fraud[?], row 2: expected Yes or No"),
    ("tabformer.csv", ",742,", ",A742,", "column MCC, row 3: expected 1 to 4 digits"),
    ("ieee_cis/train_transaction.csv", "90001", "later", "column TransactionDT, row 1: expected seconds"),
    ("ieee_cis/train_transaction.csv", "W,10001,", "W,,", "column card1 and .*addr1, row 0: expected card1 at least"),
    ("ieee_cis/train_transaction.csv", "3000003", "3000001", "column transaction_id, row 0: is used more than once"),
    ("ulb.csv", "1e+05", "nan", "column Time, row 2: expected seconds"),
    ("ulb.csv", '2.5,"1"', '2.5,"2"', "column Class, row 2: expected 0 or 1"),
    ("paysim.csv", "740,", "0,", "column step, row 2: expected an hour, counted from 1"),
    ("paysim.csv", "1234.56", "1,234.56", "column nameOrig, row 0: expected C or M and digits"),
    ("paysim.csv", "CASH_OUT", "CASH-OUT", "column type, row 2: expected one of CASH_IN, CASH_OUT"),
    ("paysim.csv", "M1000000002", "1000000002", "column nameDest, row 0: expected C or M and digits"),
]


@pytest.mark.parametrize(("file", "good", "bad", "expected"), BAD)
def test_a_bad_value_is_refused_by_column_and_row(
    file: str, good: str, bad: str, expected: str, tmp_path: Path
) -> None:
    """The first value that does not say what it must is named by where it stands."""
    path, data_set = spoilt(tmp_path, file, good, bad)
    with pytest.raises(DataInvalid, match=expected):
        published.load(path, data_set)


def test_a_refusal_never_repeats_the_value(tmp_path: Path) -> None:
    """What stands in the wrong place may be a card number."""
    path, data_set = spoilt(tmp_path, "sparkov/fraudTrain.csv", "4111111111111111", "4111-1111-1111-1111")
    with pytest.raises(DataInvalid) as refusal:
        published.load(path, data_set)
    assert "1111" not in str(refusal.value)


def test_rows_are_counted_in_the_file_and_not_in_the_piece(tmp_path: Path) -> None:
    """A person looks for the row in the file, refunds and all."""
    path, data_set = spoilt(tmp_path, "tabformer.csv", "$1.00", "1.00")
    with pytest.raises(DataInvalid, match="column Amount, row 5:"):
        list(published.pieces(path, data_set, rows=2))


def test_card_numbers_are_not_kept() -> None:
    """Whatever looks like one is a token in the table, the same in every file of the set."""
    read = published.load(SAMPLES / "sparkov", sparkov.DATA_SET)
    assert "4111111111111111" not in read.write_csv()
    assert read["card_id"][0] == read["card_id"][2] != read["card_id"][1]


def test_refunds_are_left_out_and_counted() -> None:
    """A negative amount is no authorisation; how many there were is told."""
    left_out: list[int] = []
    pieces = published.pieces(SAMPLES / "tabformer.csv", tabformer.DATA_SET, left_out=left_out.append)
    assert "t1" not in pl.concat(pieces)["transaction_id"]
    assert sum(left_out) == 1


def test_transactions_without_identity_are_read_alone(tmp_path: Path) -> None:
    """The identity file adds the device; nothing else changes without it."""
    shutil.copy(SAMPLES / "ieee_cis" / "train_transaction.csv", tmp_path)
    read = published.load(tmp_path / "train_transaction.csv", ieee_cis.DATA_SET)
    assert read["device_id"].to_list() == [None] * 3
    assert plain(read.drop("device_id")) == plain(EXPECTED["ieee_cis"].drop("device_id"))


def test_a_part_of_a_set_is_read_by_its_file() -> None:
    """The later half of Sparkov alone, from a path to it."""
    read = published.load(SAMPLES / "sparkov" / "fraudTest.csv", sparkov.DATA_SET)
    assert plain(read) == plain(EXPECTED["sparkov"].tail(1))


@every_set
def test_what_holds_no_transactions_is_refused(sample: str, tmp_path: Path) -> None:
    """An empty file, a header alone and a directory without the files give no empty table."""
    data_set = SETS[sample]
    with pytest.raises(DataInvalid, match=f"expected {data_set.name}'s {data_set.files[0]}"):
        published.load(tmp_path, data_set)
    file = tmp_path / data_set.files[0]
    file.write_text("")
    with pytest.raises(DataInvalid, match="empty"):
        published.load(file, data_set)
    file.write_text(header(SAMPLES / sample, data_set))
    with pytest.raises(DataInvalid, match="there are no rows"):
        published.load(file, data_set)


def test_every_country_has_a_name() -> None:
    """The names stand for the service's countries, all of them and no others."""
    codes = country_codes()
    assert set(codes.values()) == COUNTRIES
    assert {codes[name] for name in ("Turkey", "Türkiye", "Netherlands", "Vatican City")} == {"TR", "NL", "VA"}


def spoilt(directory: Path, file: str, good: str, bad: str) -> tuple[Path, Published]:
    """A copy of a sample in which one thing is replaced in one file, where it stands first; and which set it is of."""
    sample = Path(file).parts[0]
    shutil.copytree(SAMPLES, directory, dirs_exist_ok=True)
    text = (directory / file).read_text("utf-8")
    assert good in text
    (directory / file).write_text(text.replace(good, bad, 1), "utf-8")
    return directory / sample, SETS[sample]


def header(sample: Path, data_set: Published) -> str:
    file = sample / data_set.files[0] if sample.is_dir() else sample
    return file.read_text("utf-8").splitlines(keepends=True)[0]
