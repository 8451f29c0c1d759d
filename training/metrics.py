"""Figures that say how good a fraud model is: ranking, calibration, and what a threshold costs.

Ties are never broken by row order: rows with equal scores are flagged together, as a threshold would flag them, so
no figure here depends on the order of the rows. Labels are 1 (or True) for fraud.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid

Labels: TypeAlias = npt.NDArray[np.bool_ | np.number]
Reals: TypeAlias = npt.NDArray[np.number]
Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

SWEEP_THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
LOG_LOSS_FLOOR = 1e-12  # a float32 probability can be exactly 0 or 1; one wrong row must not make the mean infinite


def average_precision(labels: Labels, scores: Reals) -> float:
    """Area under the precision-recall steps: the mean, over frauds, of the precision at that fraud's score.

    Not interpolated; a random ranking scores the fraud rate.

    Args:
        labels: (n,), 0 or 1.
        scores: (n,), larger is more suspicious; any monotone transform gives the same figure.

    Raises:
        DataInvalid: there is no fraud.
    """
    curve = precision_recall_curve(labels, scores)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def roc_auc(labels: Labels, scores: Reals) -> float:
    """The chance that a random fraud outranks a random legitimate transaction, a tie counting half.

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    curve = roc_curve(labels, scores)
    return float(np.trapezoid(curve.recall, curve.false_positive_rate))


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecallCurve:
    """One point per distinct score, highest first: what flagging every score >= `threshold` achieves.

    Shape:
        Each field (distinct scores,), float64.
    """

    threshold: Floats
    precision: Floats
    recall: Floats


def precision_recall_curve(labels: Labels, scores: Reals) -> PrecisionRecallCurve:
    """Precision and recall at every distinct score; no made-up point at recall 0.

    Raises:
        DataInvalid: there is no fraud.
    """
    flagged = _flagged(labels, scores)
    _require(fraud=flagged.fraud_count)
    return PrecisionRecallCurve(
        threshold=flagged.threshold,
        precision=flagged.fraud / (flagged.fraud + flagged.legitimate),
        recall=flagged.fraud / flagged.fraud_count,
    )


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """One point per distinct score, highest first, after a first point (threshold +inf) where nothing is flagged.

    Shape:
        Each field (distinct scores + 1,), float64.
    """

    threshold: Floats
    false_positive_rate: Floats
    recall: Floats


def roc_curve(labels: Labels, scores: Reals) -> RocCurve:
    """False-positive rate and recall at every distinct score.

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    flagged = _flagged(labels, scores)
    _require(fraud=flagged.fraud_count, legitimate=flagged.legitimate_count)
    return RocCurve(
        threshold=np.append(np.inf, flagged.threshold),
        false_positive_rate=np.append(0.0, flagged.legitimate / flagged.legitimate_count),
        recall=np.append(0.0, flagged.fraud / flagged.fraud_count),
    )


def recall_at_fpr(labels: Labels, scores: Reals, fpr: float) -> float:
    """The share of frauds caught while at most `fpr` of the legitimate are flagged. A real threshold, not interpolated.

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    threshold = threshold_at_fpr(labels, scores, fpr)
    return float(np.mean(scores[_fraud(labels)] >= threshold))


def threshold_at_fpr(labels: Labels, scores: Reals, fpr: float) -> float:
    """The lowest score that can be flagged from without exceeding a false-positive rate; +inf when there is none.

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    assert 0 <= fpr <= 1, fpr
    curve = roc_curve(labels, scores)
    return float(curve.threshold[np.searchsorted(curve.false_positive_rate, fpr, side="right") - 1])


@dataclass(frozen=True, slots=True)
class TypologyRecall:
    """How many frauds of one kind a threshold common to all kinds catches."""

    typology: str
    frauds: int
    caught: int

    @property
    def recall(self) -> float:
        """The share caught."""
        return self.caught / self.frauds


def recall_by_typology(
    labels: Labels, scores: Reals, typology: npt.NDArray[np.object_ | np.str_], fpr: float
) -> tuple[TypologyRecall, ...]:
    """Recall of each kind of fraud at the lowest threshold within a false-positive rate, in the order of the names.

    Args:
        labels: (n,), 0 or 1.
        scores: (n,), larger is more suspicious.
        typology: (n,), the kind of fraud; None or "" where unknown. Ignored for legitimate rows.
        fpr: the false-positive rate over all transactions.

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    fraud = _fraud(labels)
    assert typology.shape == fraud.shape, (typology.shape, fraud.shape)
    flagged = scores >= threshold_at_fpr(labels, scores, fpr)
    kinds = np.array([kind or "" for kind in typology[fraud].tolist()])
    return tuple(
        TypologyRecall(kind, frauds=int(np.sum(kinds == kind)), caught=int(np.sum(flagged[fraud] & (kinds == kind))))
        for kind in np.unique(kinds).tolist()
        if kind
    )


