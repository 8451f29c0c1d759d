"""Boosted trees as contenders: LightGBM, XGBoost and CatBoost, each allowed to see every amount.

By default they put a feature's values into about 255 quantile bins and start from the log-odds of the class share.
Where one row in two thousand has an amount that gives it away, no bin holds just those rows, and from log-odds of -5
the second derivatives of rare leaves are too small to pass the libraries' minimum: average precision falls by .06
(docs/comparison.md), and the network has beaten a straw man. So: thousands of bins, and log-odds of 0 to start from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.comparison.contender import Choice, LogOdds, Point, Reals, Space
from training.flat_encoding import tree_columns
from training.metrics import average_precision
from training.network import Codes, Floats
from training.optimise import Part

ROUNDS_PER_STEP = 20
"""How often a curve is looked at, in rounds."""

PATIENCE_ROUNDS = 100
"""A search leaves a curve that was not better for so long."""

LIGHTGBM_BINS, XGBOOST_BINS, CATBOOST_BINS = 4095, 8192, 4096
"""More change nothing on the Handbook's data; CatBoost's 65535 take six times as long."""

Library = Literal["lightgbm", "xgboost", "catboost"]
Matrix = npt.NDArray[np.float32]
Grow = Callable[[], "Trees"]
Trees = Callable[[Matrix], Reals]
"""What `ROUNDS_PER_STEP` rounds add to the log-odds: (rows, features) to (rows,)."""


@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """Trees by one library.

    Categories go in as numbers, their codes: the trees cut them where it helps. Missing values are left to the library,
    which gives them a side of each cut.
    """

    library: Library
    most_rounds: int
    threads: int

    @property
    def defaults(self) -> Choice:
        """The libraries' own, with the Handbook's depth for XGBoost."""
        return _DEFAULTS[self.library]

    @property
    def patience(self) -> int:
        """In looks at the curve."""
        return PATIENCE_ROUNDS // ROUNDS_PER_STEP

    def space(self) -> Space:
        """Speed, size, restraint and sampling; the number of rounds is read off the curve."""
        from optuna.distributions import FloatDistribution, IntDistribution  # noqa: PLC0415 - see networks

        rate = FloatDistribution(0.02, 0.3, log=True)
        share, ridge = FloatDistribution(0.3, 1.0), FloatDistribution(1e-3, 30.0, log=True)
        match self.library:
            case "lightgbm":
                return {
                    "learning_rate": rate,
                    "num_leaves": IntDistribution(4, 128, log=True),
                    "min_data_in_leaf": IntDistribution(1, 200, log=True),
                    "min_sum_hessian_in_leaf": FloatDistribution(1e-3, 10.0, log=True),
                    "feature_fraction": share,
                    "bagging_fraction": share,
                    "lambda_l2": ridge,
                }
            case "xgboost":
                return {
                    "learning_rate": rate,
                    "max_depth": IntDistribution(2, 10),
                    "min_child_weight": FloatDistribution(1e-2, 30.0, log=True),
                    "subsample": share,
                    "colsample_bytree": share,
                    "reg_lambda": ridge,
                }
            case "catboost":
                return {
                    "learning_rate": rate,
                    "depth": IntDistribution(2, 9),
                    "l2_leaf_reg": ridge,
                    "random_strength": FloatDistribution(0.1, 10.0, log=True),
                    "rsm": share,
                }

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:
        """One point per `ROUNDS_PER_STEP` rounds, grown when it is asked for."""
        grow = self._begin(fit, choice, seed)
        rows = tree_columns(watched.numeric, watched.categorical)
        log_odds = np.zeros(len(rows))
        for rounds in range(ROUNDS_PER_STEP, self.most_rounds + 1, ROUNDS_PER_STEP):
            log_odds += grow()(rows)
            yield Point(rounds, average_precision(watched.labels, log_odds))

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:
        """So many rounds; they minimise the log loss, so what they say are log-odds already."""
        grow = self._begin(fit, choice, seed)
        grown = [grow() for _ in range(steps // ROUNDS_PER_STEP)]

        def log_odds(numeric: Floats, categorical: Codes) -> Reals:
            rows = tree_columns(numeric, categorical)
            added: Reals = np.sum([trees(rows) for trees in grown], axis=0)
            return added

        return log_odds

    def _begin(self, fit: Part, choice: Choice, seed: int) -> Grow:
        rows, target = tree_columns(fit.numeric, fit.categorical), fit.labels.astype(np.float32)
        match self.library:
            case "lightgbm":
                return _lightgbm(rows, target, choice, seed, self.threads)
            case "xgboost":
                return _xgboost(rows, target, choice, seed, self.threads)
            case "catboost":
                return _catboost(rows, target, choice, seed, self.threads)


_DEFAULTS: dict[Library, Choice] = {
    "lightgbm": {
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "min_sum_hessian_in_leaf": 1e-3,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "lambda_l2": 1e-3,
    },
    "xgboost": {
        "learning_rate": 0.1,
        "max_depth": 3,
        "min_child_weight": 1.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_lambda": 1.0,
    },
    "catboost": {"learning_rate": 0.1, "depth": 6, "l2_leaf_reg": 3.0, "random_strength": 1.0, "rsm": 1.0},
}


def _lightgbm(rows: Matrix, target: Matrix, choice: Choice, seed: int, threads: int) -> Grow:
    import lightgbm  # noqa: PLC0415 - seconds that only a contest needs

    parameters = {
        **choice,
        "objective": "binary",
        "boost_from_average": False,
        "max_bin": LIGHTGBM_BINS,
        "min_data_in_bin": 1,
        "bagging_freq": 1,
        "num_threads": threads,
        "deterministic": True,
        "force_col_wise": True,  # or it times both ways and takes the faster, which may differ in the last bit
        "seed": seed,
        "verbosity": -1,
    }
    booster = lightgbm.Booster(parameters, lightgbm.Dataset(rows, target, params=parameters))

    def grow() -> Trees:
        before = booster.current_iteration()
        for _ in range(ROUNDS_PER_STEP):
            booster.update()
        added = booster.current_iteration() - before  # fewer where no cut was left to make

        def trees(rows: Matrix) -> Reals:
            if added == 0:
                return np.zeros(len(rows))
            said = booster.predict(rows, raw_score=True, start_iteration=before, num_iteration=added)
            return np.asarray(said, np.float64)

        return trees

    return grow


def _xgboost(rows: Matrix, target: Matrix, choice: Choice, seed: int, threads: int) -> Grow:
    import xgboost  # noqa: PLC0415 - seconds that only a contest needs

    parameters = {
        **choice,
        "objective": "binary:logistic",
        "base_score": 0.5,
        "tree_method": "hist",
        "max_bin": XGBOOST_BINS,
        "nthread": threads,
        "seed": seed,
    }
    data = xgboost.DMatrix(rows, target, nthread=threads)
    booster = xgboost.Booster(parameters, [data])

    def grow() -> Trees:
        before = booster.num_boosted_rounds()
        for number in range(before, before + ROUNDS_PER_STEP):
            booster.update(data, number)
        added = (before, before + ROUNDS_PER_STEP)

        def trees(rows: Matrix) -> Reals:
            asked = xgboost.DMatrix(rows, nthread=threads)
            return booster.predict(asked, output_margin=True, iteration_range=added).astype(np.float64)

        return trees

    return grow


def _catboost(rows: Matrix, target: Matrix, choice: Choice, seed: int, threads: int) -> Grow:
    """CatBoost cannot be asked between rounds: a step is a model of its own that starts from what was said so far."""
    import catboost  # noqa: PLC0415 - seconds that only a contest needs

    parameters = {
        **choice,
        "loss_function": "Logloss",
        "iterations": ROUNDS_PER_STEP,
        "thread_count": threads,
        "verbose": False,
        "allow_writing_files": False,
    }
    data = catboost.Pool(rows, target)
    data.quantize(border_count=CATBOOST_BINS)
    said = np.zeros(len(rows))
    seeds = count(seed * 10_000)

    def grow() -> Trees:
        data.set_baseline(said[:, None])
        model = catboost.CatBoost({**parameters, "random_seed": next(seeds)})
        model.fit(data)

        def trees(rows: Matrix) -> Reals:
            return np.asarray(model.predict(rows, prediction_type="RawFormulaVal", thread_count=threads), np.float64)

        said[:] += trees(rows)
        return trees

    return grow
