import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from service.transaction import read_transaction
from training.simulate import SCHEMA, TYPOLOGIES, SimulationConfig, simulate, slices, write_simulation
from training.simulation.fraud import share_out

LABELS = ["is_fraud", "reported_at", "typology"]
MANY = SimulationConfig(transactions=200_000, seed=3)
SUSPICIOUS = SimulationConfig(transactions=60_000, seed=5, days=90, prevalence=0.05)


@pytest.fixture(scope="module")
def many() -> pl.DataFrame:
    return simulate(MANY)


@pytest.fixture(scope="module")
def suspicious() -> pl.DataFrame:
    return simulate(SUSPICIOUS)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """Two runs with equal configurations leave equal files."""
    config = SimulationConfig(transactions=150_000, seed=11)
    write_simulation(config, tmp_path / "one.parquet")
    write_simulation(config, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_another_seed_draws_other_rows() -> None:
    """No column that is drawn is the same under two seeds."""
    one, two = (simulate(SimulationConfig(transactions=5_000, seed=seed)) for seed in (1, 2))
    for name in set(SCHEMA) - {"is_fraud", "typology", "reported_at", "follow_kind"}:
        assert not one[name].equals(two[name]), name


def test_chunks_do_not_change_the_rows(many: pl.DataFrame, tmp_path: Path) -> None:
    """The file, cut into row groups, and the slices, drawn one by one, hold the rows of the whole."""
    write_simulation(MANY, tmp_path / "many.parquet")
    pieces = list(slices(MANY))
    assert len(pieces) > 1
    assert pl.concat(reversed(pieces)).sort("transaction_id").equals(many)
    assert pl.read_parquet(tmp_path / "many.parquet").equals(many)


@pytest.mark.parametrize("transactions", [1, 2, 19, 1_000, 70_001])
@pytest.mark.parametrize("prevalence", [0.0, 0.001, 0.2])
@pytest.mark.parametrize("days", [1, 33, 200])
def test_as_many_rows_and_frauds_as_asked_for(transactions: int, prevalence: float, days: int) -> None:
    """Whatever the size, the counts are exact and every row lies in the period."""
    config = SimulationConfig(transactions=transactions, seed=2, days=days, prevalence=prevalence)
    drawn = simulate(config)
    assert drawn.schema == SCHEMA
    assert drawn.height == transactions
    assert drawn["is_fraud"].sum() == round(transactions * prevalence)
    assert drawn["timestamp"].is_between(config.start, config.start + timedelta(days=days), closed="left").all()


def test_prevalence_is_one_in_a_thousand_by_default(many: pl.DataFrame) -> None:
    """One row in a thousand is fraud."""
    assert many["is_fraud"].mean() == pytest.approx(0.001, rel=0.1)


def test_rows_are_numbered_in_order_of_time(many: pl.DataFrame) -> None:
    """Timestamps never go back, and ids count the rows."""
    assert many["timestamp"].is_sorted()
    assert many["transaction_id"].to_list() == [f"sim-3-{number:09d}" for number in range(MANY.transactions)]


def test_every_row_is_a_request_the_service_accepts(suspicious: pl.DataFrame) -> None:
    """Each row, written as JSON, passes the contract of a request, with card numbers refused."""
    requests = suspicious.drop(LABELS).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    arrival_ms = round(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for row, event_time_ms in zip(requests.to_dicts(), suspicious["timestamp"].dt.epoch("ms"), strict=True):
        body = json.dumps({name: value for name, value in row.items() if value is not None}).encode()
        transaction = read_transaction(body, arrival_ms=arrival_ms, allow_card_numbers=False)
        assert transaction.event_time_ms == event_time_ms


def test_every_column_says_something(suspicious: pl.DataFrame) -> None:
    """No column is constant or wholly absent."""
    for name in SCHEMA:
        assert suspicious[name].drop_nulls().n_unique() > 1, name


def test_days_are_busier_than_nights(many: pl.DataFrame) -> None:
    """By local time people buy much more at noon than after midnight, and more on Saturday than on Sunday."""
    local = many.filter(card_country="DE", channel="pos")["timestamp"].dt.convert_time_zone("Etc/GMT-1")
    by_hour = dict(local.dt.hour().value_counts().iter_rows())
    by_weekday = dict(local.dt.weekday().value_counts().iter_rows())
    assert by_hour[12] > 8 * by_hour[3]
    assert by_weekday[6] > 1.2 * by_weekday[7]


def test_every_typology_is_there_and_described(many: pl.DataFrame) -> None:
    """Frauds and only frauds have a typology, and each of the six is drawn."""
    assert many.filter(pl.col("typology").is_not_null() != pl.col("is_fraud")).is_empty()
    assert set(many["typology"].drop_nulls()) == set(TYPOLOGIES)
    assert all(description.endswith(".") for description in TYPOLOGIES.values())


def test_the_documentation_tells_every_typology() -> None:
    """The page on the simulator lists each typology with its share and its description."""
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    for name, count in share_out(100).items():
        assert re.search(
            rf"^\| `{name}` \| {count} % \| .+ \| {re.escape(TYPOLOGIES[name])} \|$", page, re.MULTILINE
        ), name


def test_labels_are_known_after_their_transaction(suspicious: pl.DataFrame) -> None:
    """Frauds and only frauds are reported, at least an hour late; friendly fraud 20 to 90 days late."""
    assert suspicious.filter(pl.col("reported_at").is_not_null() != pl.col("is_fraud")).is_empty()
    delay = suspicious.select("typology", late=pl.col("reported_at") - pl.col("timestamp")).drop_nulls()
    assert (delay["late"] >= timedelta(hours=1)).all()
    assert (delay["late"] <= timedelta(days=90)).all()
    assert (delay.filter(typology="friendly_fraud")["late"] >= timedelta(days=20)).all()


def test_followers_come_after_what_they_follow(many: pl.DataFrame) -> None:
    """A further attempt names an earlier row of the same card at the same merchant."""
    followers = many.filter(pl.col("follows").is_not_null())
    assert followers.height > 1_000
    assert followers["follow_kind"].null_count() == 0
    both = followers.join(many, left_on="follows", right_on="transaction_id", suffix="_first")
    assert both.height == followers.height
    assert (both["follows"] < both["transaction_id"]).all()
    for name in ("card_id", "merchant_id", "device_id", "currency"):
        assert both[name].equals(both[f"{name}_first"]), name
    retries = both.filter(follow_kind="retry")
    assert retries["amount"].equals(retries["amount_first"])


def test_no_single_value_gives_fraud_away(suspicious: pl.DataFrame) -> None:
    """With one row in twenty fraud, no common value of a closed field is more often fraud than not."""
    for name in ("channel", "entry_mode", "cvc_check", "avs_check", "three_ds", "merchant_category_code"):
        shares = suspicious.group_by(name).agg(pl.len(), fraud=pl.col("is_fraud").mean()).filter(pl.col("len") >= 100)
        assert shares["fraud"].max() < 0.65, name  # type: ignore[operator] # polars types every maximum as anything


def test_honest_customers_travel_swipe_and_change_phones(many: pl.DataFrame) -> None:
    """Everything that smells of fraud is done by honest customers as well."""
    honest = many.filter(~pl.col("is_fraud"))
    abroad = honest.filter(pl.col("channel") == "pos", pl.col("merchant_country") != pl.col("card_country"))
    assert abroad.height > 1_000
    assert honest.filter(entry_mode="magstripe").height > 1_000
    assert honest.filter(cvc_check="fail").height > 100
    devices = honest.group_by("card_id").agg(pl.col("device_id").drop_nulls().n_unique())["device_id"]
    assert (devices > 2).any()
    assert (devices == 1).any()


def test_a_journey_stays_in_one_country(many: pl.DataFrame) -> None:
    """Two honest payments abroad within a day are nearly always in the same country."""
    pairs = (
        many.filter(
            ~pl.col("is_fraud"), pl.col("channel") == "pos", pl.col("merchant_country") != pl.col("card_country")
        )
        .with_columns(
            since=pl.col("timestamp").diff().over("card_id"),
            same=pl.col("merchant_country") == pl.col("merchant_country").shift().over("card_id"),
        )
        .filter(pl.col("since") < timedelta(days=1))
    )
    assert pairs.height > 100
    assert pairs["same"].mean() > 0.95  # type: ignore[operator] # as above


def test_card_testing_comes_in_bursts(suspicious: pl.DataFrame) -> None:
    """Nearly every merchant it hits is hit three times within an hour, and all payments are small."""
    bursts = suspicious.filter(typology="card_testing_burst").sort("timestamp")
    near = bursts.rolling("timestamp", period="1h", group_by="merchant_id").agg(pl.len())
    assert near.group_by("merchant_id").agg(pl.col("len").max()).select((pl.col("len") >= 3).mean()).item() > 0.9
    assert bursts.filter(currency="EUR")["amount"].max() <= 900  # type: ignore[operator] # as above
    assert bursts["channel"].unique().to_list() == ["ecommerce"]


def test_a_taken_over_account_pays_from_a_device_new_to_it(suspicious: pl.DataFrame) -> None:
    """Nearly all devices of a takeover are never used honestly by the same card."""
    honest = suspicious.filter(~pl.col("is_fraud")).select("card_id", "device_id").unique()
    taken = suspicious.filter(pl.col("device_id").is_not_null(), typology="account_takeover_new_device")
    strange = taken.join(honest, on=["card_id", "device_id"], how="anti")
    assert 0.9 < strange.height / taken.height < 1.0


def test_a_compromised_terminal_harms_the_cards_used_there(suspicious: pl.DataFrame) -> None:
    """Fraud gathers at few terminals; most cards defrauded elsewhere were used honestly at one of them before."""
    fraud = suspicious.filter(typology="compromised_terminal")
    at_terminal = fraud.group_by("terminal_id").len().filter(pl.col("len") >= 3, pl.col("terminal_id").is_not_null())
    assert at_terminal["len"].sum() > 0.2 * fraud.height
    elsewhere = fraud.join(at_terminal, on="terminal_id", how="anti")
    visits = suspicious.filter(~pl.col("is_fraud")).join(at_terminal, on="terminal_id", how="semi")
    harmed = elsewhere.join(visits, on="card_id", suffix="_visit").filter(
        pl.col("timestamp_visit") < pl.col("timestamp")
    )
    assert harmed["transaction_id"].n_unique() > 0.6 * elsewhere.height


def test_a_skimmed_card_pays_abroad_while_its_customer_pays_at_home(suspicious: pl.DataFrame) -> None:
    """The copies are used in shops of other countries, mostly by stripe, within a day of honest payments at home."""
    copies = suspicious.filter(typology="skimmed_card_abroad")
    assert (copies["merchant_country"] != copies["card_country"]).all()
    assert copies["terminal_id"].null_count() == 0
    assert 0.6 < (copies["entry_mode"] == "magstripe").sum() / copies.height < 0.95
    home = suspicious.filter(~pl.col("is_fraud"), pl.col("terminal_id").is_not_null()).filter(
        pl.col("merchant_country") == pl.col("card_country")
    )
    paired = copies.join(home, on="card_id", suffix="_home").filter(
        (pl.col("timestamp") - pl.col("timestamp_home")).abs() < timedelta(days=1)
    )
    assert paired["transaction_id"].n_unique() > 0.4 * copies.height


def test_cashing_out_is_dear_and_quick(suspicious: pl.DataFrame) -> None:
    """The median amount is far above the usual one, and most payments follow another within three hours."""
    in_euros = suspicious.filter(currency="EUR")
    out = suspicious.filter(typology="high_amount_cash_out").sort("timestamp")
    dear = in_euros.filter(typology="high_amount_cash_out")["amount"].median()
    usual = in_euros.filter(~pl.col("is_fraud"))["amount"].median()
    assert dear > 5 * usual  # type: ignore[operator] # as above
    gap = out.select(pl.col("timestamp").diff().over("card_id"))["timestamp"].drop_nulls()
    assert (gap < timedelta(hours=3)).sum() > 0.5 * out.height


def test_friendly_fraud_uses_the_customers_own_devices(suspicious: pl.DataFrame) -> None:
    """Whoever disputes paid from a device and an address of their own."""
    honest = suspicious.filter(~pl.col("is_fraud"))
    owned = honest.select("customer_id", "device_id").drop_nulls().unique()
    friendly = suspicious.filter(pl.col("device_id").is_not_null(), typology="friendly_fraud")
    known = friendly.join(owned, on=["customer_id", "device_id"], how="semi")
    assert known.height > 0.75 * friendly.height
    others = owned.rename({"customer_id": "other"})
    shared = friendly.join(others, on="device_id").filter(pl.col("other") != pl.col("customer_id"))
    assert shared.is_empty()


def test_progress_counts_every_row(tmp_path: Path) -> None:
    """The numbers reported while writing add up to the rows written."""
    reported: list[int] = []
    write_simulation(SimulationConfig(transactions=150_000), tmp_path / "rows.parquet", progress=reported.append)
    assert len(reported) > 1
    assert sum(reported) == 150_000


def test_a_file_that_cannot_be_finished_is_not_left_behind(tmp_path: Path) -> None:
    """What interrupts the writing comes out, and the file from before is untouched."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"from before")

    def interrupt(rows: int) -> None:
        raise RuntimeError(f"interrupted after {rows}")

    with pytest.raises(Exception, match="interrupted after 500"):
        write_simulation(SimulationConfig(transactions=500), path, progress=interrupt)
    assert path.read_bytes() == b"from before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: SimulationConfig(transactions=0), "transactions must lie between 1 and 1000000000, not 0"),
        (lambda: SimulationConfig(transactions=10**9 + 1), "transactions must lie between"),
        (lambda: SimulationConfig(transactions=10, seed=-1), "seed must lie between"),
        (lambda: SimulationConfig(transactions=10, days=0), "days must lie between"),
        (lambda: SimulationConfig(transactions=10, prevalence=0.3), "prevalence must lie between 0.0 and 0.2, not 0.3"),
        (lambda: SimulationConfig(transactions=10, cards=0), "cards must lie between"),
        (lambda: SimulationConfig(transactions=10, merchants=10), "merchants must lie between"),
        (lambda: SimulationConfig(transactions=10, terminals=10), "terminals must lie between"),
        (lambda: SimulationConfig(10, start=datetime(2025, 1, 1, 0, 30, tzinfo=UTC)), "start must be a whole hour"),
        (lambda: SimulationConfig(10, start=datetime(2025, 1, 1)), "start must be a whole hour with an offset"),  # noqa: DTZ001 - that is what is refused
        (lambda: SimulationConfig(10, start=datetime(1999, 1, 1, tzinfo=UTC)), "the period must lie between"),
        (lambda: SimulationConfig(10, start=datetime(2099, 12, 31, tzinfo=UTC)), "the period must lie between"),
    ],
)
def test_impossible_configurations_are_refused(make: Callable[[], SimulationConfig], reason: str) -> None:
    """What is out of range is refused with its name and value, before anything is drawn."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        make()


def test_an_offset_moves_the_start() -> None:
    """A start with an offset is the same as that moment in UTC."""
    there = datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert simulate(SimulationConfig(300, start=there)).equals(simulate(SimulationConfig(300)))


def test_the_world_can_be_sized() -> None:
    """Cards, merchants and terminals are as many as asked for, or as fit the number of transactions."""
    drawn = simulate(SimulationConfig(40_000, days=10, cards=60, merchants=1_000, terminals=3_000))
    assert drawn["card_id"].n_unique() == 60
    assert 500 < drawn["merchant_id"].n_unique() <= 1_000
    assert 1_000 < drawn["terminal_id"].drop_nulls().n_unique() <= 3_000
