"""The pictures of a model report, as SVG that takes its colours and its font from the page around it.

Every function returns one `<svg>` element. The same arrays give the same characters: no dates, no random ids.
Curves are thinned by leaving points out, never by averaging: each point drawn is a point of the curve.
"""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.metrics import (
    Counts,
    Floats,
    Labels,
    Reals,
    log_odds_bins,
    precision_recall_curve,
    roc_curve,
    wilson_interval,
)

CURVE_POINTS = 400  # per curve: more is not visible at the width of a page and makes the file large
FEW_ROWS = 20  # a bin of the reliability diagram with fewer rows says nothing

# Stand-ins that no other colour of matplotlib collides with; the page's style sheet gives each variable its colour.
INK, QUIET, RULE, FRAUD, LEGITIMATE, RAW = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    FRAUD: "var(--fraud)",
    LEGITIMATE: "var(--legitimate)",
    RAW: "var(--raw)",
}
_SIZE_INCHES = (4.6, 3.3)
_ODDS_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def precision_recall(labels: Labels, probabilities: Reals, operating_points: Mapping[str, float]) -> str:
    """Precision against recall, the fraud rate as the floor, and a dot for each operating point by its name."""
    curve = precision_recall_curve(labels, probabilities)
    with _style():
        figure, axes = _figure("Recall: share of frauds flagged", "Precision: share of flags that are fraud")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.axhline(float(np.mean(labels)), color=QUIET, linestyle=(0, (1, 2)), linewidth=1)
        kept = thin(curve.recall, curve.precision)
        axes.plot(curve.recall[kept], curve.precision[kept], color=FRAUD, drawstyle="steps-pre")
        for name, threshold in operating_points.items():
            at = int(np.searchsorted(-curve.threshold, -threshold, side="right")) - 1
            if at >= 0:
                recall = float(curve.recall[at])
                _dot(
                    axes,
                    recall,
                    float(curve.precision[at]),
                    f"{name} at {threshold:.3g}",
                    rising=False,
                    ahead=recall > 1 / 2,
                )
        return _svg(figure, "Precision-recall curve")


def roc(labels: Labels, probabilities: Reals, rates: tuple[float, ...]) -> str:
    """Recall against the false-positive rate on a log axis, with the recall written at each of some rates."""
    curve = roc_curve(labels, probabilities)
    lowest = 1 / int(np.sum(labels == 0))
    with _style():
        figure, axes = _figure("False-positive rate, log scale", "Recall: share of frauds flagged")
        axes.set(xlim=(np.log10(lowest), 0), ylim=(0, 1.02))
        decades = 10.0 ** np.arange(np.ceil(np.log10(lowest)), 1)
        axes.set_xticks(np.log10(decades), [percent(float(rate)) for rate in decades])
        chance = np.logspace(np.log10(lowest), 0, 60)
        axes.plot(np.log10(chance), chance, color=QUIET, linestyle=(0, (1, 2)), linewidth=1)
        drawn = curve.false_positive_rate > 0
        false_positive_rate, recall = np.log10(curve.false_positive_rate[drawn]), curve.recall[drawn]
        kept = thin(false_positive_rate, recall)
        axes.plot(false_positive_rate[kept], recall[kept], color=FRAUD, drawstyle="steps-post")
        for rate, ahead in zip(rates, [True, *([False] * len(rates))], strict=False):
            at = int(np.searchsorted(curve.false_positive_rate, rate, side="right")) - 1
            reached = float(curve.recall[at])
            axes.axvline(np.log10(rate), color=QUIET, linewidth=0.6)
            _dot(axes, float(np.log10(rate)), reached, f"{percent(reached)} at {percent(rate)}", ahead=ahead)
        return _svg(figure, "ROC curve on a logarithmic false-positive axis")


