"""The HTML report of one model: what it can do, measured on transactions later than any it learned from.

One file that needs nothing else: no script, no network, no fonts. The same data give the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.bundle import Certificate, Figures
from service.errors import DataInvalid
from service.vocabulary import minor_unit_exponent
from training import figures, metrics
from training.calibrators import LineMethod
from training.certificate import Compared, Measured
from training.figures import percent
from training.markup import table
from training.metrics import SWEEP_THRESHOLDS, Labels, Mask, Reals, TypologyRecall

FALSE_POSITIVE_RATES = (0.001, 0.005)
DAY_MS = 86_400_000

Setting: TypeAlias = str | float | bool | Sequence["Setting"] | Mapping[str, "Setting"] | None


@dataclass(frozen=True, slots=True)
class Period:
    """A part of the data by time, and what it was used for."""

    name: str  # fit, tune, calibrate, test
    rows: int
    frauds: int
    first_event_ms: int
    last_event_ms: int

    @property
    def first_day(self) -> str:
        """The UTC date of the first transaction."""
        return _date(self.first_event_ms)

    @property
    def last_day(self) -> str:
        """The UTC date of the last transaction."""
        return _date(self.last_event_ms)


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """Everything the report says. Arrays have one value per row of the slice that is reported on, in any order.

    Attributes:
        name: the model's name.
        version: the bundle's version.
        labels: (n,), 1 for fraud.
        raw_probability: (n,), sigmoid of the network's logit, before any correction.
        probability: (n,), as served.
        score: (n,), 0 to 999.
        amount_minor: (n,), minor units of `base_currency`.
        event_time_ms: (n,), UTC epoch milliseconds.
        typology: (n,), the kind of fraud where the data name one, else None or "".
        base_currency: ISO 4217.
        loss: the training loss with its parameters, as a reader should see it: "focal loss (gamma 2, alpha 0.75)".
        lesson: in a sentence, what the network learned from beside the labels; empty where that is nothing.
        inexact: why the graph undoes the loss and the sampler on average only; None where it does exactly.
        calibrated_by: which line stands behind that in the graph.
        certificate: how far the probabilities of these same rows are from the truth.
        calibrators: that line beside its alternatives, on these same rows.
        operating_points: decision word to the probability it is taken from.
        periods: all parts of the data, in the order of time.
        source: what the data are, in words.
        fingerprint: digest of the training data.
        config: the training configuration as read.
        missing_share: feature name to the share of rows without a value, in the graph's input order.
        metrics: the figures that the manifest records.
        command: what trains this model again.
    """

    name: str
    version: str
    labels: Labels
    raw_probability: Reals
    probability: Reals
    score: npt.NDArray[np.integer]
    amount_minor: npt.NDArray[np.integer]
    event_time_ms: npt.NDArray[np.integer]
    typology: npt.NDArray[np.object_ | np.str_]
    base_currency: str
    loss: str
    lesson: str
    inexact: str | None
    calibrated_by: LineMethod
    certificate: Certificate
    calibrators: Sequence[Compared]
    operating_points: Mapping[str, float]
    periods: Sequence[Period]
    source: str
    fingerprint: str
    config: Mapping[str, Setting]
    missing_share: Mapping[str, float]
    metrics: Mapping[str, float]
    command: str


def render(report: ReportData) -> str:
    """The report's HTML.

    Raises:
        DataInvalid: the slice lacks fraud or legitimate transactions.
    """
    if not 0 < _fraud_count(report) < len(report.labels):
        raise DataInvalid(
            "a report needs fraudulent and legitimate transactions, "
            f"got {_fraud_count(report)} frauds among {len(report.labels)} rows"
        )
    sections = [
        _header(report),
        _headlines(report),
        _ranking(report),
        _calibration(report),
        _calibrators(report),
        _segments(report),
        _degraded(report),
        _distributions(report),
        _sweep(report),
        _typologies(report),
        _training(report),
        _features(report),
        _footer(report),
    ]
    style = (files("training") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.name)} {escape(report.version)}: model report</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _header(report: ReportData) -> str:
    frauds = _fraud_count(report)
    rows = len(report.labels)
    first, last = _date(int(report.event_time_ms.min())), _date(int(report.event_time_ms.max()))
    return (
        '<header>\n<p class="kicker">Touchstone model report</p>\n'
        f"<h1>{escape(report.name)} <small>{escape(report.version)}</small></h1>\n"
        f"<p>Measured on {rows:,} transactions from {first} to {last}, later than any the model learned from. "
        f"{frauds:,} of them are fraud, one in {round(rows / frauds):,}. Source: {escape(report.source)}.</p>\n"
        "</header>"
    )


def _headlines(report: ReportData) -> str:
    recalls = [(metrics.recall_at_fpr(report.labels, report.probability, fpr), fpr) for fpr in FALSE_POSITIVE_RATES]
    shown = [
        ("average precision", f"{metrics.average_precision(report.labels, report.probability):.3f}"),
        ("ROC AUC", f"{metrics.roc_auc(report.labels, report.probability):.4f}"),
        *((f"of frauds caught at {percent(fpr)} false positives", percent(recall)) for recall, fpr in recalls),
        ("calibration error as served", f"{report.certificate.served.expected_calibration_error:.2g}"),
        ("calibration error of the raw output", f"{report.certificate.raw.expected_calibration_error:.2g}"),
    ]
    tiles = "\n".join(f"<div><dt>{escape(what)}</dt><dd>{value}</dd></div>" for what, value in shown)
    return f'<dl class="headlines">\n{tiles}\n</dl>'


def _ranking(report: ReportData) -> str:
    points = {name.capitalize(): threshold for name, threshold in report.operating_points.items()}
    base_rate = percent(_fraud_count(report) / len(report.labels))
    return (
        "<h2>Ranking</h2>\n"
        "<p>How well frauds are put above legitimate transactions. The dotted lines are a random ranking: "
        f"{base_rate} precision on the left, equal rates on the right. The false-positive axis is logarithmic, because "
        "nobody can afford to stop more than one legitimate payment in a hundred.</p>\n"
        + _figures(
            ("Precision and recall", figures.precision_recall(report.labels, report.probability, points)),
            ("ROC, left end enlarged", figures.roc(report.labels, report.probability, FALSE_POSITIVE_RATES)),
        )
    )


def _calibration(report: ReportData) -> str:
    certificate = report.certificate
    raw_error, served_error = (stage.expected_calibration_error for stage in (certificate.raw, certificate.served))
    frauds = _fraud_count(report)
    overstated, served = (
        float(np.sum(each, dtype=np.float64)) / frauds for each in (report.raw_probability, report.probability)
    )
    days = (report.event_time_ms // DAY_MS).astype(np.int64)
    return (
        "<h2>Calibration</h2>\n"
        f"<p>Under {escape(report.loss)}, the network's raw output adds up to {overstated:.3g} times the frauds "
        f"there were; its expected calibration error is {raw_error:.4f}. As served, after the correction "
        f"inside the graph, the probabilities add up to {served:.3g} times the frauds, with an error of "
        f"{served_error:.5f}. {escape(how_undone(report))} All of it is increasing, so it leaves the ranking as it is. "
        f"The error is taken over {certificate.bins} bins of equal mass.</p>\n"
        + _figures(
            (
                "What was said, what happened",
                figures.reliability(report.labels, report.raw_probability, report.probability),
            ),
            ("Frauds per day", figures.frauds_per_day(days, report.labels, report.probability)),
        )
        + "\n<p>Left: bins of half a decade of odds with at least "
        f"{figures.FEW_ROWS} transactions, with 95% intervals; hollow points saw no fraud. Right: the band holds 95% "
        "of days if each probability is right and frauds are independent; fraud comes in bursts, so expect some days "
        "outside.</p>\n" + table(STAGE_HEAD, stage_rows(report))
    )


def how_undone(report: ReportData) -> str:
    """One sentence or two on what the graph does to the network's logit, and how well that is founded."""
    correction = report.inexact or "The graph undoes the loss and the sampling in closed form"
    behind = {
        "none": "applies no line in log-odds behind that",
        "temperature": "multiplies the log-odds by the slope that fits the calibration slice best",
        "platt": "applies the line in log-odds that fits the calibration slice best",
    }
    return f"{correction}, and then {behind[report.calibrated_by]}."


