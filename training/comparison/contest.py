"""A contest: everyone's settings are searched on earlier weeks, then each is fitted anew and judged on later ones."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from service.features.plan import Plan
from training.comparison import lineup
from training.comparison.config import ContenderConfig, ContestConfig, Prevalence
from training.comparison.contender import Contender
from training.comparison.folds import Fold, Folds, settle_folds
from training.comparison.parts import FoldParts
from training.comparison.records import Json, Records, Run, RunKey, Trial, library_versions
from training.comparison.search import Attempt, Validation, best_point, propose
from training.config import FitConfig
from training.examples import Examples
from training.optimise import settle_device

Clock = Callable[[], float]
Tick = Callable[[int], None]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How much there is to learn from: days of fitting, and the share of fraud in them."""

    fit_days: float
    prevalence: Prevalence


@dataclass(frozen=True, slots=True)
class Contest:
    """Everybody, the rows and the rules.

    Attributes:
        config: the rules.
        base: what networks start from.
        plan: the compiled spec that the examples were made with.
        examples: feature vectors, in the order of time.
    """

    config: ContestConfig
    base: FitConfig
    plan: Plan
    examples: Examples

    def document(self) -> dict[str, Json]:
        """What results depend on, and nothing that only says which of them are wanted."""
        config = self.config
        return {
            "data": {"rows": len(self.examples.labels), "sha256": self.examples.fingerprint(self.examples.card)},
            "features": self.plan.spec.sha256,
            "threads": self.base.threads,
            "device": settle_device(self.base.device).type,
            "folds": config.folds.model_dump(mode="json"),
            "search": config.search.model_dump(mode="json"),
            "contenders": {each.name: lineup.section(each, self.base) for each in config.contenders},
            "libraries": library_versions(),
        }

    def entries(self, only: Collection[str]) -> Iterator[tuple[Scenario, Folds, ContenderConfig]]:
        """Who takes part in what, in the order in which it is played; `only` these, or all if there are none.

        Raises:
            DataInvalid: nobody has that name, or the data do not reach far enough for the folds.
        """
        names = [each.name for each in self.config.contenders]
        unknown = sorted(set(only) - set(names))
        if unknown:
            raise DataInvalid(f"no contender is called {unknown[0]}; there are {', '.join(names)}")
        for fit_days, prevalence in product(self.config.fit_days, self.config.prevalences):
            folds = settle_folds(self.config.folds, fit_days, self.examples.event_time_ms)
            for each in self.config.contenders:
                if not only or each.name in only:
                    yield Scenario(fit_days, prevalence), folds, each

    def fits(self, only: Collection[str]) -> int:
        """How many fits `play` will have told of in the end."""
        return sum(
            lineup.trials(each, self.config) * len(folds.validation) + len(self.config.seeds) * len(folds.test)
            for _, folds, each in self.entries(only)
        )


def play(contest: Contest, records: Records, *, only: Collection[str], clock: Clock, tick: Tick) -> None:
    """Do what is not done yet.

    Args:
        contest: everybody, the rows and the rules.
        records: what is done, and where it is kept.
        only: who takes part; empty: all.
        clock: seconds from any moment, for what things take.
        tick: told how many fits are over, also those of an earlier call.

    Raises:
        DataInvalid: nobody has that name, or the data do not suffice for the folds.
    """

    @cache
    def hard_frauds(fold: Fold) -> Mask:
        return FoldParts.of(contest.examples, fold).hard_frauds()

    for scenario, folds, config in contest.entries(only):
        entry = _Entry(contest, config, scenario, records, clock, tick)
        best = entry.search(folds.validation)
        for fold in folds.test:
            entry.judge(best, fold, hard_frauds)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One contender in one scenario, with its part of the records."""

    contest: Contest
    config: ContenderConfig
    scenario: Scenario
    records: Records
    clock: Clock
    tick: Tick

    def search(self, folds: Sequence[Fold]) -> Trial:
        """The best of its trials, those of an earlier call among them."""
        mine = (self.config.name, self.scenario.fit_days, self.scenario.prevalence)
        trials = [trial for trial in self.records.trials if (trial.contender, trial.fit_days, trial.prevalence) == mine]
        self.tick(len(trials) * len(folds))
        wanted = lineup.trials(self.config, self.contest.config)
        if len(trials) < wanted:
            validation = [self._validation(fold) for fold in folds]
            while len(trials) < wanted:
                trials.append(self._attempt(trials, validation))
                self.records.add_trial(trials[-1])
                self.tick(len(folds))
        return max(trials, key=lambda trial: trial.average_precision)

    def judge(self, best: Trial, fold: Fold, hard_frauds: Callable[[Fold], Mask]) -> None:
        """Fit the settings that were found with each seed, and measure it on the test rows."""
        done = {run.key for run in self.records.runs}
        keys = [self._key(fold, seed) for seed in self.contest.config.seeds]
        missing = [key for key in keys if key not in done]
        self.tick(len(keys) - len(missing))
        if missing:
            parts, hard = FoldParts.of(self.contest.examples, fold), hard_frauds(fold)
            for key in missing:
                self._run(key, best, parts, hard)
                self.tick(1)

    def _attempt(self, before: Sequence[Trial], folds: Sequence[Validation]) -> Trial:
        """Try what the search proposes after all that was tried."""
        began, seed, contender = self.clock(), self.contest.config.search.seed, self._contender()
        choice = propose(contender, [Attempt(each.choice, each.average_precision) for each in before], seed=seed)
        point = best_point(contender, choice, folds, seed=seed)
        return Trial(
            contender=self.config.name,
            fit_days=self.scenario.fit_days,
            prevalence=self.scenario.prevalence,
            number=len(before),
            choice=dict(choice),
            steps=point.steps,
            average_precision=point.average_precision,
            seconds=self.clock() - began,
        )

    def _run(self, key: RunKey, best: Trial, parts: FoldParts, hard: Mask) -> None:
        began = self.clock()
        fit, kept = parts.fit(self.scenario.prevalence, seed=key.seed)
        said = self._contender().fit(fit, best.choice, steps=best.steps, seed=key.seed)
        fitted = self.clock()
        test = parts.test()
        # Leaving out frauds divided the odds of every row by the same number.
        log_odds = (said(test.numeric, test.categorical) - np.log(kept)).astype(np.float32)
        run = Run(
            key=key,
            steps=best.steps,
            choice=best.choice,
            rows=len(fit.labels),
            frauds=int(fit.labels.sum()),
            figures=parts.figures(log_odds, hard),
            fit_seconds=fitted - began,
            seconds=self.clock() - began,
        )
        self.records.add_run(run, log_odds, test.labels)

    def _contender(self) -> Contender:
        return lineup.contender(self.config, self.contest.config, self.contest.base, self.contest.plan)

    def _validation(self, fold: Fold) -> Validation:
        parts = FoldParts.of(self.contest.examples, fold)
        fit, _ = parts.fit(self.scenario.prevalence, seed=self.contest.config.search.seed)
        return Validation(fit, parts.test())

    def _key(self, fold: Fold, seed: int) -> RunKey:
        return RunKey(
            contender=self.config.name,
            fit_days=self.scenario.fit_days,
            prevalence=self.scenario.prevalence,
            fold=fold.name,
            seed=seed,
        )
