"""The model card: two pages of Markdown that say what a model is for, how good it is, and where it ends."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np

from training import metrics
from training.figures import percent
from training.report import (
    DEGRADED_HEAD,
    SEGMENT_HEAD,
    STAGE_HEAD,
    ReportData,
    degraded_rows,
    how_undone,
    segment_rows,
    stage_rows,
)

FALSE_POSITIVE_RATE = 0.005
LINE_LENGTH = 120


def model_card(report: ReportData) -> str:
    """The card of the model that a report is about (Mitchell et al. 2019, shortened).

    Raises:
        DataInvalid: the slice lacks fraud or legitimate transactions, so nothing can be said about it.
    """
    return (
        "\n\n".join(
            [
                f"# {report.name} {report.version}",
                _purpose(),
                _data(report),
                _model(report),
                _ranking(report),
                _calibration(report),
                _segments(report),
                _degraded(report),
                _operating_points(report),
                _limits(report),
                _reproduction(report),
            ]
        ).rstrip()
        + "\n"
    )


def _purpose() -> str:
    return """## For what

Scores one card payment while it is being authorised: the probability that it will turn out to be fraud, from the
payment and from the recent history of its card, merchant, terminal and device.

Not for: deciding on credit, on accounts or on people; payments without a card; proof that somebody committed fraud;
use on your payments before it has been trained, or at least measured, on them."""


def _data(report: ReportData) -> str:
    head = ("slice", "from", "to", "transactions", "frauds")
    body = [(part.name, part.first_day, part.last_day, f"{part.rows:,}", f"{part.frauds:,}") for part in report.periods]
    return _table(f"## Data\n\nSource: {report.source}. Cut by time:\n", head, body, left=3)


def _model(report: ReportData) -> str:
    inputs = len(report.missing_share)
    sentences = (
        f"Trained with {report.loss}.",
        report.lesson,
        "Focusing, class weights and sampling each move the sigmoid of the logit away from the probability.",
        how_undone(report),
    )
    return f"""## Model

One ONNX graph from {inputs} raw features to the probability. `manifest.json` lists them, `report.html` says how often
each has no value.

{fill(" ".join(filter(None, sentences)), LINE_LENGTH)}"""


def _ranking(report: ReportData) -> str:
    precision = metrics.average_precision(report.labels, report.probability)
    auc = metrics.roc_auc(report.labels, report.probability)
    recall = metrics.recall_at_fpr(report.labels, report.probability, FALSE_POSITIVE_RATE)
    return f"""## How good

On the last slice, which nothing was fitted to: average precision {precision:.3f}, ROC AUC {auc:.4f},
{percent(recall)} of frauds caught at {percent(FALSE_POSITIVE_RATE)} false positives."""


def _calibration(report: ReportData) -> str:
    found = report.certificate
    intro = (
        f"Calibration certificate of the same slice ({found.rows:,} transactions, {found.frauds:,} frauds; "
        "the error is over 20 bins of equal mass):\n"
    )
    return _table(intro, STAGE_HEAD, stage_rows(report))


def _segments(report: ReportData) -> str:
    intro = (
        "## Segments\n\n"
        "Parts of the same slice. Expected: the sum of the probabilities. Recall: at the false-positive rate (FPR)\n"
        "within the segment. By chance: the calibration error if each probability were right.\n"
    )
    return _table(intro, SEGMENT_HEAD, segment_rows(report.certificate))


def _degraded(report: ReportData) -> str:
    intro = (
        "## When history is missing\n\n"
        "The same slice with the features of some entities missing, as when the store does not answer.\n"
    )
    return _table(intro, DEGRADED_HEAD, degraded_rows(report.certificate))


def _operating_points(report: ReportData) -> str:
    thresholds = tuple(sorted(report.operating_points.values()))
    sweep = metrics.threshold_sweep(report.labels, report.probability, report.amount_minor, thresholds)
    names = {threshold: name for name, threshold in report.operating_points.items()}
    body = [
        (
            names[threshold],
            f"{threshold:.4g}",
            percent(float(sweep.false_positive_rate[at]), 3),
            percent(float(sweep.recall[at]), 1),
            "none" if np.isnan(sweep.precision[at]) else percent(float(sweep.precision[at]), 1),
            f"{sweep.declines_per_10_000[at]:.1f}",
        )
        for at, threshold in enumerate(thresholds)
    ]
    head = ("at least", "from probability", "false-positive rate", "recall", "precision", "per 10,000")
    intro = (
        "## Operating points\n\n"
        "The bounds on probability for e-commerce in `thresholds.json`, measured on the whole last slice:\n"
    )
    return _table(intro, head, body)


def _limits(report: ReportData) -> str:
    return f"""## Limits

- It knows only what its data hold. Nothing here says how it does on other payments, in other countries, or against
  fraud that was invented since.
{_weakest(report)}- A card, merchant, terminal or device without history is scored on the payment alone, and a
  probability is worth less where few payments like it were seen.
- Calibration ages with the fraud rate: watch expected against observed frauds, and fit again when they part."""


def _weakest(report: ReportData) -> str:
    kinds = metrics.recall_by_typology(report.labels, report.probability, report.typology, FALSE_POSITIVE_RATE)
    if not kinds:
        return ""
    weakest = min(kinds, key=lambda kind: kind.recall)
    low, high = metrics.wilson_interval(weakest.caught, weakest.frauds)
    return (
        f"- It is weakest on {weakest.typology.replace('_', ' ')}: {weakest.caught} of {weakest.frauds} caught at "
        f"{percent(FALSE_POSITIVE_RATE)} false positives\n  (95% interval {percent(low, 0)} to {percent(high, 0)}).\n"
    )


def _reproduction(report: ReportData) -> str:
    return f"""## Train it again

```
{report.command}
```

The same command on the same processor type gives the same bytes. Training data: `{report.fingerprint}`."""


def _table(intro: str, head: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table in Markdown; its first columns are aligned to the left, numbers to the right; short rows are filled."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    rows = [[*cells, *[""] * (len(head) - len(cells))] for cells in (head, rule, *body)]
    return "\n".join([intro, *(f"| {' | '.join(row)} |" for row in rows)])
