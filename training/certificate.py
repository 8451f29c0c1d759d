"""The certificate: how good and how honest a model's probabilities are on rows that nothing was fitted to.

On all of them, by segment, with history missing, and beside the calibrators that were not served.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from service.bundle import Calibration, Certificate, Degraded, Figures, Segment
from service.features.entry import CHANNELS
from service.features.plan import Plan
from service.features.spec import Operation
from service.vocabulary import minor_unit_exponent
from training.blocks import blocks
from training.calibrators import CURVES, LINES, Curve, CurveMethod, LineMethod, probability_of
from training.examples import Examples
from training.metrics import (
    average_precision,
    brier,
    expected_calibration_error,
    log_loss,
    recall_at_fpr,
    reliability_bins,
)

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Score = Callable[[Floats, Codes], tuple[Floats, Floats]]
"""The exported graph: numeric (n, features) and categorical (n, codes) to log-odds and probability, (n,) each."""

BINS = 20  # of equal mass
FEWEST_FRAUDS = 20
"""A segment with fewer is not certified: one fraud more or less would move its recall by 5 points."""

FEWEST_LEGITIMATE = 1000
"""A segment with fewer has no false-positive rate of 0.1 %."""

RESAMPLES = 200
"""How often a slice is drawn again, for an interval or for what chance alone does."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the exported graph said about some rows, and the truth. Arrays (n,), in the order of time.

    Attributes:
        labels: fraud or not.
        logit: served log-odds.
        probability: served probability.
    """

    labels: Mask
    logit: Floats
    probability: Floats

    def where(self, rows: Mask) -> "Answers":
        """Those about some of the rows."""
        return Answers(self.labels[rows], self.logit[rows], self.probability[rows])


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
        bins=BINS,
        raw=_calibration(labels, raw),
        recovered=_calibration(labels, recovered),
        served=_calibration(labels, served),
    )


def certify_segments(
    answers: Answers, plan: Plan, examples: Examples, rows: slice | Codes, *, currency: str, seed: int
) -> tuple[Segment, ...]:
    """Measure each segment that has rows: by channel, by power of ten of the amount, by entity new or known.

    Args:
        answers: of the rows, (n,).
        plan: says where channel and knowledge of an entity stand among the features; what it lacks is left out.
        examples: all feature vectors.
        rows: where they stand in the examples.
        currency: what amounts are in, ISO 4217.
        seed: of what chance alone does; equal rows then have equal figures, whatever is measured beside them.
    """
    return tuple(
        _segment(by, name, answers.where(inside), seed)
        for by, name, inside in chain(
            _by_channel(plan, examples.categorical[rows]),
            _by_amount(examples.amount_minor[rows], currency),
            _by_knowledge(plan, examples.numeric[rows]),
        )
        if inside.any()
    )


def certify_degraded(
    labels: Mask, plan: Plan, numeric: Floats, categorical: Codes, *, score: Score, seed: int
) -> tuple[Degraded, ...]:
    """Measure the graph with the features of entities missing, as when the store does not answer.

    First with everything there, for comparison; then without each entity, without merchant and terminal, without all.

    Args:
        labels: (n,) fraud or not.
        plan: which features belong to which entity.
        numeric: (n, features).
        categorical: (n, codes).
        score: the exported graph.
        seed: of what chance alone does.
    """
    measured = []
    for without in _outages(plan):
        hidden = [plan.entity_features[plan.entities.index(entity)] for entity in without]
        answers = Answers(labels, *_score_hiding(hidden, numeric, categorical, score))
        measured.append(Degraded(without=without, figures=_figures(answers, seed)))
    return tuple(measured)


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One calibrator, fitted to the calibration slice and measured on the test slice.

    Attributes:
        method: its name.
        in_graph: whether it is a line, and so could be served.
        error: expected calibration error.
        error_by_chance: what labels drawn from these probabilities would show on average.
        brier: Brier score.
        log_loss: in nats.
        average_precision: of its log-odds, ties flagged together.
    """

    method: LineMethod | CurveMethod
    in_graph: bool
    error: Measured
    error_by_chance: float
    brier: Measured
    log_loss: float
    average_precision: float


def compare_calibrators(fit: tuple[Reals, Mask], test: tuple[Reals, Mask], seed: int) -> tuple[Compared, ...]:
    """Every calibrator on the same rows; for the reader, not for the choice.

    Args:
        fit: recovered log-odds and labels of the calibration slice.
        test: the same of later rows.
        seed: of intervals, and of what chance alone does.
    """
    lines = [_compared(name, LINES[name](*fit), test, seed, in_graph=True) for name in LINES]
    return (*lines, *(_compared(name, CURVES[name](*fit), test, seed, in_graph=False) for name in CURVES))


def _compared(
    method: LineMethod | CurveMethod,
    curve: Curve,
    test: tuple[Reals, Mask],
    seed: int,
    *,
    in_graph: bool,
) -> Compared:
    log_odds, labels = curve(test[0]), test[1]
    probability = probability_of(log_odds)
    error, squared = _with_intervals(labels, probability, seed)
    return Compared(
        method,
        in_graph,
        error=error,
        error_by_chance=_error_by_chance(probability, seed),
        brier=squared,
        log_loss=log_loss(labels, probability),
        average_precision=average_precision(labels, log_odds),
    )