def expected_calibration_error(labels: Labels, probabilities: Reals, bins: int = 20) -> float:
    """How far, on average over rows, a bin's mean probability is from its fraud rate (equal-mass bins).

    Raises:
        DataInvalid: there are no rows.
    """
    reliability = reliability_bins(labels, probabilities, bins)
    gap = np.abs(reliability.mean_probability - reliability.fraud_rate)
    return float(np.sum(gap * reliability.count) / np.sum(reliability.count))


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityBins:
    """What was said and what happened, by bins of the probability, lowest first; empty bins left out.

    Shape:
        Each field (bins that hold rows,).
    """

    count: Counts
    mean_probability: Floats
    fraud_rate: Floats


def reliability_bins(labels: Labels, probabilities: Reals, bins: int = 20) -> ReliabilityBins:
    """Sort rows by probability and cut them into `bins` parts of n / bins rows.

    Equal probabilities share a bin, that of the first of them, so a bin may be larger than the others, or empty.

    Raises:
        DataInvalid: there are no rows.
    """
    assert bins > 0, bins
    fraud = _fraud(labels)
    _check(fraud, probabilities)
    _require(transactions=len(fraud))
    _, group, group_size = np.unique(probabilities, return_inverse=True, return_counts=True)
    rows_below = np.cumsum(group_size) - group_size
    return _binned(fraud, probabilities, (rows_below * bins // len(fraud))[group])


def log_odds_bins(labels: Labels, probabilities: Reals, bins_per_decade: int = 2) -> ReliabilityBins:
    """Bins of equal width in the odds' logarithm: where equal-mass bins hold nearly all frauds in the last one.

    Odds beyond a million to one share the outermost bins.

    Raises:
        DataInvalid: there are no rows.
    """
    assert bins_per_decade > 0, bins_per_decade
    fraud = _fraud(labels)
    _check(fraud, probabilities)
    _require(transactions=len(fraud))
    inside = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    step = np.floor(np.log10(inside / (1 - inside)) * bins_per_decade).astype(np.int64)
    return _binned(fraud, probabilities, step - step.min())


def _binned(fraud: Mask, probabilities: Reals, bin_of_row: npt.NDArray[np.integer]) -> ReliabilityBins:
    count = np.bincount(bin_of_row)
    held = count > 0
    return ReliabilityBins(
        count=count[held],
        mean_probability=np.bincount(bin_of_row, weights=probabilities)[held] / count[held],
        fraud_rate=np.bincount(bin_of_row, weights=fraud)[held] / count[held],
    )


def brier(labels: Labels, probabilities: Reals) -> float:
    """The mean squared distance between the probability and what happened (Brier 1950).

    Raises:
        DataInvalid: there are no rows.
    """
    fraud = _fraud(labels)
    _check(fraud, probabilities)
    _require(transactions=len(fraud))
    return float(np.mean((probabilities.astype(np.float64) - fraud) ** 2))


def log_loss(labels: Labels, probabilities: Reals) -> float:
    """The mean cross-entropy in nats, with probabilities kept `LOG_LOSS_FLOOR` away from 0 and 1.

    Raises:
        DataInvalid: there are no rows.
    """
    fraud = _fraud(labels)
    _check(fraud, probabilities)
    _require(transactions=len(fraud))
    of_fraud = probabilities.astype(np.float64)
    of_what_happened = np.where(fraud, of_fraud, 1 - of_fraud)
    return float(-np.mean(np.log(np.clip(of_what_happened, LOG_LOSS_FLOOR, 1))))


def card_precision_at_k(
    day: npt.NDArray[np.integer], card: npt.NDArray[np.generic], labels: Labels, scores: Reals, k: int = 100
) -> float:
    """The share of compromised cards among the k most suspicious ones, averaged over days.

    As the Fraud Detection Handbook defines it (Le Borgne et al. 2022, ch. 4): each day a card counts once, with its
    highest score, and is compromised if any of its transactions that day is fraud; a compromised card that was among
    the k is known from then on and left out of later days. The divisor is k even on a day with fewer cards.
    Cards with equal scores are taken in the order of their ids.

    Args:
        day: (n,), the day of each transaction, any integer that grows with time.
        card: (n,), whose card it was: integers or strings.
        labels: (n,), 0 or 1.
        scores: (n,), larger is more suspicious.
        k: how many cards can be investigated in a day.

    Raises:
        DataInvalid: there are no rows.
    """
    assert k > 0, k
    fraud = _fraud(labels)
    _check(fraud, scores)
    _require(transactions=len(fraud))
    cards, card_index = np.unique(card, return_inverse=True)
    known = np.zeros(len(cards), bool)
    by_day = np.argsort(day, kind="stable")
    first_of_day = np.flatnonzero(np.diff(day[by_day], prepend=day[by_day[0]] - 1))
    precisions = []
    for start, stop in pairwise([*first_of_day, len(fraud)]):
        rows = by_day[start:stop]
        caught = _compromised_among_top(card_index[rows], fraud[rows], scores[rows], known, k)
        known[caught] = True
        precisions.append(len(caught) / k)
    return float(np.mean(precisions))


def _compromised_among_top(
    card_index: npt.NDArray[np.integer], fraud: Mask, scores: Reals, known: Mask, k: int
) -> npt.NDArray[np.integer]:
    """The compromised cards among the k highest-scored ones of one day, those already `known` left out."""
    unknown = ~known[card_index]
    card_index, fraud, scores = card_index[unknown], fraud[unknown], scores[unknown]
    highest_first = np.lexsort((card_index, -scores.astype(np.float64)))
    seen, first_row = np.unique(card_index[highest_first], return_index=True)
    top = seen[np.argsort(first_row)][:k]
    return np.intersect1d(top, card_index[fraud])


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdSweep:
    """What each threshold would do. Shape of each field: (thresholds,).

    Attributes:
        threshold: probabilities; everything at or above is declined.
        false_positive_rate: share of legitimate transactions declined.
        recall: share of frauds declined.
        precision: share of declines that are fraud; NaN where nothing is declined.
        declines_per_10_000: declines in 10,000 transactions.
        fraud_amount_caught: minor units of fraud declined.
        value_caught: the same as a share of all fraud, by amount.
    """

    threshold: Floats
    false_positive_rate: Floats
    recall: Floats
    precision: Floats
    declines_per_10_000: Floats
    fraud_amount_caught: Counts
    value_caught: Floats


def threshold_sweep(
    labels: Labels,
    probabilities: Reals,
    amounts_minor: npt.NDArray[np.integer],
    thresholds: tuple[float, ...] = SWEEP_THRESHOLDS,
) -> ThresholdSweep:
    """What declining at or above each of some probabilities would have done.

    Args:
        labels: (n,), 0 or 1.
        probabilities: (n,), in [0, 1].
        amounts_minor: (n,), minor units of one currency.
        thresholds: any probabilities, in the order wanted.

    Raises:
        DataInvalid: one of the two classes is missing, or all fraud together amounts to nothing.
    """
    fraud = _fraud(labels)
    _check(fraud, probabilities)
    _check(fraud, amounts_minor)
    fraud_amount = int(np.sum(amounts_minor[fraud], dtype=np.int64))
    _require(fraud=int(np.sum(fraud)), legitimate=int(np.sum(~fraud)), fraud_amount=fraud_amount)
    exact = probabilities.astype(np.float64)  # as decisions compare: 0.1 is not float32's 0.1
    declined = [exact >= threshold for threshold in thresholds]
    frauds_declined = np.array([np.sum(each & fraud) for each in declined], np.int64)
    legitimate_declined = np.array([np.sum(each & ~fraud) for each in declined], np.int64)
    amount_caught = np.array([np.sum(amounts_minor[each & fraud], dtype=np.int64) for each in declined], np.int64)
    declines = frauds_declined + legitimate_declined
    return ThresholdSweep(
        threshold=np.array(thresholds, np.float64),
        false_positive_rate=legitimate_declined / np.sum(~fraud),
        recall=frauds_declined / np.sum(fraud),
        precision=np.where(declines > 0, frauds_declined / np.maximum(declines, 1), np.nan),
        declines_per_10_000=declines * 10_000 / len(fraud),
        fraud_amount_caught=amount_caught,
        value_caught=amount_caught / fraud_amount,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): honest for few trials and for shares near 0 or 1."""
    assert 0 <= successes <= trials, (successes, trials)
    assert trials > 0, trials
    z = 1.959964  # the normal quantile of 0.975
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


@dataclass(frozen=True, slots=True, eq=False)
class _Flagged:
    """How many rows have a score >= each distinct score, highest first."""

    threshold: Floats
    fraud: Counts
    legitimate: Counts

    @property
    def fraud_count(self) -> int:
        return int(self.fraud[-1]) if len(self.fraud) else 0

    @property
    def legitimate_count(self) -> int:
        return int(self.legitimate[-1]) if len(self.legitimate) else 0


def _flagged(labels: Labels, scores: Reals) -> _Flagged:
    fraud = _fraud(labels)
    _check(fraud, scores)
    order = np.argsort(scores, kind="stable")[::-1]
    descending = np.asarray(scores, np.float64)[order]
    last_of_tie = np.flatnonzero(np.append(descending[1:] != descending[:-1], np.ones(min(1, len(fraud)), bool)))
    frauds = np.cumsum(fraud[order], dtype=np.int64)[last_of_tie]
    return _Flagged(threshold=descending[last_of_tie], fraud=frauds, legitimate=last_of_tie + 1 - frauds)


def _fraud(labels: Labels) -> Mask:
    fraud: Mask = labels == 1
    assert np.all(fraud | (labels == 0)), "a label is neither 0 nor 1"
    return fraud


def _check(fraud: Mask, values: Reals) -> None:
    assert fraud.ndim == 1, fraud.shape
    assert fraud.shape == values.shape, (fraud.shape, values.shape)
    assert not np.any(np.isnan(values)), "a score is not a number"


def _require(**held: int) -> None:
    for what, count in held.items():
        if count == 0:
            raise DataInvalid(f"this figure needs some {what.replace('_', ' ')} among the rows, and there is none")