STAGE_HEAD = ("", "expected calibration error", "Brier score", "log loss")


def stage_rows(report: ReportData) -> list[tuple[str, ...]]:
    """The certificate of the whole slice as text, stage by stage, under `STAGE_HEAD`."""
    certificate = report.certificate
    stages = (
        ("raw: sigmoid of the logit", certificate.raw),
        ("corrected on average" if report.inexact else "corrected in closed form", certificate.recovered),
        ("as served", certificate.served),
    )
    return [
        (stage, f"{found.expected_calibration_error:.5f}", f"{found.brier:.6f}", f"{found.log_loss:.6f}")
        for stage, found in stages
    ]


def _calibrators(report: ReportData) -> str:
    head = (
        "Calibrator",
        "expected calibration error",
        "by chance",
        "Brier score, in 10,000ths",
        "log loss",
        "average precision",
    )
    rows = [
        (
            f"{found.method.replace('_', '-')}{'' if found.in_graph else ' <small>not in a graph</small>'}",
            _measured(found.error, 1, 5),
            f"{found.error_by_chance:.5f}",
            _measured(found.brier, 1e4, 2),
            f"{found.log_loss:.6f}",
            f"{found.average_precision:.4f}",
        )
        for found in report.calibrators
    ]
    return (
        "<h3>Other calibrators</h3>\n"
        "<p>Each was fitted to the calibration slice, behind the same correction, and is measured on the test slice. "
        "The one in bold is served; it was chosen without these rows. By chance: what the error would be, on average, "
        "if each of these probabilities were right. The intervals are 95%. Only a straight line stands in the graph: "
        "stairs give many transactions the same probability, which costs average precision.</p>\n"
        + table(head, rows, marked=[found.method == report.calibrated_by for found in report.calibrators])
    )