def _with_intervals(labels: Mask, probability: Reals, seed: int) -> tuple[Measured, Measured]:
    """Calibration error and Brier score, by drawing the rows again within the bins of the slice.

    The interval is the pivot's, 2 · value − quantile (Efron and Tibshirani 1993, 13.4): drawing again adds to a
    calibration error, so plain quantiles would lie above the truth. It is widened to hold the value itself.
    """
    draws = np.random.default_rng(seed)
    order, starts = _bins(probability)
    off, rows = (probability - labels)[order], len(labels)

    def figures(times_drawn: Codes) -> tuple[float, float]:
        weighted = times_drawn * off
        return float(np.abs(np.add.reduceat(weighted, starts)).sum() / rows), float((weighted * off).sum() / rows)

    values = np.array(figures(np.ones(rows, np.int64)))
    drawn = [figures(np.bincount(draws.integers(rows, size=rows), minlength=rows)) for _ in range(RESAMPLES)]
    low, high = 2 * values - np.quantile(drawn, (0.975, 0.025), axis=0)
    error, squared = (
        Measured(value, max(0.0, min(value, bottom)), max(value, top))
        for value, bottom, top in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    )
    return error, squared


def _error_by_chance(probability: Reals, seed: int) -> float:
    """The mean calibration error of these probabilities if each were right."""
    draws = np.random.default_rng(seed)
    order, starts = _bins(probability)
    ordered = probability[order]
    errors = [
        np.abs(np.add.reduceat(ordered - (draws.random(len(ordered)) < ordered), starts)).sum()
        for _ in range(RESAMPLES)
    ]
    return float(np.mean(errors)) / len(ordered)


def _bins(probability: Reals) -> tuple[Codes, Codes]:
    """The rows by ascending probability, and where in that order each bin of equal mass begins."""
    held = reliability_bins(np.zeros(len(probability)), probability, BINS).count
    return np.argsort(probability, kind="stable"), np.cumsum(held) - held


def _calibration(labels: Mask, probabilities: Reals) -> Calibration:
    return Calibration(
        expected_calibration_error=expected_calibration_error(labels, probabilities, BINS),
        brier=brier(labels, probabilities),
        log_loss=log_loss(labels, probabilities),
    )


def _segment(by: str, name: str, answers: Answers, seed: int) -> Segment:
    frauds = int(answers.labels.sum())
    enough = frauds >= FEWEST_FRAUDS and len(answers.labels) - frauds >= FEWEST_LEGITIMATE
    return Segment(
        by=by,
        name=name,
        rows=len(answers.labels),
        frauds=frauds,
        expected_frauds=float(answers.probability.sum(dtype=np.float64)),
        figures=_figures(answers, seed) if enough else None,
    )


def _figures(answers: Answers, seed: int) -> Figures:
    probability = answers.probability.astype(np.float64)
    return Figures(
        average_precision=average_precision(answers.labels, answers.logit),
        recall_at_fpr_0_001=recall_at_fpr(answers.labels, answers.logit, 0.001),
        recall_at_fpr_0_005=recall_at_fpr(answers.labels, answers.logit, 0.005),
        expected_calibration_error=expected_calibration_error(answers.labels, probability, BINS),
        error_by_chance=_error_by_chance(probability, seed),
        brier=brier(answers.labels, probability),
    )


def _by_channel(plan: Plan, categorical: Codes) -> Iterator[tuple[str, str, Mask]]:
    if "channel" in plan.categorical:
        channel = categorical[:, plan.categorical.index("channel")]
        for name, code in CHANNELS.items():
            yield "channel", name, channel == code
        yield "channel", "not stated", channel < 0


def _by_amount(amount_minor: Codes, currency: str) -> Iterator[tuple[str, str, Mask]]:
    """Powers of ten of whole units: they mean something in any currency and do not move with the data."""
    units = amount_minor / 10 ** minor_unit_exponent(currency)
    yield "amount", f"below 1 {currency}", units < 1
    for power in range(int(np.log10(max(float(units.max()), 1.0))) + 1):
        low, high = 10**power, 10 ** (power + 1)
        yield "amount", f"{low:,}–{high:,} {currency}", (units >= low) & (units < high)


def _by_knowledge(plan: Plan, numeric: Floats) -> Iterator[tuple[str, str, Mask]]:
    """Whether an entity was seen before; rows that do not name it are in neither."""
    for entity in plan.spec.entities:
        for feature in entity.features:
            if feature.operation is Operation.KNOWN:
                known = numeric[:, plan.numeric.index(feature.name)]
                yield entity.name, "new", known == 0
                yield entity.name, "known", known == 1


def _score_hiding(hidden: Sequence[slice], numeric: Floats, categorical: Codes, score: Score) -> tuple[Floats, Floats]:
    """What the graph says with some features missing, (n,) each."""
    logits, probabilities = [], []
    for block in blocks(len(numeric)):
        seen = numeric[block].copy()
        for features in hidden:
            seen[:, features] = np.nan
        logit, probability = score(seen, categorical[block])
        logits.append(logit)
        probabilities.append(probability)
    return np.concatenate(logits), np.concatenate(probabilities)


def _outages(plan: Plan) -> Sequence[tuple[str, ...]]:
    """Which entities are missing together: none, each alone, a merchant's and its terminals', all."""
    at_the_merchant = tuple(
        entity.name for entity in plan.spec.entities if entity.key in {"merchant_id", "terminal_id"}
    )
    return list(dict.fromkeys([(), *((name,) for name in plan.entities), at_the_merchant, plan.entities]))
