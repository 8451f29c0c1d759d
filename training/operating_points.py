"""Operating points: the thresholds a bundle ships with, where two neighbouring decisions cost the same."""

from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from training.config import CostConfig

Reals = npt.NDArray[np.float64]
Bound: TypeAlias = dict[str, float | int]


class Document(TypedDict):
    """A thresholds document as JSON has it; `service.thresholds` reads and checks it."""

    currency: str
    default: dict[str, Bound]
    segments: list[str]
    fallback: dict[str, str | int]


STRICTEST = 1e6
"""Thresholds are raised by at most this factor to meet a rate; a rate not met then needs another model."""


@dataclass(frozen=True, slots=True)
class Level:
    """From here on a decision pays: either bound suffices."""

    probability: float
    expected_loss_minor: float


def operating_points(probabilities: Reals, amounts_minor: Reals, costs: CostConfig, *, currency: str) -> Document:
    """The thresholds document that minimises expected cost, within the rates the business can bear.

    With loss = probability · amount, approving costs the loss, a challenge or review costs its price plus what it
    fails to stop, declining costs what a good customer is worth. Neighbours cost the same at

        challenge | approve    loss = challenge / challenge_catches
        review | challenge     loss = (review - challenge) / (review_catches - challenge_catches)
        decline | review       loss = (false_decline - review) / (1 - review_catches)

    The bound on probability is the same point at the amount that fraud typically takes (the mean amount, weighted by
    probability). Where a rate would be exceeded on these rows, both bounds of its level rise together until it is met.

    Args:
        probabilities: (n,) served probabilities.
        amounts_minor: (n,) amounts in minor units of `currency`.
        costs: prices, effects and rates.
        currency: the bundle's base currency.
    """
    typical_minor = float(np.average(amounts_minor, weights=probabilities + 1e-12)) or 1.0
    challenge_loss = costs.challenge_minor / max(costs.challenge_catches, 1e-3)
    review_loss = (costs.review_minor - costs.challenge_minor) / max(
        costs.review_catches - costs.challenge_catches, 1e-3
    )
    decline_loss = (costs.false_decline_minor - costs.review_minor) / max(1 - costs.review_catches, 1e-3)
    levels, milder, wanted_loss = [], Level(0.0, 0.0), challenge_loss
    for loss_minor, rate in (
        (challenge_loss, costs.max_challenge_rate),
        (review_loss, costs.max_review_rate),
        (decline_loss, costs.max_decline_rate),
    ):
        wanted_loss = max(
            wanted_loss, loss_minor
        )  # a severer decision that is also cheaper starts where the milder does
        wanted = Level(min(wanted_loss / typical_minor, 1.0), wanted_loss)
        affordable = _within_rate(wanted, probabilities, amounts_minor, rate)
        milder = Level(
            max(affordable.probability, milder.probability),
            max(affordable.expected_loss_minor, milder.expected_loss_minor),
        )
        levels.append(milder)
    return _document(levels, costs, currency)


def _within_rate(level: Level, probabilities: Reals, amounts_minor: Reals, rate: float) -> Level:
    """The level, made stricter by the smallest factor that triggers it for at most `rate` of the rows."""
    relative = np.maximum(
        probabilities / level.probability, probabilities * amounts_minor / level.expected_loss_minor
    )  # a row triggers from 1 on
    allowed = int(rate * len(relative))
    if allowed >= len(relative):
        return level
    factor = float(np.partition(relative, len(relative) - allowed - 1)[len(relative) - allowed - 1])
    factor = min(max(1.0, np.nextafter(factor, np.inf)), STRICTEST)
    return Level(min(level.probability * factor, 1.0), level.expected_loss_minor * factor)


def _document(levels: list[Level], costs: CostConfig, currency: str) -> Document:
    """Rounded upwards, so that a printed bound is never milder than the computed one."""
    names = ("challenge_at", "review_at", "decline_at")
    default: dict[str, Bound] = {
        name: {
            "probability": min(1.0, float(np.ceil(level.probability * 1e4) / 1e4)),
            "expected_loss": min(10**12, int(np.ceil(level.expected_loss_minor))),
        }
        for name, level in zip(names, levels, strict=True)
    }
    return {
        "currency": currency,
        "default": default,
        "segments": [],
        "fallback": {"decision": "review", "approve_below_amount": costs.fallback_approve_below_minor},
    }