def _measured(found: Measured, scale: float, decimals: int) -> str:
    value, low, high = (f"{scale * each:.{decimals}f}" for each in (found.value, found.low, found.high))
    return f"{value} <small>{low}&ndash;{high}</small>"


def _segments(report: ReportData) -> str:
    return (
        "<h2>Segments</h2>\n"
        "<p>The same certificate for parts of the slice. Expected is the sum of the probabilities: where it is far "
        "from the frauds there were, the model is wrong about that segment as a whole. Recall is at the "
        "false-positive rate (FPR) within the segment.</p>\n" + table(SEGMENT_HEAD, segment_rows(report.certificate))
    )


def _degraded(report: ReportData) -> str:
    return (
        "<h2>When history is missing</h2>\n"
        "<p>The same transactions, scored by the same graph with the features of some entities missing, as when the "
        "store does not answer.</p>\n" + table(DEGRADED_HEAD, degraded_rows(report.certificate))
    )


FIGURES_HEAD = (
    "average precision",
    "recall at 0.1% FPR",
    "at 0.5% FPR",
    "calibration error",
    "by chance",
    "Brier score",
)
SEGMENT_HEAD = ("Segment", "transactions", "frauds", "expected", *FIGURES_HEAD)
DEGRADED_HEAD = ("Without", *FIGURES_HEAD)


