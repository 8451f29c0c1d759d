"""From recovered log-odds to what is served: the choice of a line, and the table of scores."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from training.calibrators import IDENTITY, LINES, Line, LineMethod, cross_entropy, probability_of

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BLOCKS = 5
"""Parts of the calibration slice, each judged by what was fitted to the others. Whole stretches of time: a fraud's
neighbours in time are often its siblings, and a random draw would put them on both sides."""

SCORES = 999
RANK_OF_LAST_COUNT = 20
"""Beyond the 20th-highest legitimate transaction a count is mostly chance, so the table follows a line instead."""

RANK_OF_FIRST_LINE_POINT = 400
"""The line is drawn through ranks 20 to 400: enough points for a slope, near enough to the end to be its slope."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The line that is served, and which row of the table of lines it is."""

    method: LineMethod
    line: Line


def choose_line(log_odds: Reals, labels: Mask, method: LineMethod | Literal["auto"]) -> Chosen:
    """The line to put behind the closed form.

    The closed form is exact only at the loss's minimiser; a line takes up what is left, if it is more than chance.
    `auto` cross-validates every line over five stretches of time and takes the one with the lowest log loss on rows it
    was not fitted to, provided that it beats no line by more than the standard error of the difference: the closed form
    follows from the loss, a line has to be shown.

    Args:
        log_odds: (n,) recovered log-odds of the calibration slice, in the order of time.
        labels: (n,) fraud or not.
        method: which line, or how to find it.

    Raises:
        DataInvalid: a line was asked for by name and would turn the ranking around.
    """
    if method == "auto":
        method = _best_unseen(log_odds, labels)
    line = LINES[method](log_odds, labels)
    if not line.rises:
        raise DataInvalid(
            f"calibration by {method} has slope {line.slope:.3g}: the network ranks the calibration slice backwards"
        )
    return Chosen(method, line)


def _best_unseen(log_odds: Reals, labels: Mask) -> LineMethod:
    losses = {method: _unseen_losses(log_odds, labels, method) for method in LINES}
    without = losses["none"]
    best = min(losses, key=lambda method: float(losses[method].mean()))
    gain = without - losses[best]
    return best if gain.mean() > gain.std() / len(gain) ** 0.5 else "none"


def _unseen_losses(log_odds: Reals, labels: Mask, method: LineMethod) -> Reals:
    """(n,) cross-entropy of each row under the line fitted to the other stretches; infinite if that cannot be."""
    losses = np.empty(len(labels))
    for block in np.array_split(np.arange(len(labels)), BLOCKS):
        others = np.delete(np.arange(len(labels)), block)
        line = LINES[method](log_odds[others], labels[others]) if _both_classes(labels[others]) else IDENTITY
        losses[block] = cross_entropy(line(log_odds[block]), labels[block]) if line.rises else np.inf
    return losses


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
    return probability_of(anchor_logit + (scores - anchor_score) / rise).astype(np.float32)


def _both_classes(labels: Mask) -> bool:
    return bool(labels.any()) and not bool(labels.all())
