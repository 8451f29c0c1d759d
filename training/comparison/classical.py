"""A logistic regression and a forest as contenders, over what the network sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.comparison.contender import Choice, LogOdds, Point, Reals, Space
from training.flat_encoding import FlatEncoding
from training.metrics import average_precision
from training.network import Codes, Floats
from training.optimise import Part

ROWS_PER_TREE = 100_000
"""Each tree of a forest is drawn from at most so many rows: more take longer and change the mean of them all little."""

SURE = 1e-6
"""A forest may say 0 or 1; its log-odds end here."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """A straight line in log-odds with a ridge."""

    @property
    def defaults(self) -> Choice:
        """scikit-learn's own."""
        return {"C": 1.0}

    @property
    def patience(self) -> int:
        """There is one point."""
        return 1

    def space(self) -> Space:
        """The ridge."""
        from optuna.distributions import FloatDistribution  # noqa: PLC0415 - see networks

        return {"C": FloatDistribution(1e-4, 100.0, log=True)}

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:
        """One point."""
        yield _only_point(self.fit(fit, choice, steps=1, seed=seed), watched)

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:  # noqa: ARG002 - it has no steps
        """Newton's method; nothing in it is random but the draw of the rows."""
        from sklearn.linear_model import LogisticRegression as Model  # noqa: PLC0415 - seconds that few commands need

        encoding = FlatEncoding.for_data(fit.numeric, fit.categorical)
        model = Model(**choice, solver="newton-cholesky", random_state=seed)
        model.fit(encoding(fit.numeric, fit.categorical), fit.labels)

        def log_odds(numeric: Floats, categorical: Codes) -> Reals:
            return np.asarray(model.decision_function(encoding(numeric, categorical)), np.float64)

        return log_odds


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees on random rows and features, averaged (Breiman 2001)."""

    threads: int
    trees: int = 200

    @property
    def defaults(self) -> Choice:
        """The depth of the Handbook's forest; otherwise scikit-learn's own."""
        return {"max_depth": 10, "min_samples_leaf": 1, "max_features": 0.2}

    @property
    def patience(self) -> int:
        """There is one point."""
        return 1

    def space(self) -> Space:
        """Depth, the size of leaves, and how many features a cut is chosen among."""
        from optuna.distributions import FloatDistribution, IntDistribution  # noqa: PLC0415 - see networks

        return {
            "max_depth": IntDistribution(4, 24),
            "min_samples_leaf": IntDistribution(1, 50, log=True),
            "max_features": FloatDistribution(0.05, 0.8, log=True),
        }

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:
        """One point: all trees at once."""
        yield _only_point(self.fit(fit, choice, steps=1, seed=seed), watched)

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:  # noqa: ARG002 - it has no steps
        """The log-odds of the trees' mean share of fraud."""
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - seconds that few commands need

        encoding = FlatEncoding.for_data(fit.numeric, fit.categorical)
        model = RandomForestClassifier(
            self.trees,
            **choice,
            max_samples=min(len(fit.labels), ROWS_PER_TREE),
            n_jobs=self.threads,
            random_state=seed,
        )
        model.fit(encoding(fit.numeric, fit.categorical), fit.labels)

        def log_odds(numeric: Floats, categorical: Codes) -> Reals:
            share = model.predict_proba(encoding(numeric, categorical))[:, 1].clip(SURE, 1 - SURE)
            return np.asarray(np.log(share / (1 - share)), np.float64)

        return log_odds


def _only_point(log_odds: LogOdds, watched: Part) -> Point:
    said = log_odds(watched.numeric, watched.categorical)
    return Point(1, average_precision(watched.labels, said))
