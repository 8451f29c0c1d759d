"""Folds: which rows are learned from and which are judged on, with a label delay in between."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from training.comparison.config import PublishedFoldsConfig, WeeklyFoldsConfig
from training.examples import Examples
from training.split import DAY_MS, known_labels

WEEK_MS = 7 * DAY_MS

PUBLISHED_TESTS = tuple(datetime(2018, month, day, tzinfo=UTC) for month, day in ((7, 25), (8, 1), (8, 8), (8, 15)))
"""Where the Handbook's folds start (chapter 5): 7 days of fitting, 7 of delay, 7 of testing."""

PUBLISHED_VALIDATIONS = tuple(datetime(2018, month, day, tzinfo=UTC) for month, day in ((6, 27), (7, 4), (7, 11)))
"""Where the folds start that settings are chosen on; the last of their labels arrives when the first test begins."""

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fold:
    """Two spans of time, ends excluded.

    Attributes:
        name: the day on which the test begins.
        fit_from_ms: the first moment that is learned from.
        fit_until_ms: the end of that.
        test_from_ms: when the model is made and the test begins.
        test_until_ms: the end of the test.
        known_from_ms: cards with a fraud between this and seven days before a test day are left out of that day, as the
            Handbook does; none: nobody is.
    """

    name: str
    fit_from_ms: int
    fit_until_ms: int
    test_from_ms: int
    test_until_ms: int
    known_from_ms: int | None


@dataclass(frozen=True, slots=True)
class Folds:
    """What settings are chosen on, and, later than all of that, what the choice is judged on."""

    validation: tuple[Fold, ...]
    test: tuple[Fold, ...]


@dataclass(frozen=True, slots=True)
class FoldRows:
    """The rows of one fold.

    Attributes:
        fit: positions in the examples, ascending.
        fit_labels: fraud as far as it had been reported when the test began.
        test: positions in the examples, ascending.
    """

    fit: Indices
    fit_labels: Mask
    test: Indices


def settle_folds(config: PublishedFoldsConfig | WeeklyFoldsConfig, fit_days: float, times_ms: Indices) -> Folds:
    """The configured folds on data that span some time.

    Args:
        config: which.
        fit_days: length of the fit; what differs between two lengths is where it begins.
        times_ms: (n,), ascending, of all examples.

    Raises:
        DataInvalid: the data do not reach far enough.
    """
    first_ms, last_ms = int(times_ms[0]), int(times_ms[-1])
    if isinstance(config, PublishedFoldsConfig):
        folds = published_folds(fit_days, last_ms)
    else:
        folds = _last_periods(config, fit_days, last_ms)
    if not folds.test:
        raise DataInvalid(f"the data end on {_day(last_ms)}, before the end of the first test")
    begin_ms = min(fold.fit_from_ms for fold in (*folds.validation, *folds.test))
    if begin_ms < first_ms:
        raise DataInvalid(
            f"a fit of {fit_days:g} days would begin on {_day(begin_ms)}, but the data begin on {_day(first_ms)}: "
            "use a shorter fit, fewer folds or more data"
        )
    return folds


def published_folds(fit_days: float, last_ms: int) -> Folds:
    """The Handbook's folds that the data reach the last day of.

    A fit longer than the book's 7 days ends where the book's ends and begins earlier, so the same rows are tested on.
    """

    def fold(start: datetime) -> Fold:
        start_ms = int(start.timestamp() * 1000)
        until_ms, test_ms = start_ms + WEEK_MS, start_ms + 2 * WEEK_MS
        fit_from_ms = until_ms - round(fit_days * DAY_MS)
        return Fold(_day(test_ms), fit_from_ms, until_ms, test_ms, test_ms + WEEK_MS, known_from_ms=start_ms)

    reached = [fold(start) for start in PUBLISHED_TESTS]
    return Folds(
        validation=tuple(fold(start) for start in PUBLISHED_VALIDATIONS),
        test=tuple(each for each in reached if each.test_until_ms - DAY_MS <= last_ms),
    )


def fold_rows(examples: Examples, fold: Fold) -> FoldRows:
    """The examples of a fold; labels as they were known in the fit, as they are in the test.

    Raises:
        DataInvalid: a part lacks one of the classes.
    """
    times = examples.event_time_ms
    fit = np.flatnonzero((times >= fold.fit_from_ms) & (times < fold.fit_until_ms))
    known = known_labels(examples.labels[fit], examples.reported_at_ms[fit], fold.test_from_ms)
    test = np.flatnonzero((times >= fold.test_from_ms) & (times < fold.test_until_ms))
    if fold.known_from_ms is not None:
        test = test[~_known_compromised(examples, test, fold.known_from_ms)]
    for name, labels in (("fit", known), ("test", examples.labels[test])):
        if labels.all() or not labels.any():
            raise DataInvalid(
                f"the {name} rows of the fold {fold.name} hold {int(labels.sum())} frauds among {len(labels)} rows; "
                "both classes are needed"
            )
    return FoldRows(fit, known, test)


def _last_periods(config: WeeklyFoldsConfig, fit_days: float, last_ms: int) -> Folds:
    """From the end of the data backwards: `count` tests, a label delay, `count` periods to choose on."""
    end_ms = last_ms + 1
    length_ms, gap_ms = round(config.test_days * DAY_MS), round(config.gap_days * DAY_MS)

    def period(until_ms: int) -> Fold:
        test_ms = until_ms - length_ms
        fit_until_ms = test_ms - gap_ms
        return Fold(
            _day(test_ms),
            fit_until_ms - round(fit_days * DAY_MS),
            fit_until_ms,
            test_ms,
            until_ms,
            known_from_ms=None,
        )

    def periods(end_ms: int) -> tuple[Fold, ...]:
        return tuple(period(end_ms - back * length_ms) for back in reversed(range(config.count)))

    test = periods(end_ms)
    return Folds(validation=periods(test[0].test_from_ms - gap_ms), test=test)


def _known_compromised(examples: Examples, test: Indices, known_from_ms: int) -> Mask:
    """Whether a test row's card had a fraud from then on to seven days before the row's day."""
    days = examples.event_time_ms // DAY_MS
    first_day = known_from_ms // DAY_MS
    known = np.zeros(len(test), np.bool_)
    for day in np.unique(days[test]):
        seen = examples.labels & (days >= first_day) & (days < day - 7)
        today = days[test] == day
        known[today] = np.isin(examples.card[test][today], examples.card[seen])
    return known


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
