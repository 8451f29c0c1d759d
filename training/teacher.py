"""The teacher: boosted trees that tell the network how likely fraud is, and where a number begins to matter.

A label says yes or no; a teacher says how likely, which is more to learn from where frauds are few (Hinton et al.
2015). It teaches the fit rows only, so the network knows nothing that these rows do not say.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.blocks import BLOCK_ROWS
from training.config import TeacherConfig
from training.flat_encoding import tree_columns
from training.network import Codes, Floats, Mask, Steps

if TYPE_CHECKING:
    from lightgbm import Booster

Reals = npt.NDArray[np.float64]

VALUES_PER_FEATURE = 4095
"""Candidates for a split. 255, LightGBM's own choice, cannot tell an amount that one row in two thousand reaches."""

PREDICTED_ROWS = 262_144
"""Rows per call: a table is copied on the way."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Some boosted ensembles that differ in what they were shown.

    Attributes:
        members: each with the same settings and another seed.
        numbers: how many of the columns they see are numeric features; the rest are codes.
    """

    members: Sequence["Booster"]
    numbers: int

    def log_odds(self, numeric: Floats, categorical: Codes) -> Reals:
        """The mean of the members' log-odds of fraud (rows,)."""
        told = np.zeros(len(numeric))
        for start in range(0, len(numeric), PREDICTED_ROWS):
            rows = slice(start, start + PREDICTED_ROWS)
            columns = tree_columns(numeric[rows], categorical[rows])
            told[rows] = np.mean([member.predict(columns, raw_score=True) for member in self.members], axis=0)
        return told

    def steps(self, count: int) -> Steps:
        """The `count` places where the trees gained most by splitting a number, by feature and then by place."""
        gains: Counter[tuple[int, np.float32]] = Counter()
        for member in self.members:
            for tree in member.dump_model()["tree_info"]:
                for split in _splits(tree["tree_structure"]):
                    place = _below(split["threshold"]) if split["split_feature"] < self.numbers else None
                    if place is not None:
                        gains[int(split["split_feature"]), place] += split["split_gain"]
        best = sorted(sorted(gains, key=lambda place: (-gains[place], place))[:count])
        return Steps(
            np.array([feature for feature, _ in best], np.int64), np.array([place for _, place in best], np.float32)
        )


def learn(
    numeric: Floats, categorical: Codes, labels: Mask, config: TeacherConfig, *, seed: int, threads: int
) -> Teacher:
    """Fit the trees to log loss, every row as it is. Same arguments, same trees.

    Args:
        numeric: (rows, n), NaN where missing.
        categorical: (rows, m), negative where missing.
        labels: (rows,).
        config: how large, and how many.
        seed: of what the members are shown.
        threads: to use; the result does not depend on it.
    """
    # Half a second that only a taught fit needs; and after torch, whose libgomp it takes where the system has none.
    import lightgbm  # noqa: PLC0415

    settings = {
        "objective": "binary",
        "boost_from_average": False,  # from the fraud rate on, few frauds leave the first trees without a gain
        "max_bin": VALUES_PER_FEATURE,
        "min_data_in_bin": 1,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.least_rows,
        "min_sum_hessian_in_leaf": config.least_weight,
        "lambda_l2": config.penalty,
        "feature_fraction": config.features_shown,
        "bagging_fraction": config.rows_shown,
        "bagging_freq": 1,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }

    class Rows(lightgbm.Sequence):
        """The rows as LightGBM asks for them, so that it has no copy but its own, of two bytes a value."""

        batch_size = BLOCK_ROWS

        def __len__(self) -> int:
            return len(numeric)

        def __getitem__(self, wanted: int | slice | list[int]) -> Floats | Reals:
            if isinstance(wanted, slice):
                return tree_columns(numeric[wanted], categorical[wanted])
            one: Floats = tree_columns(numeric[[wanted]], categorical[[wanted]])[0]
            return one.astype(np.float64)  # the type in which it looks for bins

    codes = list(range(numeric.shape[1], numeric.shape[1] + categorical.shape[1]))
    table = lightgbm.Dataset(
        Rows(), labels.astype(np.float64), categorical_feature=codes, free_raw_data=False,
        params={**settings, "data_random_seed": _next_short(seed)},
    )  # fmt: skip
    members = [
        lightgbm.train({**settings, "seed": seed + member}, table, num_boost_round=config.rounds)
        for member in range(config.members)
    ]
    return Teacher(members, numeric.shape[1])


def _next_short(seed: int) -> int:
    """What LightGBM derives from a seed for drawing the rows that it makes bins of; by itself only if it has a copy."""
    return ((214_013 * seed + 2_531_011) % 2**32 >> 16) & 0x7FFF


def _splits(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "split_feature" in node:
        yield node
        yield from _splits(node["left_child"])
        yield from _splits(node["right_child"])


def _below(threshold: float) -> np.float32 | None:
    """The largest float32 that is not above a split, so that the same float32 features exceed both; None if none."""
    if abs(threshold) > float(np.finfo(np.float32).max):
        return None  # a split between what is there and what is missing
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))