def reliability(labels: Labels, raw: Reals, served: Reals) -> str:
    """What was said against what happened, before and after the correction, in bins of log-odds with 95 % intervals.

    A bin without any fraud has no log-odds: it stands hollow on the floor, under its interval.
    """
    with _style():
        figure, axes = _figure("Probability said", "Share that was fraud")
        stages = [(raw, RAW, "raw"), (served, FRAUD, "served")]
        floor, ceiling = _odds_limits(labels, [stage for stage, _, _ in stages])
        axes.plot([floor, ceiling], [floor, ceiling], color=QUIET, linestyle=(0, (1, 2)), linewidth=1)
        for probabilities, colour, name in stages:
            _reliability_points(axes, labels, probabilities, colour=colour, name=name, floor=floor)
        axes.set(xlim=(floor, ceiling), ylim=(floor, ceiling))
        _odds_ticks(axes, floor, ceiling)
        axes.set_yticks(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()])
        axes.legend(loc="upper left", frameon=False, handletextpad=0.2)
        return _svg(figure, "Reliability diagram before and after the correction")


def frauds_per_day(days_since_epoch: Counts, labels: Labels, served: Reals) -> str:
    """Frauds counted each day, against the sum of the served probabilities and the 95 % band that it implies."""
    first = int(days_since_epoch.min())
    day = days_since_epoch - first
    days = int(day.max()) + 1
    served = served.astype(np.float64)
    observed = np.bincount(day, weights=labels == 1, minlength=days)
    expected = np.bincount(day, weights=served, minlength=days)
    spread = 1.96 * np.sqrt(np.bincount(day, weights=served * (1 - served), minlength=days))
    dates = np.datetime64(first, "D") + np.arange(days)
    with _style():
        figure, axes = _figure("Day (UTC)", "Frauds")
        edges = np.arange(days + 1) - 0.5
        axes.stairs(expected + spread, edges, baseline=np.maximum(0, expected - spread), color=RULE, fill=True)
        axes.stairs(expected, edges, baseline=None, color=FRAUD, linewidth=1.4, label="expected")
        axes.plot(np.arange(days), observed, "o", color=INK, markersize=3, label="observed")
        axes.set(xlim=(-0.5, days - 0.5), ylim=(0, 1.15 * axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        shown = np.unique(np.linspace(0, days - 1, min(days, 5)).round().astype(int))
        axes.set_xticks(shown, [str(dates[each])[5:] for each in shown])
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", frameon=False, ncols=2, handletextpad=0.4)
        return _svg(figure, "Frauds per day, expected and observed")


def probability_distributions(labels: Labels, served: Reals) -> str:
    """The share of each class in every quarter of a decade of odds of the served probability, on a log axis."""
    floor, ceiling = _odds_limits(labels, [served])
    edges = np.arange(np.floor(floor * 4), np.ceil(ceiling * 4) + 1) / 4
    with _style():
        figure, axes = _figure("Probability served", "Share of the class, log scale")
        _class_histograms(axes, labels, _log_odds(served), edges)
        axes.set(xlim=(edges[0], edges[-1]))
        _odds_ticks(axes, float(edges[0]), float(edges[-1]))
        return _svg(figure, "Distribution of the served probability by class")


def score_distributions(labels: Labels, scores: Reals) -> str:
    """The share of each class in every 25 points of score, on a log axis."""
    edges = np.arange(0.0, float(scores.max()) + 26, 25)
    with _style():
        figure, axes = _figure("Score", "Share of the class, log scale")
        _class_histograms(axes, labels, scores.astype(np.float64), edges)
        axes.set(xlim=(0, edges[-1]))
        return _svg(figure, "Distribution of the score by class")


def thin(x: Floats, y: Floats, points: int = CURVE_POINTS) -> Counts:
    """Which of a curve's points to draw: about `points` of them, evenly along its length, its two ends always.

    Args:
        x: (n,), in units of the axis it is drawn on.
        y: (n,), in [0, 1].
        points: how many to keep at most.

    Returns:
        Increasing indices into the curve.
    """
    if len(x) <= points:
        return np.arange(len(x))
    width = float(np.ptp(x)) or 1.0
    along = np.append(0.0, np.cumsum(np.hypot(np.diff(x) / width, np.diff(y))))
    evenly = np.linspace(0, along[-1], points)
    kept = np.unique(np.append(np.searchsorted(along, evenly[:-1]), len(x) - 1))
    return kept.astype(np.int64)


def percent(share: float, decimals: int | None = None) -> str:
    """A share in per cent, with so many decimals, or else three digits; 100% only if it is all of it."""
    shown = 100 * share if share == 1 else min(100 * share, 99.9)
    return f"{shown:.3g}%" if decimals is None else f"{shown:.{decimals}f}%"


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "axes.edgecolor": QUIET,
            "axes.labelcolor": QUIET,
            "axes.linewidth": 0.6,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.labelsize": 8.5,
            "figure.constrained_layout.use": True,
            "font.size": 8.5,
            "grid.color": RULE,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.4,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "text.color": INK,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "xtick.minor.size": 0,
            "ytick.minor.size": 0,
        }
    )


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES)
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _dot(axes: Axes, x: float, y: float, text: str, *, rising: bool = True, ahead: bool = False) -> None:
    """A named point of a curve, the name off the curve: to the left of the point if `ahead`, else to the right."""
    above = ahead == rising
    axes.plot([x], [y], "o", color=FRAUD, markersize=4)
    axes.annotate(
        text,
        (x, y),
        xytext=(-6 if ahead else 6, 5 if above else -11),
        textcoords="offset points",
        ha="right" if ahead else "left",
    )


