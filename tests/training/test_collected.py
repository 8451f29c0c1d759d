"""What was served, computed again from what was collected: the same cells, the right labels, and a model from them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from service.backfill import History, backfill, read_history
from service.bundle import Bundle
from service.errors import DataInvalid
from service.features.entry import Column, Kind, entry_id, token_hash
from service.features.kernel import UNKNOWN
from service.features.offline import LONG_AGO, fold_events
from service.features.plan import compile_plan
from service.features.spec import DAY_MS, HOUR_MS, KEY_FIELDS, parse_spec
from service.layout import Layout
from service.settings import SHIPPED_MODELS
from service.stores.redis import open_redis_store
from service.transaction import write_instant
from tests.stores.servers import Server, redis_binary, running
from tests.training.served import LIMITS, START, Arrival, outcome_of, payments, request_of, serve, told, traffic
from training.__main__ import app
from training.collect import collect
from training.collected import Collected, _changes, _rows, compare, read_collected, recompute, select
from training.collection import ENTRIES, OUTCOMES
from training.source import open_source

SHIPPED = SHIPPED_MODELS / "1.0.0"
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
START_MS = int(START.timestamp() * 1000)
NOW_MS = START_MS + 400 * DAY_MS
TIME_BYTE, AMOUNT_BYTE = 10, 14  # of an entry: behind its kind and id, and behind the time

OTHER_SPEC = """
version: 1
horizon: 20d
entities:
  card:
    key: card_id
    log: {compact_at: 16, keep: 4, ring: 128}
    windows:
      h2: {length: 2h, hop: 10m, sums: [count, amount]}
      told: {length: 14d, hop: 1d, at: report, sums: [fraud, fraud_amount, issuer_declined]}
    sets:
      shops: {of: merchant_id, capacity: 4, hop: 1h}
      networks: {of: ip_country, capacity: 4, hop: 1d}
    features:
      count_2h: {total: h2.count}
      amount_2h: {total: h2.amount}
      frauds_14d: {total: told.fraud}
      fraud_amount_14d: {total: told.fraud_amount}
      declines_14d: {total: told.issuer_declined}
      shops_1d: {distinct: shops, window: 1d}
      new_network: {new: networks}
      network_changed: {changed: ip_country}
      since_last: {since_last: true}
  shopper:
    key: card_id
    log: {compact_at: 16, keep: 4, ring: 128}
    windows:
      d3: {length: 3d, hop: 6h, sums: [count, amount]}
      told: {length: 14d, hop: 1d, at: report, sums: [fraud, fraud_amount]}
    features:
      shopper_count_3d: {total: d3.count}
      shopper_ratio_3d: {ratio: d3}
      shopper_frauds: {total: told.fraud}
      shopper_fraud_amount: {total: told.fraud_amount}
transaction:
  features:
    amount: {field: amount}
    hour: {hour: true}
  categories: [channel, merchant_country]
"""
"""A spec that was never served: it asks for fields that no entry carries, and for an entity that nobody kept."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(SHIPPED)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(redis_binary()) as started:
        yield started


@dataclass(frozen=True)
class Month:
    """A month that was served: what was said, and the collection of it."""

    said: list[Arrival]
    directory: Path


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Month:
    """Collected in two runs, the first in the middle of it."""
    said, out = traffic(payments(3000)), tmp_path_factory.mktemp("collected")
    with running(redis_binary()) as server:
        for part in (said[:1700], said[1700:]):
            serve(server.url, SHIPPED, tmp_path_factory.mktemp("state"), part)
            collect_into(out, server.url, bundle)
    return Month(said, out)


def collect_into(out: Path, url: str, bundle: Bundle) -> Collected:
    with open_source(url) as source:
        collect(source, [bundle], out, forget_before_ms=NOW_MS, tell=lambda *_: None)
    return read_collected(out)