def segment_rows(certificate: Certificate) -> list[tuple[str, ...]]:
    """The certificate by segment as text, under `SEGMENT_HEAD`."""
    return [
        (
            f"{part.by}: {part.name}",
            f"{part.rows:,}",
            f"{part.frauds:,}",
            f"{part.expected_frauds:,.1f}",
            *_figures_cells(part.figures),
        )
        for part in certificate.segments
    ]


def degraded_rows(certificate: Certificate) -> list[tuple[str, ...]]:
    """The certificate with history missing as text, under `DEGRADED_HEAD`."""
    return [
        (", ".join(mode.without) or "nothing: as served", *_figures_cells(mode.figures))
        for mode in certificate.degraded
    ]


def _figures_cells(found: Figures | None) -> tuple[str, ...]:
    if found is None:
        return ("too few to certify",)
    return (
        f"{found.average_precision:.3f}",
        f"{found.recall_at_fpr_0_001:.3f}",
        f"{found.recall_at_fpr_0_005:.3f}",
        f"{found.expected_calibration_error:.5f}",
        f"{found.error_by_chance:.5f}",
        f"{found.brier:.5f}",
    )


def _distributions(report: ReportData) -> str:
    return (
        "<h2>Distributions</h2>\n"
        "<p>A score is a false-positive rate in disguise: one in 10<sup>score / 100</sup> legitimate transactions "
        "scores at least this high. So the legitimate line on the right is straight wherever the model meets the "
        "population that its score table was made on.</p>\n"
        + _figures(
            ("Probability, by class", figures.probability_distributions(report.labels, report.probability)),
            ("Score, by class", figures.score_distributions(report.labels, report.score)),
        )
    )


def _sweep(report: ReportData) -> str:
    named = {threshold: name for name, threshold in report.operating_points.items()}
    thresholds = tuple(sorted({*SWEEP_THRESHOLDS, *named}))
    sweep = metrics.threshold_sweep(report.labels, report.probability, report.amount_minor, thresholds)
    head = (
        "Flagged from probability",
        "false-positive rate",
        "recall",
        "precision",
        "flags per 10,000",
        f"fraud caught, {report.base_currency}",
        "by value",
    )
    rows = [
        (
            f"{threshold:.4g}" + (f" {escape(named[threshold])}" if threshold in named else ""),
            percent(float(sweep.false_positive_rate[at]), 4),
            percent(float(sweep.recall[at]), 1),
            "&ndash;" if np.isnan(sweep.precision[at]) else percent(float(sweep.precision[at]), 1),
            f"{sweep.declines_per_10_000[at]:,.1f}",
            _money(int(sweep.fraud_amount_caught[at]), report.base_currency),
            percent(float(sweep.value_caught[at]), 1),
        )
        for at, threshold in enumerate(thresholds)
    ]
    return (
        "<h2>Thresholds</h2>\n"
        "<p>What flagging every transaction from a probability upwards would have done. "
        "The rows in bold are the bundle's operating points.</p>\n"
        + table(head, rows, marked=[threshold in named for threshold in thresholds])
    )


def _typologies(report: ReportData) -> str:
    recalls = [
        metrics.recall_by_typology(report.labels, report.probability, report.typology, fpr)
        for fpr in FALSE_POSITIVE_RATES
    ]
    if not recalls[0]:
        return "<h2>Kinds of fraud</h2>\n<p>The data do not say what kind of fraud each one is.</p>"
    head = (
        "Typology",
        "frauds",
        f"amount, {report.base_currency}",
        *(f"recall at {percent(fpr)} false positives" for fpr in FALSE_POSITIVE_RATES),
    )
    rows = []
    for at_rates in zip(*recalls, strict=True):
        kind = at_rates[0]
        of_kind: Mask = (report.labels == 1) & (report.typology == kind.typology)
        amount = int(np.sum(report.amount_minor[of_kind], dtype=np.int64))
        name = escape(kind.typology.replace("_", " "))
        money = _money(amount, report.base_currency)
        rows.append((name, f"{kind.frauds:,}", money, *(_recall(each) for each in at_rates)))
    return (
        "<h2>Kinds of fraud</h2>\n"
        "<p>Recall by typology, at thresholds common to all of them, with 95% intervals: "
        "a kind that is rare here may be better or worse than it looks.</p>\n" + table(head, rows)
    )


