"""Examples that are computed in pieces and kept on disk: the same as those of the whole table in memory."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.config import FitConfig, read_config
from training.datasets.canonical import canonical
from training.example_files import write_examples
from training.examples import Examples, declare_reports, replay_offline, replay_pieces
from training.simulate import SimulationConfig, simulate

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 6_000


@pytest.fixture(scope="module")
def config() -> FitConfig:
    return read_config(CONFIGS / "shipped.yaml")


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Twenty days with many frauds, each reported two days later: so in a later piece, but for the last ones."""
    drawn = simulate(SimulationConfig(transactions=ROWS, seed=3, start=START, days=20, prevalence=0.05))
    return declare_reports(drawn.with_columns(reported_at=pl.lit(None, pl.Datetime("ms", "UTC"))), 2)


@pytest.fixture(scope="module")
def whole(frame: pl.DataFrame, config: FitConfig) -> Examples:
    return replay_offline(frame, config.read_plan(), config.read_currencies())


def assert_equal(found: Examples, expected: Examples) -> None:
    """Insist on every bit of every array, and on every row's typology."""
    for name in (field.name for field in fields(Examples) if not field.name.startswith("typolog")):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name, strict=True)
    assert found.fingerprint() == expected.fingerprint()
    left, right = (np.array(each.typologies)[each.typology] for each in (found, expected))
    assert left.tolist() == right.tolist()


@pytest.mark.parametrize("rows", [157, 1_000, 5_999])
def test_pieces_of_any_size_give_the_examples_of_the_whole(
    rows: int, frame: pl.DataFrame, whole: Examples, config: FitConfig, tmp_path: Path
) -> None:
    """To the last bit, although histories and reports reach from one piece into others."""
    pieces = replay_pieces(frame.iter_slices(rows), config.read_plan(), config.read_currencies())
    assert_equal(write_examples(pieces, tmp_path), whole)
    assert len(whole.typologies) > 2
    waiting = frame.filter(pl.col("reported_at") > frame["timestamp"][rows], pl.int_range(pl.len()) < rows)
    assert len(waiting) > 0


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_report_at_a_cut_keeps_its_place(rows: int, config: FitConfig) -> None:
    """At equal times transactions come before reports, also where the next piece begins with that time."""
    times = [START + timedelta(hours=hours) for hours in (0, 1, 2, 2, 2, 3)]
    table = pl.DataFrame(
        {
            "transaction_id": [f"t{row}" for row in range(6)],
            "timestamp": pl.Series(times, dtype=pl.Datetime("ms", "UTC")),
            "card_id": ["c"] * 6,
            "merchant_id": ["m"] * 6,
            "amount": [100, 200, 300, 400, 500, 600],
            "currency": ["EUR"] * 6,
            "is_fraud": [True, True, False, True, False, False],
            "reported_at": pl.Series([times[2], times[2], None, times[3], None, None], dtype=pl.Datetime("ms", "UTC")),
        }
    )
    plan, currencies = config.read_plan(), config.read_currencies()
    expected = replay_offline(canonical(table, source="test"), plan, currencies).numeric
    found = np.concatenate([part.numeric for part in replay_pieces(table.iter_slices(rows), plan, currencies)])
    np.testing.assert_array_equal(found, expected, strict=True)
    reported = expected[:, plan.numeric.index("merchant_fraud_reported_7d")]
    assert reported[:5].tolist() != [reported[5]] * 5


def test_what_is_on_disk_cannot_be_changed_by_mistake(frame: pl.DataFrame, config: FitConfig, tmp_path: Path) -> None:
    """The arrays are read-only, and as long as all pieces together."""
    pieces = replay_pieces(frame.iter_slices(2_500), config.read_plan(), config.read_currencies())
    examples = write_examples(pieces, tmp_path)
    assert len(examples.labels) == ROWS
    with pytest.raises(ValueError, match="read-only"):
        examples.numeric[0] = 0


def test_a_spec_without_codes_has_a_table_without_columns(whole: Examples, tmp_path: Path) -> None:
    """There is nothing to map from a file without bytes; the table has its rows all the same."""
    bare = Examples(
        whole.numeric, np.empty((ROWS, 0), np.int64), whole.labels, whole.reported_at_ms, whole.event_time_ms,
        whole.amount_minor, whole.card, whole.typology, whole.typologies,
    )  # fmt: skip
    assert write_examples([bare], tmp_path).categorical.shape == (ROWS, 0)