def test_every_served_cell_is_computed_again(month: Month, bundle: Bundle) -> None:
    """Not one cell or place in a log differs in any bit, with retries, outcomes and reversals among the entries."""
    found = compare(read_collected(month.directory), bundle.plan, bundle.currencies)
    assert (found.cells_differing, found.revs_differing, found.features_differing) == (0, 0, ())
    assert (found.left_out, found.gaps) == (0, 0)
    assert found.decisions == 3000
    assert found.cells > 190_000
    assert found.equal


@pytest.mark.parametrize("byte", [TIME_BYTE, AMOUNT_BYTE])
def test_an_entry_that_says_something_else_is_noticed(month: Month, bundle: Bundle, byte: int) -> None:
    """The comparison can fail: one bit of one entry, and cells of later transactions differ."""
    collected = read_collected(month.directory)
    altered = with_entries(collected, lambda entries: flipped(entries, byte))
    found = compare(altered, bundle.plan, bundle.currencies)
    assert not found.equal
    assert found.cells_differing > 0
    assert found.features_differing


def test_what_stands_behind_a_gap_is_left_out(month: Month, bundle: Bundle) -> None:
    """An archive that overflowed leaves a hole: nothing is guessed about what came after it, and nothing differs."""
    collected = read_collected(month.directory)
    lost = (pl.col("entity") == "merchant") & (pl.col("rev") == 5)
    behind = collected.entries.filter(pl.col("entity") == "merchant", pl.col("rev") > 5)
    altered = with_entries(collected, lambda entries: entries.filter(~lost))
    found = compare(altered, bundle.plan, bundle.currencies)
    assert found.equal
    assert found.gaps == len(behind) > 1000
    assert 0 < found.left_out <= found.gaps + len(collected.entries.filter(lost))
    whole = select(collected, bundle.plan, bundle.currencies, label_maturity_days=2)
    partial = select(altered, bundle.plan, bundle.currencies, label_maturity_days=2)
    assert (whole.incomplete, len(whole.examples.labels)) == (0, len(partial.examples.labels) + partial.incomplete)
    assert partial.incomplete > 500


def test_two_entries_in_one_place_are_a_gap(month: Month, bundle: Bundle, tmp_path: Path) -> None:
    """Of two accounts of the same place neither is believed."""
    collected = read_collected(month.directory)
    attempts = pl.col("entry").bin.slice(0, 1) == bytes([Kind.ATTEMPT])
    twice = flipped(collected.entries.filter(attempts, pl.col("entity") == "card", pl.col("rev") == 1), AMOUNT_BYTE)
    copy_of(month.directory, tmp_path)
    twice.write_parquet(tmp_path / ENTRIES / "entity=card" / "another.parquet")
    altered = read_collected(tmp_path)
    assert altered.contradictions == len(twice) > 100
    found = compare(altered, bundle.plan, bundle.currencies)
    assert found.equal
    assert found.left_out >= len(twice) / 2


def test_a_spec_that_was_never_served_gets_the_features_it_would_have_had(month: Month, bundle: Bundle) -> None:
    """The served logs' order, entries completed from requests; where nobody kept a log, the order of arrival."""
    plan = compile_plan(parse_spec(yaml.safe_load(OTHER_SPEC)))
    collected = read_collected(month.directory)
    again = recompute(collected, plan, bundle.currencies)
    events = events_in_order(month.said, bundle)
    shopper = plan.entity_features[plan.entities.index("shopper")]
    expected = fold_events(plan, events, born_at_ms=LONG_AGO).numeric
    expected[:, shopper] = fold_events(plan, events).numeric[:, shopper]
    place = {int(row[Column.ID]): index for index, row in reversed(list(enumerate(events)))}
    order = [place[entry_id(name, "transaction")] for name in collected.decisions["transaction_id"]]
    expected = expected[order]
    card = plan.entity_features[plan.entities.index("card")]
    expected[(again.findings[:, 0] & UNKNOWN) != 0, card] = np.nan
    np.testing.assert_array_equal(again.numeric, expected)
    assert not again.incomplete.any()
    assert (np.nan_to_num(again.numeric).std(axis=0) > 0).all(), "a feature that is always the same shows nothing"


