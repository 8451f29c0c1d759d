"""The teacher: boosted trees that tell the network how likely fraud is, and where a number begins to matter.

A label says yes or no; a teacher says how likely, which is more to learn from where frauds are few (Hinton et al.
2015). It teaches the fit rows only, so the network knows nothing that these rows do not say.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from training.blocks import BLOCK_ROWS
from training.calibrators import Line, cross_entropy, leveled, platt
from training.config import TeacherConfig
from training.flat_encoding import tree_columns
from training.network import Codes, Floats, Mask, Steps

if TYPE_CHECKING:
    from lightgbm import Booster

Reals = npt.NDArray[np.float64]
Values = TypeVar("Values", Reals, Tensor)

VALUES_PER_FEATURE = 4095
"""Candidates for a split. 255, LightGBM's own choice, cannot tell an amount that one row in two thousand reaches."""

PREDICTED_ROWS = 262_144
"""Rows per call: a table is copied on the way."""

ROUNDS_AT_ONCE = 10
"""Trees between two looks at whether more of them help."""

ROUNDS_IN_VAIN = 60
"""Trees without a better look, after which there are no more."""

DOUBT = 0.5
"""Standard errors within which a loss is as good as the least; one is that loss over the root of how many frauds."""

GREATEST = float(np.finfo(np.float32).max)
"""Of what a number can be. A split beyond it is one between what is there and what is missing."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Some boosted ensembles that differ in what they were shown.

    Attributes:
        members: each with the same settings and another seed.
        numbers: how many of the columns they see are numeric features; the rest are codes.
        line: from what they sum up to log-odds: trees that end early enough to rank best have not yet come to state
            the fraud rate.
    """

    members: Sequence["Booster"]
    numbers: int
    line: Line

    def log_odds(self, numeric: Floats, categorical: Codes) -> Reals:
        """Log-odds of fraud (rows,): the mean of what the members say, on the line."""
        return self.line(_sums(self.members, numeric, categorical))

    def steps(self, count: int) -> Steps:
        """The `count` places where the trees gained most by splitting a number, by feature and then by place."""
        gains: Counter[tuple[int, np.float32]] = Counter()
        for member in self.members:
            for tree in dumped(member):
                for split in _splits(tree):
                    if split["split_feature"] < self.numbers and abs(split["threshold"]) <= GREATEST:
                        gains[int(split["split_feature"]), float32_below(split["threshold"])] += split["split_gain"]
        best = sorted(sorted(gains, key=lambda place: (-gains[place], place))[:count])
        return Steps(
            np.array([feature for feature, _ in best], np.int64), np.array([place for _, place in best], np.float32)
        )


@dataclass(frozen=True, slots=True)
class Blend:
    """A teacher that stays: part of what is served is its own answer.

    Attributes:
        teacher: who answers beside the network.
        share: of the log-odds that is the teacher's.
    """

    teacher: Teacher
    share: float

    def mixed(self, own: Values, told: Values) -> Values:
        """The network's log-odds (rows,) and the teacher's as those that are served."""
        return (1 - self.share) * own + self.share * told


def learn(
    numeric: Floats, categorical: Codes, labels: Mask, config: TeacherConfig, *, seed: int, threads: int
) -> Teacher:
    """Fit the trees, and the line behind them. Same arguments, same teacher.

    Trees are too sure of rows that they were fitted to. So trees of every other row are asked about the rows between:
    how many rounds there should be, and how steep the line, is what fits these best. On the line the rows are
    together as often fraud as they are.

    Args:
        numeric: (rows, n), NaN where missing.
        categorical: (rows, m), negative where missing.
        labels: (rows,).
        config: how large, and how many.
        seed: of what the members are shown.
        threads: to use; the result does not depend on it.
    """
    end = _early_end(numeric, categorical, labels, config, seed=seed, threads=threads)
    table = _Table(numeric, categorical, labels, config, seed=seed, threads=threads)
    members = [table.boosted(end.rounds, seed=seed + member) for member in range(config.members)]
    return Teacher(members, numeric.shape[1], leveled(end.slope, _sums(members, numeric, categorical), labels))


@dataclass(frozen=True, slots=True)
class _End:
    """Where boosting ends.

    Attributes:
        rounds: trees by then.
        slope: of the line on which they are as sure as they may be, 0 where they know nothing; never below.
        loss: what a row that they did not see costs there, in nats.
    """

    rounds: int
    slope: float
    loss: float


