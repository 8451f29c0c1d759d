"""From a fitted network to probabilities: the line in log-odds, the certificate, the score table."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.bundle import Calibration, Certificate
from service.errors import DataInvalid
from training.metrics import brier, expected_calibration_error, log_loss

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SCORES = 999
CERTIFICATE_BINS = 20  # of equal mass
RANK_OF_LAST_COUNT = 20
"""Beyond the 20th-highest legitimate transaction a count is mostly chance, so the table follows a line instead."""

RANK_OF_FIRST_LINE_POINT = 400
"""The line is drawn through ranks 20 to 400: enough points for a slope, near enough to the end to be its slope."""


@dataclass(frozen=True, slots=True)
class Line:
    """log-odds served = slope · log-odds recovered + intercept (Platt 1999)."""

    slope: float
    intercept: float


IDENTITY = Line(1.0, 0.0)


def calibration_line(logits: Reals, labels: Mask) -> Line:
    """The line to put behind the closed form, or the identity if a line would not have helped.

    The closed form is exact only at the loss's minimiser; a line in log-odds takes up what is left. It is fitted to
    the first half of the slice and judged on the second, and only what lowers the log loss there is fitted again to
    the whole.

    Args:
        logits: (n,) recovered log-odds, in the order of time.
        labels: (n,) fraud or not.
    """
    half = len(logits) // 2
    early, late = labels[:half], labels[half:]
    if not (_both_classes(early) and _both_classes(late)):
        return IDENTITY
    trial = fit_line(logits[:half], early)
    without = log_loss(late, _probability(logits[half:]))
    with_line = log_loss(late, _probability(trial.slope * logits[half:] + trial.intercept))
    if trial.slope <= 0 or with_line >= without:
        return IDENTITY
    line = fit_line(logits, labels)
    return line if line.slope > 0 else IDENTITY


def fit_line(logits: Reals, labels: Mask) -> Line:
    """Maximum-likelihood logistic regression on one input, by Newton's method with step halving."""
    target = labels.astype(np.float64)
    inputs = np.stack([logits.astype(np.float64), np.ones(len(logits))])
    at = np.array([1.0, 0.0])
    for _ in range(100):
        p = _probability(at @ inputs)
        slope = inputs @ (p - target)
        curvature = (inputs * (p * (1 - p))) @ inputs.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        before = _cross_entropy(at @ inputs, target)
        while _cross_entropy((at - step) @ inputs, target) > before and np.abs(step).max() > 1e-12:  # noqa: PLR2004 - float64
            step /= 2
        at = at - step
        if np.abs(step).max() < 1e-10:  # noqa: PLR2004 - converged
            break
    return Line(float(at[0]), float(at[1]))


def certify(
    labels: Mask, event_time_ms: npt.NDArray[np.int64], *, raw: Reals, recovered: Reals, served: Reals
) -> Certificate:
    """Measure three probabilities on rows that nothing was fitted to.

    Args:
        labels: (n,) fraud or not.
        event_time_ms: (n,) UTC epoch milliseconds.
        raw: (n,) the logistic function of the network's own output.
        recovered: (n,) after the closed form.
        served: (n,) after the line.
    """
    return Certificate(
        rows=len(labels),
        frauds=int(labels.sum()),
        first_event_time_ms=int(event_time_ms.min()),
        last_event_time_ms=int(event_time_ms.max()),
        bins=CERTIFICATE_BINS,
        raw=_calibration(labels, raw),
        recovered=_calibration(labels, recovered),
        served=_calibration(labels, served),
    )


def _calibration(labels: Mask, probabilities: Reals) -> Calibration:
    return Calibration(
        expected_calibration_error=expected_calibration_error(labels, probabilities, CERTIFICATE_BINS),
        brier=brier(labels, probabilities),
        log_loss=log_loss(labels, probabilities),
    )


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What each score takes.

    Attributes:
        thresholds: (999,) float32; `thresholds[s - 1]` is the smallest probability whose score is at least s.
        extrapolated_from: the first score that follows the line rather than a count; 1000 if none does.
    """

    thresholds: Floats
    extrapolated_from: int


def score_table(logits: Floats, probabilities: Floats, labels: Mask) -> ScoreTable:
    """One in 10^(s / 100) legitimate transactions reaches score s.

    With FPR(p) = (1 + legitimate rows at p or above) / (1 + legitimate rows), score(p) = floor(-100 · log10 FPR(p)),
    clipped to 0..999. Beyond the 20th-highest legitimate row log FPR is continued in a straight line in the logit.

    Args:
        logits: (n,) served log-odds.
        probabilities: (n,) served probabilities of the same rows.
        labels: (n,) fraud or not.

    Raises:
        DataInvalid: too few legitimate rows to count 20 of them.
    """
    legitimate = np.sort(probabilities[~labels])[::-1].astype(np.float32)
    if len(legitimate) <= RANK_OF_LAST_COUNT:
        raise DataInvalid(f"a score table needs more than {RANK_OF_LAST_COUNT} legitimate rows, got {len(legitimate)}")
    total = 1 + len(legitimate)
    above = np.arange(total)  # legitimate rows at or above a probability
    scores = np.clip(np.floor(-100 * np.log10((1 + above) / total)), 0, SCORES).astype(np.int64)  # falling
    allowed = np.searchsorted(-scores, -np.arange(1, SCORES + 1), side="right") - 1  # the most rows a score may have
    counted = allowed >= RANK_OF_LAST_COUNT
    extrapolated_from = int(counted.sum()) + 1
    thresholds = np.empty(SCORES, np.float32)
    thresholds[counted] = np.nextafter(legitimate[allowed[counted]], np.float32(2))
    ordered_logits = np.sort(logits[~labels].astype(np.float64))[::-1]
    thresholds[~counted] = _continued(ordered_logits, total, np.arange(extrapolated_from, SCORES + 1))
    return ScoreTable(np.minimum(np.maximum.accumulate(thresholds), np.float32(1)), extrapolated_from)


def _continued(legitimate_logits: Reals, total: int, scores: npt.NDArray[np.int64]) -> Floats:
    """Probabilities at which the line through the highest counted ranks reaches each score."""
    ranks = np.arange(RANK_OF_LAST_COUNT, min(RANK_OF_FIRST_LINE_POINT, len(legitimate_logits)) + 1)
    at_rank = legitimate_logits[ranks - 1]
    scores_at_rank = -100 * np.log10((1 + ranks) / total)
    anchor_logit, anchor_score = at_rank[0], scores_at_rank[0]
    away = at_rank - anchor_logit
    reach = float(away @ away)
    rise = float(away @ (scores_at_rank - anchor_score)) / reach if reach > 0 else 0.0
    rise = max(rise, 1.0)  # at least one point per unit of log-odds: ties must not make the line vertical or fall
    return _probability(anchor_logit + (scores - anchor_score) / rise).astype(np.float32)


def _both_classes(labels: Mask) -> bool:
    return bool(labels.any()) and not bool(labels.all())


def _probability(logits: Reals) -> Reals:
    result: Reals = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return result


def _cross_entropy(logits: Reals, target: Reals) -> float:
    return float((np.logaddexp(0, logits) - target * logits).mean())
