"""Fit, calibrate, set operating points, export and prove one model; read top to bottom, this is all of training."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.bundle import CalibrationLine, Certificate, Loss, Manifest, ReasonGroup, Sampler, TrainingData
from service.currency import CurrencyTable
from service.features.plan import Plan
from service.model import OnnxModel, Provider
from service.version import VERSION
from training.blocks import blocks
from training.calibrate import Chosen, ScoreTable, choose_line, score_table
from training.calibrators import Reals, probability_of
from training.certificate import (
    Answers,
    Compared,
    Score,
    certify,
    certify_degraded,
    certify_segments,
    compare_calibrators,
)
from training.config import FitConfig, TeacherConfig
from training.evaluate import ranking
from training.examples import Examples
from training.export import (
    Files,
    bundle_files,
    golden_rows,
    histograms,
    put_in_place,
    reference_values,
    to_onnx,
    write_bundle,
)
from training.model_card import model_card
from training.network import INFERENCE_ROWS, Codes, Floats, raw_logits
from training.operating_points import Document, operating_points
from training.optimise import Part, Trained, train
from training.report import Period, ReportData, Setting, render
from training.served import ServedModel
from training.split import Slice, Split, split_by_time
from training.verify import verify

REPORT, MODEL_CARD = "report.html", "MODEL_CARD.md"

Say = Callable[[str], None]


def fit(
    examples: Examples,
    config: FitConfig,
    out: Path,
    *,
    source: str,
    command: str,
    say: Say,
    tick: Callable[[], None],
) -> Path:
    """Make a bundle. A run whose result does not verify leaves none.

    Args:
        examples: feature vectors under the configuration's spec and rates, in the order of event time.
        config: what to fit.
        out: the directory of the model's versions; the bundle is written to out/<version>.
        source: what the data are, in words, for the documents.
        command: what makes this bundle again, for the model card.
        say: told in a sentence what happens, step by step.
        tick: called after each of at most `config.network.epochs` epochs.

    Returns:
        The bundle's directory.

    Raises:
        DataInvalid: a part of the time axis lacks one of the classes, or the configured calibration would turn the
            ranking around.
        BundleInvalid: the result is not what the service would accept.
    """
    plan, currencies = config.read_plan(), config.read_currencies()
    split = split_by_time(examples.event_time_ms, examples.labels, examples.reported_at_ms, config.split)
    say(f"fitting on {len(split.fit.labels):,} transactions with {split.fit.frauds:,} frauds")
    trained = train(
        _part(examples, split.fit), _part(examples, split.tune), config.network, config.loss, config.sampler,
        teacher_config=config.teacher, device=config.device, seed=config.seed, threads=config.threads,
        entity_features=plan.entity_features, tick=tick,
    )  # fmt: skip
    say(f"average precision by epoch on the tuning slice: {' '.join(f'{ap:.4f}' for ap in trained.average_precisions)}")
    chosen, model = calibrate(trained, examples, split.calibrate, config)
    say(f"calibrated by {chosen.method}: slope {chosen.line.slope:.4f}, intercept {chosen.line.intercept:.4f}")
    graph = to_onnx(model, len(plan.numeric), len(plan.categorical))
    say(f"exported {len(graph):,} bytes of ONNX; measuring on the test slice")
    score = _in_batches(OnnxModel.from_bytes(graph, len(plan.numeric), len(plan.categorical), provider=Provider.CPU))
    before, served = (_Served.of(score, trained, examples, part) for part in (split.calibrate, split.test))
    table = score_table(before.logit, before.probability, split.calibrate.labels)
    points = _operating_points(before, examples, split.calibrate, config, currencies)
    certificate, metrics = measure(
        served, examples, split.test, plan, currency=currencies.base, score=score, seed=config.seed
    )
    compared = compare_calibrators(
        (before.recovered, split.calibrate.labels), (served.recovered, split.test.labels), config.seed
    )
    made = _Made(
        config, plan, examples, split, trained, chosen, served, table, points, certificate, compared, metrics, source,
        examples.fingerprint(),
    )  # fmt: skip
    report = _report_data(made, command)
    files = bundle_files(
        graph=graph, features=config.read_features(), currencies=currencies, thresholds=points,
        golden=golden_rows(model, examples, split.test.positions, plan.entity_features),
        texts={REPORT: render(report), MODEL_CARD: model_card(report)},
    )  # fmt: skip
    manifest = _manifest(made, files)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unproven-") as scratch:
        partial = Path(scratch) / config.version
        write_bundle(partial, files, manifest)
        verify(partial, model, examples, split.test.positions)
        put_in_place(partial, out / config.version)
    say(f"verified; wrote {out / config.version}")
    return out / config.version


def calibrate(trained: Trained, examples: Examples, part: Slice, config: FitConfig) -> tuple[Chosen, ServedModel]:
    """Undo the loss in closed form, then fit the line in log-odds that is left, on rows later than the fit.

    Raises:
        DataInvalid: the configured line would turn the ranking around.
    """
    numeric, categorical = examples.numeric[part.rows], examples.categorical[part.rows]
    raw = raw_logits(trained.network, numeric, categorical)
    chosen = choose_line(trained.log_odds(raw, numeric, categorical), part.labels, config.calibration.method)
    return chosen, ServedModel(
        trained.network,
        gamma=trained.loss.gamma,
        alpha=trained.loss.alpha,
        beta=trained.beta,
        slope=chosen.line.slope,
        intercept=chosen.line.intercept,
        blend=trained.blend,
    )


def measure(
    served: "_Served",
    examples: Examples,
    part: Slice,
    plan: Plan,
    *,
    currency: str,
    score: Score,
    seed: int,
) -> tuple[Certificate, dict[str, float]]:
    """The certificate and the figures of the slice that nothing was fitted to, from what is served about it."""
    rows, labels = part.rows, part.labels
    answers = Answers(labels, served.logit, served.probability)
    whole = certify(
        labels,
        examples.event_time_ms[rows],
        raw=served.raw.astype(np.float64),
        recovered=probability_of(served.recovered),
        served=answers.probability.astype(np.float64),
    )
    segments = certify_segments(answers, plan, examples, rows, currency=currency, seed=seed)
    numeric, categorical = examples.numeric[rows], examples.categorical[rows]
    degraded = certify_degraded(labels, plan, numeric, categorical, score=score, seed=seed)
    metrics = {
        **ranking(examples, rows, labels, answers.logit),
        "expected_calibration_error": whole.served.expected_calibration_error,
        "expected_calibration_error_raw": whole.raw.expected_calibration_error,
        "brier": whole.served.brier,
        "prevalence": float(labels.mean()),
    }
    return whole.model_copy(update={"segments": segments, "degraded": degraded}), metrics


@dataclass(frozen=True, slots=True)
class _Served:
    """What the exported graph says about the rows of a part, beside the stages before it. All (n,).

    Attributes:
        raw: the logistic function of the network's own logit.
        recovered: log-odds after the closed form.
        logit: log-odds as served.
        probability: as served.
    """

    raw: Floats
    recovered: Reals
    logit: Floats
    probability: Floats

    @classmethod
    def of(cls, score: Score, trained: Trained, examples: Examples, part: Slice) -> "_Served":
        numeric, categorical = examples.numeric[part.rows], examples.categorical[part.rows]
        raw = raw_logits(trained.network, numeric, categorical)
        logit, probability = score(numeric, categorical)
        stated = probability_of(raw.astype(np.float64)).astype(np.float32)
        return cls(stated, trained.log_odds(raw, numeric, categorical), logit, probability)


def _in_batches(session: OnnxModel) -> Score:
    """A session that takes tables of any length."""

    def score(numeric: Floats, categorical: Codes) -> tuple[Floats, Floats]:
        batches = (slice(start, start + INFERENCE_ROWS) for start in range(0, len(numeric), INFERENCE_ROWS))
        answers = [session.run(numeric[rows], categorical[rows]) for rows in batches]
        logit, probability = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return logit, probability

    return score


@dataclass(frozen=True, slots=True)
class _Made:
    """Everything a run has found out, for the documents that tell of it."""

    config: FitConfig
    plan: Plan
    examples: Examples
    split: Split
    trained: Trained
    chosen: Chosen
    served: _Served
    table: ScoreTable
    points: Document
    certificate: Certificate
    compared: tuple[Compared, ...]
    metrics: Mapping[str, float]
    source: str
    fingerprint: str


def _part(examples: Examples, part: Slice) -> Part:
    return Part(examples.numeric[part.rows], examples.categorical[part.rows], part.labels)


def _operating_points(
    served: _Served, examples: Examples, part: Slice, config: FitConfig, currencies: CurrencyTable
) -> Document:
    return operating_points(
        served.probability.astype(np.float64),
        examples.amount_minor[part.rows].astype(np.float64),
        config.costs,
        currency=currencies.base,
    )


def _report_data(made: _Made, command: str) -> ReportData:
    rows, loss, examples = made.split.test.rows, made.trained.loss, made.examples
    alpha = "none" if loss.alpha is None else f"{loss.alpha:g}"
    return ReportData(
        name=made.config.name,
        version=made.config.version,
        labels=made.split.test.labels,
        raw_probability=made.served.raw,
        probability=made.served.probability,
        score=np.searchsorted(made.table.thresholds, made.served.probability, side="right"),
        amount_minor=examples.amount_minor[rows],
        event_time_ms=examples.event_time_ms[rows],
        typology=np.array(examples.typologies)[examples.typology[rows]],
        base_currency=made.points["currency"],
        loss=f"{loss.name} (gamma {loss.gamma:g}, alpha {alpha})",
        lesson="" if made.config.teacher is None else _lesson(made.config.teacher),
        inexact=made.trained.correction.inexact,
        calibrated_by=made.chosen.method,
        certificate=made.certificate,
        calibrators=made.compared,
        operating_points={
            decision: made.points["segments"][0][f"{decision}_at"]["probability"]  # type: ignore[literal-required]
            for decision in ("challenge", "review", "decline")
        },
        periods=[_period(name, examples, getattr(made.split, name)) for name in ("fit", "tune", "calibrate", "test")],
        source=made.source,
        fingerprint=made.fingerprint,
        config=_portable(made.config),
        missing_share=dict(zip(made.plan.numeric, _missing_shares(examples.numeric[rows]), strict=True)),
        metrics=made.metrics,
        command=command,
    )


def _lesson(teacher: TeacherConfig) -> str:
    where = f"have {teacher.blend:.0%} of the served log-odds" if teacher.blend else "are not served"
    return (
        f"{teacher.share:.0%} of a row's target was what boosted trees say that were fitted to the same rows, the rest "
        f"its label; the trees {where}."
    )


def _missing_shares(numeric: Floats) -> list[float]:
    """By feature, the share of rows without it."""
    missing = np.zeros(numeric.shape[1])
    for block in blocks(len(numeric)):
        missing += np.isnan(numeric[block]).sum(axis=0)
    return [float(count) / len(numeric) for count in missing]


def _period(name: str, examples: Examples, part: Slice) -> Period:
    times = examples.event_time_ms[part.rows]
    return Period(name, len(part.labels), part.frauds, int(times.min()), int(times.max()))


def _manifest(made: _Made, files: Files) -> Manifest:
    config, trained = made.config, made.trained
    fitted = _part(made.examples, made.split.fit)
    reference_numeric, reference_categorical = reference_values(fitted.numeric, fitted.categorical, ~fitted.labels)
    times = made.examples.event_time_ms[made.split.fit.rows]
    return Manifest(
        format=1,
        name=config.name,
        version=config.version,
        code_version=VERSION,
        seed=config.seed,
        base_currency=made.points["currency"],
        spec_sha256=made.plan.spec.sha256,
        numeric=made.plan.numeric,
        categorical=made.plan.categorical,
        loss=Loss(name=trained.loss.name, gamma=trained.loss.gamma, alpha=trained.loss.alpha, beta=trained.beta),
        sampler=Sampler(name=config.sampler.name, inexact=trained.correction.inexact),
        calibration=CalibrationLine(
            method=made.chosen.method, slope=made.chosen.line.slope, intercept=made.chosen.line.intercept
        ),
        class_prior=trained.prior,
        training_data=TrainingData(
            source=made.source,
            fingerprint=made.fingerprint,
            rows=len(fitted.labels),
            frauds=made.split.fit.frauds,
            first_event_time_ms=int(times.min()),
            last_event_time_ms=int(times.max()),
        ),
        metrics=dict(made.metrics),
        certificate=made.certificate,
        score_thresholds=tuple(made.table.thresholds.astype(np.float64).tolist()),
        score_extrapolated_from=made.table.extrapolated_from,
        reasons=tuple(
            ReasonGroup(
                code=reason.code,
                description=reason.description,
                features=tuple(reason.features),
                value_feature=reason.value,
            )
            for reason in config.reasons
        ),
        reference_numeric=reference_numeric,
        reference_categorical=reference_categorical,
        histograms=histograms(made.plan, fitted.numeric),
        files=files.digests,
    )


def _portable(config: FitConfig) -> dict[str, Setting]:
    """The configuration without the places of its files."""
    document: dict[str, Setting] = config.model_dump(mode="json")
    return document | {"features": config.features.name, "currencies": config.currencies.name}