def test_labels_know_what_their_transactions_amount_to(month: Month, bundle: Bundle, tmp_path: Path) -> None:
    """As the service counted it; of outcomes that were collected before they said it, it is the decision's."""
    collected = read_collected(month.directory)
    rows = _rows(collected.decisions, bundle.currencies)
    amounts = dict(zip(collected.decisions["transaction_id"], rows[:, Column.AMOUNT].tolist(), strict=True))
    assert collected.outcomes["amount_minor"].to_list() == [
        amounts[name] for name in collected.outcomes["transaction_id"]
    ]
    changes = _changes(collected, rows)
    labels = [change for change in changes if change.row[Column.KIND] == Kind.FRAUD_LABEL]
    assert [int(change.row[Column.AMOUNT]) for change in labels] == [amounts[it.transaction_id] for it in labels]
    assert len(labels) > 100
    copy_of(month.directory, tmp_path)
    for path in (tmp_path / OUTCOMES).rglob("*.parquet"):
        pl.read_parquet(path, hive_partitioning=False).drop("amount_minor").write_parquet(path)
    early = read_collected(tmp_path)
    assert early.outcomes["amount_minor"].null_count() == len(early.outcomes)
    again = _changes(early, rows)
    np.testing.assert_array_equal([it.row for it in again], [it.row for it in changes])


@pytest.mark.parametrize("collected_before", [True, False])
def test_a_backfilled_log_is_folded_from_its_base(
    server: Server, bundle: Bundle, tmp_path: Path, *, collected_before: bool
) -> None:
    """What is served once a past was brought in comes out the same; what was before, if its log was collected then."""
    said, out = traffic(payments(2400)), tmp_path / "out"
    third = len(said) // 3
    serve(server.url, SHIPPED, tmp_path / "a", said[third : 2 * third])
    if collected_before:
        collect_into(out, server.url, bundle)
    bring(server.url, bundle, said[:third])
    serve(server.url, SHIPPED, tmp_path / "b", said[2 * third :])
    collected = collect_into(out, server.url, bundle)
    found = compare(collected, bundle.plan, bundle.currencies)
    assert (found.cells_differing, found.revs_differing) == (0, 0)
    assert (found.left_out == 0) is collected_before
    assert found.logs - found.left_out > 2000
    assert recompute(collected, bundle.plan, bundle.currencies).seeded.sum() > 500


def test_both_lives_of_a_log_are_folded(server: Server, bundle: Bundle, tmp_path: Path) -> None:
    """A store that lost everything begins anew: what was collected of the first life stays comparable."""
    said = traffic(payments(1200))
    half = len(said) // 2
    serve(server.url, SHIPPED, tmp_path / "a", said[:half])
    collect_into(tmp_path / "out", server.url, bundle)
    server.ask("FLUSHALL")
    later = [arrival for arrival in said[half:] if is_known(arrival, said[half:])]
    serve(server.url, SHIPPED, tmp_path / "b", later)
    collected = collect_into(tmp_path / "out", server.url, bundle)
    lives = collected.entries.group_by("entity", "key").agg(pl.col("generation").n_unique())
    assert (lives["generation"] == 2).sum() > 20
    found = compare(collected, bundle.plan, bundle.currencies)
    assert (found.cells_differing, found.revs_differing, found.left_out) == (0, 0, 0)


