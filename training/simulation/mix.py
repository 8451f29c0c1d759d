"""Draws from small tables of shares: what usually happens in each situation."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

from training.simulation.world import NONE, Integers, Reals

Outcome = TypeVar("Outcome", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Mix:
    """One row of shares per situation, one column per outcome.

    Attributes:
        outcomes: (m,) an outcome's position in its vocabulary; -1 where nothing is said.
        cumulative: (situations, m - 1) running sums of the shares, the last (1) left out.
    """

    outcomes: Integers
    cumulative: Reals

    def draw(self, rng: np.random.Generator, situation: Integers) -> Integers:
        """One outcome for each of the (n,) situations."""
        drawn = rng.random(len(situation))
        column = np.zeros(len(situation), dtype=np.int64)
        for step in range(self.cumulative.shape[1]):
            column += drawn >= self.cumulative[situation, step]
        return self.outcomes[column]


def mix(vocabulary: type[Outcome], *situations: Mapping[Outcome | None, float]) -> Mix:
    """A table from one mapping of outcome to share per situation; None is a field left out."""
    members = list(vocabulary)
    named: list[Outcome | None] = [name for name in (None, *members) if any(name in shares for shares in situations)]
    table = np.array([[shares.get(name, 0.0) for name in named] for shares in situations])
    assert np.allclose(table.sum(axis=1), 1.0), table.sum(axis=1)
    outcomes = np.array([NONE if name is None else members.index(name) for name in named])
    return Mix(outcomes=outcomes, cumulative=np.cumsum(table, axis=1)[:, :-1])
