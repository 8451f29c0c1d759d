"""Hard cases: the half of the frauds that a model without depth ranks lowest, and how many of them another one catches.

A recall over all frauds is mostly a recall of those that any model finds. The hard half is fixed before a network is
fitted, by a reference that no network had a say in, so that every network is asked about the same frauds.

The reference itself and models like it are at a disadvantage here: the hard half is chosen among the reference's own
mistakes, its chance mistakes included. So compare networks with each other, not with a logistic regression.
"""

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from training.flat_encoding import FlatEncoding
from training.metrics import Labels, Mask, Reals, threshold_at_fpr
from training.network import INFERENCE_ROWS, Codes, Floats
from training.optimise import Part

LEGITIMATE_ROWS = 300_000
"""The reference is fitted to at most this many legitimate rows, evenly spaced and weighed up to all of them: a straight
line has nothing more to learn from the rest, and one-hot columns of millions of rows do not fit into memory."""

Scores = npt.NDArray[np.float64]


def reference_scores(fit: Part, numeric: Floats, categorical: Codes) -> Scores:
    """What a logistic regression says of some rows: log-odds of fraud, (rows,).

    It sees the numbers as the network does (standardised signed logarithms beside missing flags, no quantile bins) and
    each frequent code as a column of its own, at the prevalence of the fit rows, with scikit-learn's default ridge.

    Args:
        fit: the rows it is fitted to, none thinned out.
        numeric: (rows, n) of the rows to rank, NaN where missing.
        categorical: (rows, m) of the same rows, negative where missing.

    Raises:
        DataInvalid: the fit rows are all of one class.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - loads SciPy: a second that few commands need

    rows, weights = _spaced_rows(fit.labels)
    encoding = FlatEncoding.for_data(fit.numeric, fit.categorical)
    reference = LogisticRegression(solver="newton-cholesky")
    reference.fit(_columns(encoding, fit.numeric[rows], fit.categorical[rows]), fit.labels[rows], weights)
    pieces = [np.zeros(0)]
    for start in range(0, len(numeric), INFERENCE_ROWS):
        piece = slice(start, start + INFERENCE_ROWS)
        pieces.append(reference.decision_function(_columns(encoding, numeric[piece], categorical[piece])))
    return np.concatenate(pieces)


def hard_frauds(reference_scores: Reals, labels: Labels) -> Mask:
    """The half of the frauds that the reference ranks lowest, as a mask over all rows (n,).

    Of an odd number the larger half. Frauds that the reference cannot tell from the last of that half are hard too, so
    that the order of the rows decides nothing; with many ties it may be more than half.

    Args:
        reference_scores: (n,), larger is more suspicious.
        labels: (n,), 1 (or True) for fraud.

    Raises:
        DataInvalid: there is no fraud.
    """
    fraud: Mask = labels == 1
    assert fraud.shape == reference_scores.shape, (fraud.shape, reference_scores.shape)
    ascending = np.sort(reference_scores[fraud])
    if len(ascending) == 0:
        raise DataInvalid("hard frauds are half of the frauds, and there is none among the rows")
    hard: Mask = fraud & (reference_scores <= ascending[(len(ascending) - 1) // 2])
    return hard


def hard_recall(labels: Labels, scores: Reals, hard: Mask, fpr: float) -> float:
    """The share of the hard frauds caught while at most `fpr` of all legitimate rows are flagged.

    The threshold is that of `metrics.recall_at_fpr`: it knows nothing of what is hard.

    Args:
        labels: (n,), 1 (or True) for fraud.
        scores: (n,), larger is more suspicious.
        hard: (n,), of `hard_frauds`.
        fpr: the false-positive rate that may not be exceeded, in [0, 1].

    Raises:
        DataInvalid: one of the two classes is missing.
    """
    threshold = threshold_at_fpr(labels, scores, fpr)
    assert np.any(hard), "no fraud is hard"
    assert np.all(labels[hard] == 1), "a legitimate row is no hard fraud"
    return float(np.mean(scores[hard] >= threshold))


def _spaced_rows(labels: Mask) -> tuple[npt.NDArray[np.int64], Scores]:
    """Every fraud and evenly spaced legitimate rows, in the order of time, with weights that keep the prevalence."""
    legitimate = np.flatnonzero(~labels)
    if not 0 < len(legitimate) < len(labels):
        raise DataInvalid(f"the reference needs both classes, got {len(legitimate)} legitimate of {len(labels)} rows")
    kept = min(len(legitimate), LEGITIMATE_ROWS)
    spaced = legitimate[np.linspace(0, len(legitimate) - 1, kept).astype(np.int64)]
    rows = np.sort(np.concatenate([np.flatnonzero(labels), spaced]))
    return rows, np.where(labels[rows], 1.0, len(legitimate) / kept)


def _columns(encoding: FlatEncoding, numeric: Floats, categorical: Codes) -> Scores:
    """What the reference sees of some rows: (rows, columns), as wide numbers as its solver needs."""
    return encoding(numeric, categorical).astype(np.float64)
