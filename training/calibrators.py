"""Calibrators: functions from log-odds to better log-odds, each fitted to rows later than the network's own.

All take what the closed form recovered and answer with log-odds that never fall where their input rises. The lines
rise strictly and are two numbers, so one of them stands in the served graph; the others are measured beside it.
docs/calibration.md compares them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Point: TypeAlias = tuple[int, int]

LineMethod = Literal["none", "temperature", "platt"]
CurveMethod = Literal["beta", "isotonic", "venn_abers"]

PROBABILITY_FLOOR = 1e-12
"""A frequency of 0 or 1 is kept this far inside: its log-odds are infinite, and one wrong row would cost everything."""


class Curve(Protocol):
    """A fitted calibrator."""

    def __call__(self, log_odds: Reals) -> Reals:
        """(n,) log-odds to (n,) log-odds, never falling where the input rises."""


@dataclass(frozen=True, slots=True)
class Line:
    """log-odds served = slope · log-odds recovered + intercept."""

    slope: float
    intercept: float

    def __call__(self, log_odds: Reals) -> Reals:
        """(n,) log-odds to (n,) log-odds."""
        return self.slope * log_odds + self.intercept

    @property
    def rises(self) -> bool:
        """Whether it keeps the ranking; a line that falls would hide a network that ranks the wrong way."""
        return self.slope > 0


IDENTITY = Line(1.0, 0.0)


def closed_form_only(log_odds: Reals, labels: Mask) -> Line:  # noqa: ARG001 - a row of the table below
    """Leave what the closed form recovered as it is."""
    return IDENTITY


def temperature(log_odds: Reals, labels: Mask) -> Line:
    """A slope and nothing else (Guo et al. 2017): mends a network too sure of itself, not a wrong fraud rate."""
    (slope,) = _most_likely(log_odds[np.newaxis], labels, np.array([1.0]))
    return Line(float(slope), 0.0)


def platt(log_odds: Reals, labels: Mask) -> Line:
    """A slope and an intercept: logistic regression on one input (Platt 1999)."""
    slope, intercept = _most_likely(np.stack([log_odds, np.ones(len(log_odds))]), labels, np.array([1.0, 0.0]))
    return Line(float(slope), float(intercept))


def leveled(slope: float, log_odds: Reals, labels: Mask) -> Line:
    """The line of this slope on which the rows (n,) are together as often fraud as their labels say."""
    (level,) = _most_likely(np.ones((1, len(labels))), labels, np.array([0.0]), beside=slope * log_odds)
    return Line(slope, float(level))


@dataclass(frozen=True, slots=True)
class Beta:
    """log-odds = a · log p − b · log(1 − p) + c: one slope where risk is small, another where it is large."""

    a: float
    b: float
    c: float

    def __call__(self, log_odds: Reals) -> Reals:
        """(n,) log-odds to (n,) log-odds."""
        inputs = _beta_inputs(log_odds)
        result: Reals = self.a * inputs[0] + self.b * inputs[1] + self.c
        return result


def beta(log_odds: Reals, labels: Mask) -> Beta:
    """Beta calibration (Kull et al. 2017); a slope that would be negative is 0 and the rest is fitted again."""
    inputs, at = _beta_inputs(log_odds), np.array([1.0, 1.0, 0.0])
    free = np.ones(3, np.bool_)
    for _ in range(3):  # at most both slopes are given up
        at = np.where(free, at, 0.0)
        at[free] = _most_likely(inputs[free], labels, at[free])
        negative = free & (at < 0) & np.array([True, True, False])
        if not negative.any():
            break
        free &= ~negative
    return Beta(*at.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """A staircase.

    Attributes:
        starts: (steps,) the log-odds from which each step holds, ascending; the first holds below it as well.
        heights: (steps,) log-odds, ascending.
    """

    starts: Reals
    heights: Reals

    def __call__(self, log_odds: Reals) -> Reals:
        """(n,) log-odds to (n,) log-odds."""
        return self.heights[np.maximum(np.searchsorted(self.starts, log_odds, side="right") - 1, 0)]


def isotonic(log_odds: Reals, labels: Mask) -> Staircase:
    """The best function that never falls (Zadrozny and Elkan 2002): the slopes of the lowest convex line.

    That line is drawn under the points (rows so far, frauds so far) in ascending order of log-odds.
    """
    scores, corners = _cumulative(log_odds, labels)
    hull: list[Point] = []
    for corner in corners:
        while len(hull) > 1 and not _turns_left(hull[-2], hull[-1], corner):
            hull.pop()
        hull.append(corner)
    rows, frauds = np.array(hull, np.int64).T
    group_of_rows = np.searchsorted(np.array([row for row, _ in corners]), rows[:-1])
    return Staircase(scores[group_of_rows], log_odds_of(np.diff(frauds) / np.diff(rows)))


@dataclass(frozen=True, slots=True, eq=False)
class VennAbers:
    """Two isotonic fits per row, one with the row as a fraud and one as legitimate, and the point between them.

    Attributes:
        scores: (k,) distinct log-odds of the calibration rows, ascending.
        if_legitimate: (k + 1,) p0 of a row, by the number of scores that are not above it.
        if_fraud: (k + 1,) p1 of a row, by the number of scores below it.
    """

    scores: Reals
    if_legitimate: Reals
    if_fraud: Reals

    def __call__(self, log_odds: Reals) -> Reals:
        """(n,) log-odds to (n,) log-odds of p1 / (1 − p0 + p1), which regrets least whichever of the two was right."""
        p0 = self.if_legitimate[np.searchsorted(self.scores, log_odds, side="right")]
        p1 = self.if_fraud[np.searchsorted(self.scores, log_odds, side="left")]
        return log_odds_of(p1 / (1 - p0 + p1))


def venn_abers(log_odds: Reals, labels: Mask) -> VennAbers:
    """The inductive Venn-Abers predictor (Vovk, Petej and Fedorova 2015), exact, in time linear in the scores."""
    scores, corners = _cumulative(log_odds, labels)
    _, mirrored = _cumulative(-log_odds, ~labels)
    return VennAbers(
        scores,
        if_legitimate=1 - np.array([1.0, *_with_one_more_fraud(mirrored)[::-1]]),
        if_fraud=np.array([*_with_one_more_fraud(corners), 1.0]),
    )


LINES: Mapping[LineMethod, Callable[[Reals, Mask], Line]] = {
    "none": closed_form_only,
    "temperature": temperature,
    "platt": platt,
}
"""What may stand in the graph, fewest parameters first."""

CURVES: Mapping[CurveMethod, Callable[[Reals, Mask], Curve]] = {
    "beta": beta,
    "isotonic": isotonic,
    "venn_abers": venn_abers,
}
"""What is measured beside them."""


def probability_of(log_odds: Reals) -> Reals:
    """The logistic function in float64; beyond ±80 it no longer moves."""
    result: Reals = 1 / (1 + np.exp(-np.clip(log_odds, -80, 80)))
    return result


def log_odds_of(probability: Reals) -> Reals:
    """Its inverse, finite for 0 and 1: see `PROBABILITY_FLOOR`."""
    inside = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    result: Reals = np.log(inside) - np.log1p(-inside)
    return result


def cross_entropy(log_odds: Reals, labels: Mask) -> Reals:
    """(n,) what each row costs, in nats."""
    result: Reals = np.logaddexp(0, log_odds) - labels * log_odds
    return result


def _most_likely(inputs: Reals, labels: Mask, at: Reals, beside: Reals | float = 0.0) -> Reals:
    """Logistic regression by Newton's method with step halving: inputs (k, n), from the weights `at` (k,).

    `beside` (n,) are log-odds that the weighted inputs are added to.

    Sums over the rows by einsum and not by @, whose last bits depend on how many threads BLAS has.
    """
    for _ in range(100):
        p = probability_of(beside + at @ inputs)
        slope = np.einsum("kn,n->k", inputs, p - labels)
        curvature = np.einsum("kn,ln,n->kl", inputs, inputs, p * (1 - p)) + 1e-9 * np.eye(len(at))
        step = np.linalg.solve(curvature, slope)
        before = cross_entropy(beside + at @ inputs, labels).mean()
        while cross_entropy(beside + (at - step) @ inputs, labels).mean() > before and np.abs(step).max() > 1e-12:  # noqa: PLR2004 - float64
            step /= 2
        at = at - step
        if np.abs(step).max() < 1e-10:  # noqa: PLR2004 - converged
            break
    return at


def _beta_inputs(log_odds: Reals) -> Reals:
    """(3, n): log p, −log(1 − p), 1."""
    return np.stack([-np.logaddexp(0, -log_odds), np.logaddexp(0, log_odds), np.ones(len(log_odds))])


def _cumulative(log_odds: Reals, labels: Mask) -> tuple[Reals, list[Point]]:
    """The k distinct scores, ascending, and k + 1 corners (rows so far, frauds so far) from (0, 0) on.

    Integers of Python: what follows compares products of counts, which has to be exact.
    """
    scores, group = np.unique(log_odds, return_inverse=True)
    rows = np.cumsum(np.bincount(group)).tolist()
    frauds = np.cumsum(np.bincount(group, weights=labels).astype(np.int64)).tolist()
    return scores, [(0, 0), *zip(rows, frauds, strict=True)]


def _with_one_more_fraud(corners: list[Point]) -> list[float]:
    """For each of the k scores: what isotonic regression says there if one more row, a fraud, has that score.

    A row put in at score i moves the corners before it by (−1, −1). So its answer is the slope of the line that starts
    at the moved part; `hull` holds that part's touching point and the right part's lowest convex line, and is carried
    from score to score (algorithms 1 and 2 of the paper).
    """
    hull = [_moved(corners[0])]
    for corner in corners:
        while len(hull) > 1 and not _turns_left(hull[-2], hull[-1], corner):
            hull.pop()
        hull.append(corner)
    hull.reverse()
    answers = []
    for corner in corners[1:]:
        (rows, frauds), (next_rows, next_frauds) = hull[-1], hull[-2]
        answers.append((next_frauds - frauds) / (next_rows - rows))
        moved = _moved(corner)
        if _cross(hull[-1], hull[-2], moved) >= 0:
            continue
        hull.pop()
        while len(hull) > 1 and not _turns_left(moved, hull[-1], hull[-2]):
            hull.pop()
        hull.append(moved)
    return answers


def _moved(corner: Point) -> Point:
    return corner[0] - 1, corner[1] - 1


def _turns_left(first: Point, second: Point, third: Point) -> bool:
    return _cross(first, second, third) > 0


def _cross(first: Point, second: Point, third: Point) -> int:
    """Positive where the third point lies to the left of, that is above, the line through the others."""
    along = second[0] - first[0], second[1] - first[1]
    return along[0] * (third[1] - second[1]) - along[1] * (third[0] - second[0])
