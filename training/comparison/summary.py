"""What came out of a contest: means, and differences between those who had the same rows and the same seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import sqrt
from statistics import fmean, stdev

from training.comparison import lineup
from training.comparison.config import BoostedContender, ContestConfig, Prevalence
from training.comparison.contender import Choice
from training.comparison.records import Json, Run, Trial

FIGURES = {
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "recall_at_0.1%_fpr": "recall at 0.1% FPR",
    "recall_at_0.5%_fpr": "recall at 0.5% FPR",
    "hard_recall_at_0.1%_fpr": "hard recall at 0.1% FPR",
    "hard_recall_at_0.5%_fpr": "hard recall at 0.5% FPR",
    "card_precision_at_100": "card precision@100",
    "expected_calibration_error": "calibration error",
    "brier": "Brier score",
}
"""Every figure of a run, in the order of the tables."""

COMPARED = ("average_precision", "recall_at_0.1%_fpr", "recall_at_0.5%_fpr", "hard_recall_at_0.5%_fpr")
"""Those whose differences are shown; summary.json has all."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over runs: its mean, and how far runs lie from each other (sample deviation; None of one run)."""

    mean: float
    deviation: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure less that of a baseline, over pairs of runs with the same fold and seed.

    Attributes:
        mean: of the differences.
        low: lower end of the 95 % t interval; None of one pair.
        high: its upper end.
        pairs: how many.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Standing:
    """One contender in one scenario.

    Attributes:
        contender: its name.
        trials: settings tried; 0 where it ran as configured.
        choice: the settings that were best on the validation folds.
        steps: the epochs or rounds that were best there.
        validation: the average precision there.
        runs: fits that were judged.
        fit_seconds: of one, on average.
        figures: by name.
        differences: by baseline, then by figure; the baseline itself has none from itself.
    """

    contender: str
    trials: int
    choice: Choice
    steps: int
    validation: float
    runs: int
    fit_seconds: float
    figures: Mapping[str, Spread]
    differences: Mapping[str, Mapping[str, Difference]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario. Standings are in the order of the configuration; who has not run yet is left out.

    Attributes:
        fit_days: length of the fit.
        prevalence: share of fraud among the fit rows.
        folds: the days on which the tests begin.
        seeds: how many.
        frauds: in a fit, on average.
        best_boosted: the boosted trees with the best average precision on validation, if any.
        standings: one per contender.
    """

    fit_days: float
    prevalence: Prevalence
    folds: tuple[str, ...]
    seeds: int
    frauds: float
    best_boosted: str | None
    standings: tuple[Standing, ...]


def summarise(config: ContestConfig, trials: Sequence[Trial], runs: Sequence[Run]) -> list[Outcome]:
    """One outcome per scenario in which somebody has run."""
    outcomes = []
    for fit_days, prevalence in product(config.fit_days, config.prevalences):
        here = [run for run in runs if (run.key.fit_days, run.key.prevalence) == (fit_days, prevalence)]
        tried = [trial for trial in trials if (trial.fit_days, trial.prevalence) == (fit_days, prevalence)]
        wanted = [run for run in here if run.key.seed in config.seeds]
        if wanted:
            outcomes.append(_outcome(config, tried, wanted))
    return outcomes


def difference(
    figures: Mapping[tuple[str, int], float], baseline: Mapping[tuple[str, int], float]
) -> Difference | None:
    """The paired difference, from each side's figures by fold and seed; None where no pair is complete.

    The interval is Student's over the pairs. Seeds of one fold share its rows, so it says what another seed would do on
    these weeks rather than what another week would do.
    """
    gaps = [figures[pair] - baseline[pair] for pair in sorted(figures.keys() & baseline.keys())]
    if not gaps:
        return None
    mean = fmean(gaps)
    if len(gaps) == 1:
        return Difference(mean, None, None, 1)
    from scipy.special import stdtrit  # noqa: PLC0415 - half a second that only a contest needs

    half = float(stdtrit(len(gaps) - 1, 0.975)) * stdev(gaps) / sqrt(len(gaps))
    return Difference(mean, mean - half, mean + half, len(gaps))


def document(outcomes: Sequence[Outcome]) -> Json:
    """The outcomes as JSON."""
    return [asdict(outcome) for outcome in outcomes]


def _outcome(config: ContestConfig, trials: Sequence[Trial], runs: Sequence[Run]) -> Outcome:
    names = [each.name for each in config.contenders if any(run.key.contender == each.name for run in runs)]
    best = {name: _best(name, trials) for name in names}
    boosted = [each.name for each in config.contenders if isinstance(each, BoostedContender) and each.name in names]
    best_boosted = max(boosted, key=lambda name: best[name].average_precision, default=None)
    baselines = [name for name in dict.fromkeys([best_boosted, *config.baselines]) if name in names]
    by_name = {name: [run for run in runs if run.key.contender == name] for name in names}
    tried = {each.name: lineup.trials(each, config) for each in config.contenders}
    return Outcome(
        fit_days=runs[0].key.fit_days,
        prevalence=runs[0].key.prevalence,
        folds=tuple(sorted({run.key.fold for run in runs})),
        seeds=len({run.key.seed for run in runs}),
        frauds=fmean(run.frauds for run in runs),
        best_boosted=best_boosted,
        standings=tuple(
            Standing(
                contender=name,
                trials=tried[name] if tried[name] > 1 else 0,
                choice=best[name].choice,
                steps=best[name].steps,
                validation=best[name].average_precision,
                runs=len(by_name[name]),
                fit_seconds=fmean(run.fit_seconds for run in by_name[name]),
                figures={figure: _spread([run.figures[figure] for run in by_name[name]]) for figure in FIGURES},
                differences={
                    baseline: _differences(by_name[name], by_name[baseline])
                    for baseline in baselines
                    if baseline != name
                },
            )
            for name in names
        ),
    )


def _best(name: str, trials: Sequence[Trial]) -> Trial:
    return max((trial for trial in trials if trial.contender == name), key=lambda trial: trial.average_precision)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def _differences(runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, Difference]:
    found = {figure: difference(_by_pair(runs, figure), _by_pair(baseline, figure)) for figure in FIGURES}
    return {figure: each for figure, each in found.items() if each is not None}


def _by_pair(runs: Sequence[Run], figure: str) -> dict[tuple[str, int], float]:
    return {(run.key.fold, run.key.seed): run.figures[figure] for run in runs}