LABELS: list[tuple[str, int, list[str], int | None, int]] = [
    # name, amount, outcomes one day apart, label, which outcome told it
    ("paid", 2_000, [], 0, -1),
    ("refunded", 2_000, ["refund"], 0, -1),
    ("fraud", 2_000, ["confirmed_fraud"], 1, 0),
    ("warned", 2_000, ["authorised", "early_fraud_warning", "confirmed_fraud"], 1, 1),
    ("withdrawn", 2_000, ["confirmed_fraud", "withdrawn"], 0, -1),
    ("fraud after all", 2_000, ["early_fraud_warning", "withdrawn", "confirmed_fraud", "refund"], 1, 2),
    ("legitimate after all", 2_000, ["confirmed_fraud", "confirmed_legitimate"], 0, -1),
    ("declined by the issuer", 2_000, ["issuer_declined"], None, -1),
    ("declined by the issuer, and fraud", 2_000, ["issuer_declined", "confirmed_fraud"], 1, 1),
    ("declined by us", 50_000, [], None, -1),
    ("declined by us, refunded", 50_000, ["refund"], None, -1),
    ("declined by us, and fraud", 50_000, ["confirmed_fraud"], 1, 0),
    ("declined by us, and legitimate", 50_000, ["confirmed_legitimate"], 0, -1),
]


