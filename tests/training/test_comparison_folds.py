"""The rows of a contest: the Handbook's folds as published, periods of any data, frauds left out at random."""

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from service.errors import DataInvalid
from training.comparison.config import PublishedFoldsConfig, WeeklyFoldsConfig
from training.comparison.folds import Fold, fold_rows, published_folds, settle_folds
from training.comparison.thinning import thin_frauds
from training.examples import Examples
from training.split import DAY_MS

PUBLISHED = PublishedFoldsConfig(name="published")


def ms(month: int, day: int) -> int:
    return int(datetime(2018, month, day, tzinfo=UTC).timestamp() * 1000)


def examples(first_ms: int, last_ms: int, per_day: int = 40, label_delay_days: int = 7) -> Examples:
    """Rows of 30 cards at even distances, one in twenty a fraud."""
    draws = np.random.default_rng(5)
    times = np.arange(first_ms, last_ms, DAY_MS // per_day)
    labels = draws.random(len(times)) < 0.05
    return Examples(
        numeric=np.zeros((len(times), 1), np.float32),
        categorical=np.zeros((len(times), 0), np.int64),
        labels=labels,
        reported_at_ms=np.where(labels, times + label_delay_days * DAY_MS, -1),
        event_time_ms=times,
        amount_minor=np.full(len(times), 1_000),
        card=draws.integers(0, 30, len(times)),
        typology=np.zeros(len(times), np.int32),
    )


def test_the_published_folds_are_the_book_s() -> None:
    """Row by row, from the definition: 7 days, 7 of delay, 7 of testing, cards known to be compromised left out."""
    rows = examples(ms(6, 20), ms(9, 1))
    folds = published_folds(7, int(rows.event_time_ms[-1])).test
    assert [fold.name for fold in folds] == ["2018-08-08", "2018-08-15", "2018-08-22"]
    for fold, start_ms in zip(folds, (ms(7, 25), ms(8, 1), ms(8, 8)), strict=True):
        found = fold_rows(rows, fold)
        fit, test = [], []
        for row, (time, card) in enumerate(zip(rows.event_time_ms.tolist(), rows.card.tolist(), strict=True)):
            if start_ms <= time < start_ms + 7 * DAY_MS:
                fit.append(row)
            midnight = time - time % DAY_MS
            known = (
                rows.labels
                & (rows.card == card)
                & (rows.event_time_ms >= start_ms)
                & (rows.event_time_ms < midnight - 7 * DAY_MS)
            )
            if start_ms + 14 * DAY_MS <= time < start_ms + 21 * DAY_MS and not known.any():
                test.append(row)
        assert found.fit.tolist() == fit
        assert found.test.tolist() == test
        assert found.fit_labels.tolist() == rows.labels[fit].tolist()


def test_a_longer_fit_is_tested_on_the_same_rows() -> None:
    """With 28 days instead of 7 the fit ends where it did, begins earlier, and nothing else changes."""
    rows = examples(ms(5, 1), ms(9, 1))
    for short, long in zip(*(published_folds(days, int(rows.event_time_ms[-1])).test for days in (7, 28)), strict=True):
        assert fold_rows(rows, long).test.tolist() == fold_rows(rows, short).test.tolist()
        fits = [rows.event_time_ms[fold_rows(rows, fold).fit] for fold in (short, long)]
        assert fits[0][-1] == fits[1][-1]
        assert fits[0][0] - fits[1][0] == 21 * DAY_MS


@pytest.mark.parametrize("config", [PUBLISHED, WeeklyFoldsConfig(name="weeks", count=3, test_days=5, gap_days=4)])
def test_choices_are_made_before_any_test_begins(config: PublishedFoldsConfig | WeeklyFoldsConfig) -> None:
    """Validation ends a label delay before the first test; tests follow one another without overlap."""
    rows = examples(ms(4, 1), ms(9, 1))
    folds = settle_folds(config, 14, rows.event_time_ms)
    delay_ms = 7 * DAY_MS if isinstance(config, PublishedFoldsConfig) else 4 * DAY_MS
    assert len(folds.validation) == len(folds.test) == 3
    assert folds.validation[-1].test_until_ms + delay_ms <= folds.test[0].test_from_ms
    for some in (folds.validation, folds.test):
        assert all(before.test_until_ms == after.test_from_ms for before, after in pairwise(some))
    for fold in (*folds.validation, *folds.test):
        assert fold.test_from_ms - fold.fit_until_ms == delay_ms
        assert fold.fit_until_ms - fold.fit_from_ms == 14 * DAY_MS


def test_weeks_end_with_the_data() -> None:
    """The last test holds the last row."""
    rows = examples(ms(6, 1), ms(9, 1))
    folds = settle_folds(WeeklyFoldsConfig(name="weeks", count=2), 14, rows.event_time_ms)
    assert fold_rows(rows, folds.test[-1]).test[-1] == len(rows.labels) - 1


def test_a_fit_knows_only_what_had_been_reported() -> None:
    """Labels that arrive after the test has begun are legitimate in the fit, as they were taken for then."""
    rows = examples(ms(6, 1), ms(9, 1), label_delay_days=10)
    fold = Fold("", ms(7, 1), ms(7, 15), ms(7, 22), ms(7, 29), None)
    found = fold_rows(rows, fold)
    in_time = rows.event_time_ms[found.fit] < ms(7, 12)
    assert found.fit_labels.tolist() == (rows.labels[found.fit] & in_time).tolist()
    assert (rows.labels[found.fit] & ~in_time).any()


@pytest.mark.parametrize(
    ("fit_days", "until", "message"),
    [(90, (9, 1), "would begin on 2018-04-05, but the data begin on 2018-06-01"), (7, (8, 10), "before the end of")],
)
def test_data_that_do_not_reach_far_enough_are_refused(fit_days: int, until: tuple[int, int], message: str) -> None:
    """The message says what was wanted and what is there."""
    rows = examples(ms(6, 1), ms(*until))
    with pytest.raises(DataInvalid, match=message):
        settle_folds(PUBLISHED, fit_days, rows.event_time_ms)


@pytest.mark.parametrize("prevalence", [0.01, 0.001])
def test_thinning_is_exact(prevalence: float) -> None:
    """All legitimate rows stay, frauds become as rare as asked for to the nearest one, and the share kept is exact."""
    labels = np.arange(20_000) % 20 == 0
    kept, share = thin_frauds(labels, prevalence, np.random.default_rng(1))
    frauds = int(labels[kept].sum())
    assert int((~labels[kept]).sum()) == 19_000
    assert frauds == round(19_000 * prevalence / (1 - prevalence))
    assert share == frauds / 1_000
    assert (np.diff(kept) > 0).all()


def test_thinning_is_drawn_from_the_seed() -> None:
    """The same seed keeps the same frauds, another one others; natural keeps everything."""
    labels = np.arange(20_000) % 20 == 0
    first, again, other = (thin_frauds(labels, 0.01, np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2))
    assert first == again != other
    kept, share = thin_frauds(labels, "natural", np.random.default_rng(1))
    assert (kept.tolist(), share) == (list(range(20_000)), 1.0)


@pytest.mark.parametrize("prevalence", [0.2, 0.00001])
def test_a_prevalence_that_cannot_be_had_is_refused(prevalence: float) -> None:
    """More frauds than there are, or none at all."""
    labels = np.arange(20_000) % 20 == 0
    with pytest.raises(DataInvalid, match="takes"):
        thin_frauds(labels, prevalence, np.random.default_rng(1))
