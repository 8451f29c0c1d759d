"""Cutting along time, and who may know which label."""

from datetime import UTC, datetime

import numpy as np
import pytest

from service.errors import DataInvalid
from training.config import SplitConfig
from training.split import DAY_MS, Split, split_by_time

START_MS = 1_700_000_000_000
ROWS_PER_DAY = 24
DAYS = 100
CONFIG = SplitConfig(warm_up_days=30, tune_days=7, calibrate_days=7, test_days=7, gap_days=7)

TIMES = START_MS + np.arange(DAYS * ROWS_PER_DAY, dtype=np.int64) * (DAY_MS // ROWS_PER_DAY)
LABELS = np.arange(len(TIMES)) % 10 == 0


def cut(*, report_delay_days: float = 1.0, config: SplitConfig = CONFIG) -> Split:
    """One fraud in ten rows, each reported after the same time."""
    return split_by_time(TIMES, LABELS, TIMES + round(report_delay_days * DAY_MS), config)


def test_the_parts_follow_each_other_and_never_overlap() -> None:
    """Fit, tune, calibrate and test are in the order of time, and no row is in two of them."""
    split = cut()
    parts = [part.positions for part in (split.fit, split.tune, split.calibrate, split.test)]
    assert all(before[-1] < after[0] for before, after in zip(parts[:-1], parts[1:], strict=True))
    assert [len(rows) / ROWS_PER_DAY for rows in parts[1:]] == [7, 7, 7]


def test_a_label_delay_lies_before_tuning_and_before_testing() -> None:
    """A week is left out after the fit rows and another after the calibration rows."""
    split = cut()
    for before, after in ((split.fit, split.tune), (split.calibrate, split.test)):
        gap_ms = TIMES[after.rows][0] - TIMES[before.rows][-1]
        assert gap_ms == 7 * DAY_MS + DAY_MS // ROWS_PER_DAY


def test_the_first_rows_give_history_only() -> None:
    """No part begins before the warm-up is over."""
    assert TIMES[cut().fit.rows][0] == START_MS + 30 * DAY_MS


def test_a_fraud_reported_after_the_model_was_made_is_legitimate_to_it() -> None:
    """Before the test only labels reported by its beginning count; the test itself knows all of them."""
    split = cut(report_delay_days=10)
    reported = TIMES + 10 * DAY_MS
    for part in (split.fit, split.tune, split.calibrate):
        assert part.labels.tolist() == (LABELS & (reported < split.known_at_ms))[part.rows].tolist()
    assert split.calibrate.frauds < LABELS[split.calibrate.rows].sum()
    assert split.test.labels.tolist() == LABELS[split.test.rows].tolist()


def test_a_fraud_that_was_never_reported_is_known_to_nobody() -> None:
    """A negative time of report means never."""
    reported = np.where(np.arange(len(TIMES)) % 20 == 0, -1, TIMES)
    split = split_by_time(TIMES, LABELS, reported, CONFIG)
    assert not split.fit.labels[split.fit.positions % 20 == 0].any()
    assert split.fit.labels[split.fit.positions % 20 == 10].all()


def test_rows_from_until_on_are_ignored() -> None:
    """The test part ends where the configuration says, not where the data does."""
    until_ms = START_MS + 80 * DAY_MS
    until = datetime.fromtimestamp(until_ms / 1000, tz=UTC)
    split = cut(config=CONFIG.model_copy(update={"until": until}))
    assert TIMES[split.test.rows][-1] < until_ms
    assert TIMES[split.test.rows][-1] >= until_ms - DAY_MS // ROWS_PER_DAY


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("fit", {"warm_up_days": 75.0}),
        ("tune", {"tune_days": 0.0}),
        ("calibrate", {"calibrate_days": 0.0}),
        ("test", {"test_days": 0.0}),
    ],
)
def test_a_part_without_both_classes_is_refused_by_name(part: str, change: dict[str, float]) -> None:
    """A part that is empty, or lacks fraud, stops the run and says which part it is."""
    with pytest.raises(DataInvalid, match=f"the {part} part"):
        cut(config=CONFIG.model_copy(update=change))


def test_a_fit_whose_frauds_are_all_still_unknown_is_refused() -> None:
    """Labels that come too late leave nothing to learn from."""
    with pytest.raises(DataInvalid, match=r"the fit part .* has 0 frauds"):
        cut(report_delay_days=200)
