"""Evaluation: what a bundle does on a data set."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle
from service.errors import DataInvalid
from service.model import OnnxModel
from training.blocks import blocks
from training.examples import Examples
from training.metrics import (
    average_precision,
    brier,
    card_precision_at_k,
    expected_calibration_error,
    log_loss,
    recall_at_fpr,
    roc_auc,
)
from training.split import DAY_MS


def evaluate(examples: Examples, bundle: Bundle, *, start: datetime | None) -> dict[str, float]:
    """Metrics of a bundle on the rows from `start` on.

    Args:
        examples: in the order of time, under the bundle's spec and rates.
        bundle: what to evaluate.
        start: the first moment that counts; None counts everything.

    Returns:
        Named figures; ranking metrics are taken on the logit, calibration on the probability.

    Raises:
        DataInvalid: no row counts, or all of them have one label.
    """
    first_ms = 0 if start is None else int(start.timestamp() * 1000)
    rows = slice(int(np.searchsorted(examples.event_time_ms, first_ms)), len(examples.labels))
    labels = examples.labels[rows]
    if len(labels) == 0 or labels.all() or not labels.any():
        raise DataInvalid(f"{len(labels):,} rows count, {int(labels.sum()):,} of them frauds: both classes are needed")
    numeric, categorical = examples.numeric[rows], examples.categorical[rows]
    model = OnnxModel.load(bundle)
    answers = [model.run(numeric[block], categorical[block]) for block in blocks(len(labels))]
    logit, probability = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    stated = probability.astype(np.float64)
    return {
        "rows": float(len(labels)),
        "frauds": float(labels.sum()),
        **ranking(examples, rows, labels, logit),
        "expected_calibration_error": expected_calibration_error(labels, stated),
        "brier": brier(labels, stated),
        "log_loss": log_loss(labels, stated),
    }


def ranking(
    examples: Examples, rows: slice | NDArray[np.int64], labels: NDArray[np.bool_], logit: NDArray[np.floating]
) -> dict[str, float]:
    """How far frauds are put above legitimate transactions, by the usual figures.

    Args:
        examples: where the rows' days and cards stand.
        rows: where they stand in the examples.
        labels: (n,) fraud or not.
        logit: (n,) served log-odds.
    """
    ranked = logit.astype(np.float64)
    days = examples.event_time_ms[rows] // DAY_MS
    return {
        "average_precision": average_precision(labels, ranked),
        "roc_auc": roc_auc(labels, ranked),
        "recall_at_0.1%_fpr": recall_at_fpr(labels, ranked, 0.001),
        "recall_at_0.5%_fpr": recall_at_fpr(labels, ranked, 0.005),
        "card_precision_at_100": card_precision_at_k(days, examples.card[rows], labels, ranked, 100),
    }
