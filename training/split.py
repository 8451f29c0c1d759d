"""Cutting examples along time, with each part knowing only the labels that were known when the model was made."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from training.config import SplitConfig

DAY_MS = 86_400_000

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of one part of the time axis, which stand together because examples are in the order of time.

    Attributes:
        rows: where they stand in the examples.
        labels: (n,) fraud as far as the part may know it.
    """

    rows: slice
    labels: Mask

    @property
    def positions(self) -> Indices:
        """(n,) the same places one by one, ascending."""
        return np.arange(self.rows.start, self.rows.stop)

    @property
    def frauds(self) -> int:
        """Rows labelled fraud."""
        return int(self.labels.sum())


@dataclass(frozen=True, slots=True)
class Split:
    """Four parts in the order of time. `known_at_ms` is when the model is made: the test begins."""

    fit: Slice
    tune: Slice
    calibrate: Slice
    test: Slice
    known_at_ms: int


def split_by_time(event_time_ms: Times, labels: Mask, reported_at_ms: Times, config: SplitConfig) -> Split:
    """Cut warm-up | fit | gap | tune | calibrate | gap | test, counted from both ends of the data.

    The model is made when the test begins, so the first three parts hold as fraud only what had been reported by
    then; what comes out later counts as legitimate there, as it would have. The gaps are one label delay: the last
    gives the calibration's labels time to arrive, the first makes the model as old on its tuning rows as it will be
    in service.

    Args:
        event_time_ms: (n,) UTC epoch milliseconds, ascending.
        labels: (n,) whether it was fraud, as finally known.
        reported_at_ms: (n,) when a fraud's label became known, negative for never; ignored for legitimate rows.
        config: the lengths.

    Raises:
        DataInvalid: a part has no fraud or no legitimate row; the message names the part and its bounds.
    """
    first = int(event_time_ms[0])
    last = int(event_time_ms[-1]) + 1
    end = last if config.until is None else min(last, int(config.until.timestamp() * 1000))
    test_from = end - round(config.test_days * DAY_MS)
    calibrate_until = test_from - round(config.gap_days * DAY_MS)
    calibrate_from = calibrate_until - round(config.calibrate_days * DAY_MS)
    tune_from = calibrate_from - round(config.tune_days * DAY_MS)
    fit_until = tune_from - round(config.gap_days * DAY_MS)
    fit_from = first + round(config.warm_up_days * DAY_MS)
    known = known_labels(labels, reported_at_ms, test_from)

    def part(name: str, start: int, stop: int, seen: Mask) -> Slice:
        first, end = np.searchsorted(event_time_ms, (start, stop)).tolist()
        rows = slice(first, max(first, end))
        return _checked(name, Slice(rows, seen[rows]), start, stop)

    return Split(
        fit=part("fit", fit_from, fit_until, known),
        tune=part("tune", tune_from, calibrate_from, known),
        calibrate=part("calibrate", calibrate_from, calibrate_until, known),
        test=part("test", test_from, end, labels),
        known_at_ms=test_from,
    )


def known_labels(labels: Mask, reported_at_ms: Times, moment_ms: int) -> Mask:
    """Fraud as far as it had been reported by a moment, (n,); what came out later counts as legitimate."""
    return labels & (reported_at_ms >= 0) & (reported_at_ms < moment_ms)


def _checked(name: str, part: Slice, start_ms: int, stop_ms: int) -> Slice:
    if part.frauds == 0 or part.frauds == len(part.labels):
        days = (stop_ms - start_ms) / DAY_MS
        raise DataInvalid(
            f"the {name} part ({days:.1f} days from {np.datetime64(start_ms, 'ms')}) has {part.frauds} frauds in "
            f"{len(part.labels)} rows; it needs both classes: use more data or other lengths in `split`"
        )
    return part