def _reliability_points(axes: Axes, labels: Labels, said: Reals, *, colour: str, name: str, floor: float) -> None:
    bins = log_odds_bins(labels, said)
    enough = bins.count >= FEW_ROWS
    said_odds = _log_odds(bins.mean_probability[enough])
    frauds = np.rint(bins.fraud_rate * bins.count)[enough].astype(int).tolist()
    intervals = [wilson_interval(each, of) for each, of in zip(frauds, bins.count[enough].tolist(), strict=True)]
    low, high = _log_odds(np.array(intervals).reshape(-1, 2)).T
    happened = np.maximum(_log_odds(bins.fraud_rate[enough]), floor)
    axes.vlines(said_odds, np.maximum(low, floor), high, color=colour, linewidth=0.9)
    some = np.array(frauds) > 0
    axes.plot(said_odds[some], happened[some], "o", color=colour, markersize=4, label=name)
    axes.plot(said_odds[~some], happened[~some], "o", color=colour, markersize=4, fillstyle="none", clip_on=False)


def _class_histograms(axes: Axes, labels: Labels, values: Floats, edges: Floats) -> None:
    for fraud, colour, name in ((0, LEGITIMATE, "legitimate"), (1, FRAUD, "fraud")):
        of_class = values[labels == fraud]
        share = np.histogram(np.clip(of_class, edges[0], edges[-1]), edges)[0] / len(of_class)
        share[share == 0] = np.nan
        axes.stairs(share, edges, baseline=None, color=colour, linewidth=1.2, label=name)
    axes.set_yscale("log")
    lowest, highest = np.floor(np.log10(axes.get_ylim()[0])), 0
    decades = 10.0 ** np.arange(lowest, highest + 1)
    axes.set_yticks(decades, [percent(float(each)) for each in decades])
    axes.minorticks_off()
    axes.legend(loc="upper right", frameon=False, ncols=2)


def _log_odds(probabilities: Reals) -> Floats:
    """Base-10 log-odds, for axes; 0 and 1 stand a ten-millionth inside."""
    inside = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    odds: Floats = np.log10(inside / (1 - inside))
    return odds


def _odds_limits(labels: Labels, stages: list[Reals]) -> tuple[float, float]:
    """From a little under to a little over what the stages say, leaving out the outermost ten-thousandths."""
    everything = np.concatenate([np.quantile(_log_odds(each), (1e-4, 1 - 1e-4)) for each in stages])
    rate = float(_log_odds(np.array([np.mean(labels == 1)]))[0])
    return min(float(everything.min()), rate) - 0.3, max(float(everything.max()), rate) + 0.3


def _odds_ticks(axes: Axes, floor: float, ceiling: float) -> None:
    """Round probabilities along the axis, from the right, each where its label has room."""
    placed: list[tuple[float, float]] = []
    for probability in sorted(_ODDS_TICKS, reverse=True):
        at = float(_log_odds(np.array([probability]))[0])
        if floor <= at <= ceiling and (not placed or placed[-1][0] - at >= (ceiling - floor) / 9):
            placed.append((at, probability))
    axes.set_xticks([at for at, _ in placed], [percent(probability) for _, probability in placed])


def _svg(figure: Figure, description: str) -> str:
    written = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": description}):  # ids differ between figures and never between runs
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view, svg[:200]
    return re.sub(r"<svg[^>]*>", f'<svg {view[0]} role="img" aria-label="{escape(description)}">', svg, count=1)
