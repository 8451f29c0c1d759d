"""Rounds: the same work timed several times in turn with others, and what can be said of all rounds together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

import numpy as np

from benchmarks.features.timing import Timed


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one contestant.

    Attributes:
        median_us: in which half of the calls were answered.
        p99_us: in which all but one in a hundred were.
        per_second: requests answered in a second; a call may hold several.
        server_us: Redis's processor time for a request, in user and kernel mode.
    """

    median_us: float
    p99_us: float
    per_second: float
    server_us: float

    @classmethod
    def of(cls, timed: Timed, *, requests: int, server_s: float) -> Self:
        """Sum up calls that answered so many requests while Redis worked so long."""
        middle, slow = np.percentile(timed.latencies_s, (50, 99)) * 1e6
        return cls(float(middle), float(slow), requests / timed.elapsed_s, server_s / requests * 1e6)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was measured in several rounds."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The middle value and the range."""
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, over: Sequence[float], under: Sequence[float]) -> Self:
        """How many times the other the one is, round by round: what slows a round slows both."""
        return cls.of([a / b for a, b in zip(over, under, strict=True)])