def test_labels_are_what_was_known_in_the_end(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    """The last word about fraud counts, from when it was first said; what was declined has no label without one."""
    said = []
    for number, (_, amount, outcomes, _, _) in enumerate(LABELS):
        time_ms = START_MS + number * HOUR_MS
        body = payment(f"t{number}", time_ms, amount)
        said.append(request_of(body, time_ms))
        for day, kind in enumerate(outcomes, start=1):
            later_ms = time_ms + day * DAY_MS
            said.append(outcome_of({"transaction_id": body["transaction_id"], **told(kind, later_ms)}, later_ms))
    for name, age_days in (("last", 0), ("young", 29), ("young-fraud", 29), ("old", 31)):
        time_ms = START_MS + (100 - age_days) * DAY_MS
        said.append(request_of(payment(name, time_ms, 2_000), time_ms))
    fraud_ms = START_MS + 80 * DAY_MS
    said.append(outcome_of({"transaction_id": "young-fraud", **told("confirmed_fraud", fraud_ms)}, fraud_ms))
    said.sort(key=lambda arrival: arrival.time_ms)
    serve(server.url, small_bundle, tmp_path / "state", said, together=1)
    served = Bundle.load(small_bundle)
    found = select(
        collect_into(tmp_path / "out", server.url, served), served.plan, served.currencies, label_maturity_days=30
    )
    made = found.examples
    times = made.event_time_ms.tolist()
    labels = dict(zip(times, zip(made.labels.tolist(), made.reported_at_ms.tolist(), strict=True), strict=True))
    for number, (name, _, _, label, telling) in enumerate(LABELS):
        time_ms = START_MS + number * HOUR_MS
        expected = None if label is None else (label == 1, -1 if telling < 0 else time_ms + (telling + 1) * DAY_MS)
        assert labels.get(time_ms) == expected, name
    assert (found.young, found.unlabelled, found.incomplete) == (3, 3, 0)
    assert len(times) == len(LABELS) - 3 + 1
    assert times == sorted(times)


def test_only_a_collection_with_decisions_is_read(month: Month, bundle: Bundle, tmp_path: Path) -> None:
    """What is something else is refused by name, and nothing that could be learnt from is an error too."""
    with pytest.raises(DataInvalid, match="no collection"):
        read_collected(tmp_path)
    collected = read_collected(month.directory)
    with pytest.raises(DataInvalid, match="younger than 4000 days"):
        select(collected, bundle.plan, bundle.currencies, label_maturity_days=4000)
    with pytest.raises(DataInvalid, match="no decision was served under"):
        compare(collected, compile_plan(parse_spec(yaml.safe_load(OTHER_SPEC))), bundle.currencies)


def test_the_command_tells_whether_parity_holds(month: Month, tmp_path: Path) -> None:
    """It ends with 1 when a cell differs."""
    command = ["parity", "--bundle", str(SHIPPED), "--data"]
    whole = CliRunner().invoke(app, [*command, str(month.directory)])
    assert whole.exit_code == 0, whole.output
    assert "3,000" in whole.output
    copy_of(month.directory, tmp_path)
    for path in (tmp_path / ENTRIES / "entity=merchant").glob("*.parquet"):
        flipped(pl.read_parquet(path, hive_partitioning=False), AMOUNT_BYTE).write_parquet(path)
    assert CliRunner().invoke(app, [*command, str(tmp_path)]).exit_code == 1


def test_a_model_is_fitted_on_what_was_served(month: Month, tmp_path: Path) -> None:
    """From the collection to a bundle that the service's loader accepts, by one command."""
    config = yaml.safe_load((CONFIGS / "shipped.yaml").read_text("utf-8")) | {
        "features": str(CONFIGS / "features.yaml"),
        "currencies": str(CONFIGS / "currencies.yaml"),
        "split": {"warm_up_days": 3, "tune_days": 5, "calibrate_days": 6, "test_days": 6, "gap_days": 1},
        "network": {"width": 16, "epochs": 2, "batch": 128},
        "sampler": {"name": "undersample", "legitimate_kept": 0.5},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config), "utf-8")
    ran = CliRunner().invoke(
        app,
        [
            *("fit", "--format", "collected", "--data", str(month.directory), "--label-maturity-days", "10"),
            *("--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "models")),
        ],
    )
    assert ran.exit_code == 0, ran.output
    fitted = Bundle.load(tmp_path / "models" / "1.0.0")
    assert fitted.manifest.training_data.rows > 500
    assert fitted.manifest.training_data.frauds > 5
    assert fitted.plan.spec.sha256 == Bundle.load(SHIPPED).plan.spec.sha256


# ---------------------------------------------------------------- what the tests are made of


def with_entries(collected: Collected, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Collected:
    return replace(collected, entries=change(collected.entries))


def flipped(entries: pl.DataFrame, byte: int) -> pl.DataFrame:
    """Each attempt with one bit of one byte turned over."""

    def flip(entry: bytes) -> bytes:
        return entry[:byte] + bytes([entry[byte] ^ 1]) + entry[byte + 1 :]

    attempts = [entry if entry[0] != Kind.ATTEMPT else flip(entry) for entry in entries["entry"]]
    return entries.with_columns(entry=pl.Series(attempts, dtype=pl.Binary))


def copy_of(directory: Path, to: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def payment(name: str, time_ms: int, amount: int) -> dict[str, object]:
    """Each by a card of its own."""
    return {
        "transaction_id": name,
        "timestamp": write_instant(time_ms),
        "card_id": f"card-of-{name}",
        "merchant_id": "m",
        "amount": amount,
        "currency": "EUR",
    }


def lines_of(said: Sequence[Arrival]) -> list[bytes]:
    """What was said, as a file for a backfill has it."""
    return [arrival.body for arrival in said]


def events_in_order(said: Sequence[Arrival], bundle: Bundle) -> np.ndarray:
    """The engine's rows of what was said, each under its entities; retries are rows too."""
    history: History = read_history(lines_of(said), bundle.currencies, now_ms=NOW_MS)
    events = history.events.copy()
    for place, field in enumerate(KEY_FIELDS[:4]):
        column = [Column.CARD, Column.MERCHANT, Column.TERMINAL, Column.DEVICE][place]
        assert field.startswith(column.name.lower())
        events[:, column] = [token_hash(tokens[place]) for tokens in history.tokens]
    return events


def bring(url: str, bundle: Bundle, said: Sequence[Arrival]) -> None:
    """Bring a past into the store."""

    async def run() -> None:
        store = await open_redis_store(url, LIMITS)
        try:
            history = read_history(lines_of(said), bundle.currencies, now_ms=NOW_MS)
            await backfill(store, Layout(bundle.plan), history)
        finally:
            await store.close()

    asyncio.run(run())


def is_known(arrival: Arrival, said: Sequence[Arrival]) -> bool:
    """Whether an outcome's transaction is among what was said, so that its record is there."""
    return arrival.is_request or any(other.is_request and other.name == arrival.name for other in said)
