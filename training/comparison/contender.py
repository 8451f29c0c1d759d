"""What a contest asks of whoever takes part."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from training.network import Codes, Floats
from training.optimise import Part

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Reals = npt.NDArray[np.float64]

Choice = Mapping[str, int | float | str | None]
"""Settings by name, as a search proposes them."""

Space = Mapping[str, "BaseDistribution"]
"""What a search may choose from, by name. Empty where there is nothing to choose."""

LogOdds = Callable[[Floats, Codes], Reals]
"""What somebody who was fitted says of some rows: numeric (rows, n) and categorical (rows, m) to log-odds (rows,)."""


@dataclass(frozen=True, slots=True)
class Point:
    """How good a fit is at one moment of it.

    Attributes:
        steps: epochs or rounds of boosting until then; 1 where there is but one.
        average_precision: of the watched rows.
    """

    steps: int
    average_precision: float


class Contender(Protocol):
    """A way to learn, with the settings it may be given. The same arguments give the same result."""

    @property
    def defaults(self) -> Choice:
        """What it is tried with first."""
        ...

    @property
    def patience(self) -> int:
        """After how many points without a better one its curve may be left."""
        ...

    def space(self) -> Space:
        """What may be chosen."""
        ...

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:
        """Learn, and look at later rows after every few steps; the steps depend on the settings only."""
        ...

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:
        """Learn for so many steps, in exactly the way the curve went there."""
        ...
