"""Data sets as requests: what a client would have sent, in the order in which it would have."""

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from typer.testing import CliRunner

from service.backfill import read_history
from service.bundle import Bundle
from service.features.entry import Column, Kind
from service.layout import tokens_of
from service.settings import SHIPPED_MODELS
from service.transaction import read_transaction
from tests.training.served import START, payments
from training.__main__ import app
from training.examples import KEYS, timeline
from training.requests import collected_lines, request_lines

NOW_MS = int(START.timestamp() * 1000) + 400 * 86_400_000
ENTITIES = np.array([int(column) for column in KEYS.values()])


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return payments(2000)


def test_a_backfill_reads_the_events_that_training_sees(frame: pl.DataFrame) -> None:
    """Row for row and in the same order; an outcome names its transaction's entities by their tokens."""
    currencies = Bundle.load(SHIPPED_MODELS / "1.0.0").currencies
    history = read_history(request_lines(frame), currencies, now_ms=NOW_MS)
    line = timeline(frame, currencies)
    told = history.events[:, Column.KIND] > Kind.FOLLOW_UP
    assert told.sum() == frame["is_fraud"].sum() > 50
    events = line.events.copy()
    events[np.ix_(told, ENTITIES)] = history.events[np.ix_(told, ENTITIES)]
    np.testing.assert_array_equal(history.events, events)
    named = [dict(frame.row(row, named=True)) for row in line.source[told].tolist()]
    for tokens, row in zip(np.array(history.tokens, object)[told], named, strict=True):
        assert [tokens[0], tokens[1]] == [row["card_id"], row["merchant_id"]]


def test_a_reported_fraud_stands_for_itself(frame: pl.DataFrame) -> None:
    """Where nobody knows its transaction any more, the label that it becomes still has the time and the amount."""
    currencies = Bundle.load(SHIPPED_MODELS / "1.0.0").currencies
    reports = [line for line in request_lines(frame) if b'"type"' in line]
    history = read_history(reports, currencies, now_ms=NOW_MS)
    labels = timeline(frame, currencies).events
    labels = labels[labels[:, Column.KIND] == Kind.FRAUD_LABEL]
    compared = [Column.KIND, Column.ID, Column.TIME, Column.ORIGIN, Column.DELTA, Column.AMOUNT]
    np.testing.assert_array_equal(history.events[:, compared], labels[:, compared])
    assert (labels[:, Column.AMOUNT] > 0).all()


def test_the_command_writes_one_request_in_each_line(frame: pl.DataFrame, tmp_path: Path) -> None:
    """What stands in the file is what a service would be sent."""
    frame.write_parquet(tmp_path / "data.parquet")
    out = tmp_path / "history.ndjson"
    ran = CliRunner().invoke(app, ["requests", "--data", str(tmp_path / "data.parquet"), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    lines = out.read_bytes().splitlines()
    assert lines == list(request_lines(frame))
    assert sum("type" in orjson.loads(line) for line in lines) == frame["is_fraud"].sum()
    first = read_transaction(lines[0], arrival_ms=NOW_MS, allow_card_numbers=False)
    assert tokens_of(first)[0] == frame["card_id"][0]


def test_what_was_collected_becomes_what_was_sent(frame: pl.DataFrame) -> None:
    """Each request as it was, in the order of arrival, and the outcomes of those that are there, as they were told."""
    bodies = [line.decode() for line in request_lines(frame.filter(~pl.col("is_fraud")).head(3))]
    decisions = pl.DataFrame(
        {"transaction_id": ["a", "b", "c"], "request": bodies, "scored_at": [START] * 3},
        schema_overrides={"scored_at": pl.Datetime("ms", "UTC")},
    )
    told = {
        "type": ["dispute", "refund"],
        "fraud": [True, None],
        **dict.fromkeys(("occurred_at", "reported_at"), [START] * 2),
    }
    outcomes = pl.DataFrame({"transaction_id": ["a", "gone"], **told, "arrived_at": [START] * 2}).with_columns(
        pl.col("occurred_at", "reported_at", "arrived_at").cast(pl.Datetime("ms", "UTC"))
    )
    lines = list(collected_lines(decisions, outcomes))
    assert [line.decode() for line in lines[:3]] == bodies
    instant = START.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert [orjson.loads(line) for line in lines[3:]] == [
        {"transaction_id": "a", "type": "dispute", "fraud": True, "occurred_at": instant, "reported_at": instant}
    ]