def _recall(kind: TypologyRecall) -> str:
    low, high = metrics.wilson_interval(kind.caught, kind.frauds)
    interval = f"<small>{100 * low:.0f}&ndash;{100 * high:.0f}</small>"
    return f"{_bar(kind.recall)} {interval}"


def _training(report: ReportData) -> str:
    rows = [
        (
            escape(part.name),
            part.first_day,
            part.last_day,
            f"{part.rows:,}",
            f"{part.frauds:,}",
            percent(part.frauds / part.rows, 3) if part.rows else "&ndash;",
        )
        for part in report.periods
    ]
    return (
        "<h2>Training</h2>\n"
        "<p>The data are cut by time, so that the model is only ever measured on what came after it learned. "
        f"Train it again with <code>{escape(report.command)}</code>; the data's fingerprint is "
        f"<code>{escape(report.fingerprint)}</code>.</p>\n"
        + table(("Slice", "from", "to", "transactions", "frauds", "fraud rate"), rows)
        + "\n<h3>Configuration</h3>\n"
        + _facts(_flattened(report.config))
        + "\n<h3>Figures recorded in the manifest</h3>\n"
        + _facts((name, f"{value:.6g}") for name, value in report.metrics.items())
    )


def _features(report: ReportData) -> str:
    rows = "\n".join(
        f"<div><dt><code>{escape(name)}</code></dt><dd>{_bar(share, kind='missing')}</dd></div>"
        for name, share in report.missing_share.items()
    )
    return (
        "<h2>Features</h2>\n"
        f"<p>The graph's {len(report.missing_share)} inputs in order, with the share of transactions that have no "
        "value: a card's first transaction, for one, has no time since the last.</p>\n"
        f'<dl class="facts">\n{rows}\n</dl>'
    )


def _footer(report: ReportData) -> str:
    return (
        "<footer>\n<p>All figures are computed on every transaction of the slice. "
        f"The curves are drawn through at most {figures.CURVE_POINTS} of their own points: points are left out, none "
        f"is averaged. Amounts are in {escape(report.base_currency)}; days are UTC.</p>\n</footer>"
    )


def _figures(*captioned: tuple[str, str]) -> str:
    drawn = "\n".join(
        f"<figure>\n<figcaption>{escape(caption)}</figcaption>\n{svg}</figure>" for caption, svg in captioned
    )
    return f'<div class="figures">\n{drawn}\n</div>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd></div>" for name, value in facts
    )
    return f'<dl class="facts">\n{rows}\n</dl>'


def _flattened(config: Mapping[str, Setting], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Settings by dotted path, in the order they were written; list items that are sections go by their position."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            sections = {str(at): each for at, each in enumerate(value) if isinstance(each, Mapping)}
            yield from _flattened(sections, f"{prefix}{name}.")
            if not sections:
                yield f"{prefix}{name}", ", ".join(str(each) for each in value) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _bar(share: float, kind: str = "caught") -> str:
    bar = f'<span class="bar {kind}"><i style="width:{100 * share:.1f}%"></i></span>'
    return f'{bar}<span class="share">{percent(share, 1)}</span>'


def _fraud_count(report: ReportData) -> int:
    return int(np.sum(report.labels == 1))


def _money(amount_minor: int, currency: str) -> str:
    """Whole units of the currency, rounded: a report is not an account."""
    return f"{round(amount_minor / 10 ** minor_unit_exponent(currency)):,}"


def _date(event_time_ms: int) -> str:
    return datetime.fromtimestamp(event_time_ms / 1000, UTC).date().isoformat()