def _early_end(
    numeric: Floats, categorical: Codes, labels: Mask, config: TeacherConfig, *, seed: int, threads: int
) -> _End:
    """The first that is nearly as good as the best: what the last trees say holds now, and less for weeks to come."""
    ends: list[_End] = []
    for end in _ends(numeric, categorical, labels, config, seed=seed, threads=threads):
        ends.append(end)
        best = min(ends, key=attrgetter("loss"))
        if end.rounds - best.rounds >= ROUNDS_IN_VAIN:
            break
    return next(end for end in ends if end.loss <= best.loss * (1 + DOUBT / math.sqrt(labels.sum())))


def _ends(
    numeric: Floats, categorical: Codes, labels: Mask, config: TeacherConfig, *, seed: int, threads: int
) -> Iterator[_End]:
    """Where boosting could end, and what trees of every other row say by then of the rows between."""
    halves = [(slice(half, None, 2), slice(1 - half, None, 2)) for half in (0, 1)]
    growing = [
        _Table(numeric[shown], categorical[shown], labels[shown], config, seed=seed, threads=threads).growing(seed=seed)
        for shown, _ in halves
    ]
    unseen = np.zeros(len(labels))
    for start in range(0, config.rounds, ROUNDS_AT_ONCE):
        end = min(start + ROUNDS_AT_ONCE, config.rounds)
        for booster, (_, hidden) in zip(growing, halves, strict=True):
            for _ in range(start, end):
                booster.update()
            unseen[hidden] += _sums([booster], numeric[hidden], categorical[hidden], first=start)
        line = platt(unseen, labels)
        yield _End(end, max(0.0, line.slope), float(cross_entropy(line(unseen), labels).mean()))


class _Table:
    """Rows for boosting, in bins, with the settings: trees that minimise log loss, every row as it is."""

    def __init__(
        self, numeric: Floats, categorical: Codes, labels: Mask, config: TeacherConfig, *, seed: int, threads: int
    ) -> None:
        # Half a second that only a taught fit needs; and after torch, whose libgomp it takes where the system has none.
        import lightgbm  # noqa: PLC0415

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

        self._settings = {
            "objective": "binary",
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
        self._library = lightgbm
        self._rows = lightgbm.Dataset(
            Rows(), labels.astype(np.float64), free_raw_data=False,
            categorical_feature=list(range(numeric.shape[1], numeric.shape[1] + categorical.shape[1])),
            init_score=np.zeros(len(labels)),  # from the fraud rate on, few frauds leave the first trees without a gain
            params={**self._settings, "data_random_seed": _next_short(seed)},
        )  # fmt: skip

    def growing(self, *, seed: int) -> "Booster":
        """No trees yet: each update adds one."""
        return self._library.Booster({**self._settings, "seed": seed}, self._rows)

    def boosted(self, rounds: int, *, seed: int) -> "Booster":
        """So many trees."""
        return self._library.train({**self._settings, "seed": seed}, self._rows, num_boost_round=rounds)


def _sums(members: Sequence["Booster"], numeric: Floats, categorical: Codes, *, first: int = 0) -> Reals:
    """What trees, from `first` on, sum up to (rows,), the mean over the members."""
    told = np.zeros(len(numeric))
    for start in range(0, len(numeric), PREDICTED_ROWS):
        rows = slice(start, start + PREDICTED_ROWS)
        columns = tree_columns(numeric[rows], categorical[rows])
        told[rows] = np.mean(
            [member.predict(columns, raw_score=True, start_iteration=first) for member in members], axis=0
        )
    return told


def dumped(member: "Booster") -> Iterator[dict[str, Any]]:
    """The root of each tree, as LightGBM describes it."""
    for tree in member.dump_model()["tree_info"]:
        yield tree["tree_structure"]


def float32_below(threshold: float) -> np.float32:
    """The largest float32 that is not above a split, so that the same float32 features exceed both."""
    near = np.float32(np.clip(threshold, -GREATEST, GREATEST))
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))


def _next_short(seed: int) -> int:
    """What LightGBM derives from a seed for drawing the rows that it makes bins of; by itself only if it has a copy."""
    return ((214_013 * seed + 2_531_011) % 2**32 >> 16) & 0x7FFF


def _splits(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "split_feature" in node:
        yield node
        yield from _splits(node["left_child"])
        yield from _splits(node["right_child"])
