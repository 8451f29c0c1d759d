"""Operating points: the thresholds a bundle ships with, where two neighbouring decisions cost the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from service.vocabulary import Channel
from training.config import CostConfig

Reals = npt.NDArray[np.float64]
Bound: TypeAlias = dict[str, float | int]


class Segment(TypedDict):
    """The levels of one channel."""

    name: str
    when: dict[str, list[str]]
    challenge_at: Bound
    review_at: Bound
    decline_at: Bound


class Document(TypedDict):
    """A thresholds document as JSON has it; `service.thresholds` reads and checks it."""

    currency: str
    default: dict[str, Bound]
    segments: list[Segment]
    fallback: dict[str, str | int]


STRICTEST = 1e6
"""Thresholds are raised by at most this factor to meet a rate; a rate not met then needs another model."""


@dataclass(frozen=True, slots=True)
class Level:
    """From here on a decision pays: either bound suffices."""

    probability: float
    expected_loss_minor: float


@dataclass(frozen=True, slots=True)
class Step:
    """From which expected loss on a decision is cheaper than the one before, and how many it may hit."""

    loss_minor: float
    rate: float


def operating_points(probabilities: Reals, amounts_minor: Reals, costs: CostConfig, *, currency: str) -> Document:
    """The thresholds document that minimises expected cost, within the rates the business can bear.

    With loss = probability · amount, approving costs the loss, a challenge or review costs its price plus what it
    fails to stop, declining costs what a good customer is worth. Neighbours cost the same at

        challenge | approve    loss = challenge / challenge_catches
        review | challenge     loss = (review - challenge) / (review_catches - challenge_catches)
        review | approve       loss = review / review_catches, where nobody can be challenged
        decline | review       loss = (false_decline - review) / (1 - review_catches)

    Only e-commerce has somebody to challenge, so it is a segment, and the default goes from approve to review. The
    bound on probability is the same point at the amount that fraud typically takes (the mean amount, weighted by
    probability). Where a rate would be exceeded on these rows, both bounds of its level rise together until it is met.

    Args:
        probabilities: (n,) served probabilities.
        amounts_minor: (n,) amounts in minor units of `currency`.
        costs: prices, effects and rates.
        currency: the bundle's base currency.
    """
    gained = max(costs.review_catches - costs.challenge_catches, 1e-3)
    review_over_challenge = Step((costs.review_minor - costs.challenge_minor) / gained, costs.max_review_rate)
    review_over_approve = Step(costs.review_minor / max(costs.review_catches, 1e-3), costs.max_review_rate)
    challenge = Step(costs.challenge_minor / max(costs.challenge_catches, 1e-3), costs.max_challenge_rate)
    decline = Step(
        (costs.false_decline_minor - costs.review_minor) / max(1 - costs.review_catches, 1e-3), costs.max_decline_rate
    )

    def bounds(*steps: Step) -> list[Bound]:
        return [_rounded(level) for level in _levels(steps, probabilities, amounts_minor)]

    review_at, decline_at = bounds(review_over_approve, decline)
    challenge_online, review_online, decline_online = bounds(challenge, review_over_challenge, decline)
    return {
        "currency": currency,
        "default": {"review_at": review_at, "decline_at": decline_at},
        "segments": [
            {
                "name": Channel.ECOMMERCE.value,
                "when": {"channel": [Channel.ECOMMERCE.value]},
                "challenge_at": challenge_online,
                "review_at": review_online,
                "decline_at": decline_online,
            }
        ],
        "fallback": {"decision": "review", "approve_below_amount": costs.fallback_approve_below_minor},
    }


def _levels(steps: Sequence[Step], probabilities: Reals, amounts_minor: Reals) -> list[Level]:
    """The level of each step, mildest first; none is easier to reach than the one before."""
    typical_minor = float(np.average(amounts_minor, weights=probabilities + 1e-12)) or 1.0
    levels, milder = [], Level(0.0, 0.0)
    for step in steps:
        loss_minor = max(step.loss_minor, milder.expected_loss_minor)
        wanted = Level(min(loss_minor / typical_minor, 1.0), loss_minor)
        affordable = _within_rate(wanted, probabilities, amounts_minor, step.rate)
        milder = Level(
            max(affordable.probability, milder.probability),
            max(affordable.expected_loss_minor, milder.expected_loss_minor),
        )
        levels.append(milder)
    return levels


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


def _rounded(level: Level) -> Bound:
    """Rounded upwards, so that a printed bound is never milder than the computed one."""
    return {
        "probability": min(1.0, float(np.ceil(level.probability * 1e4) / 1e4)),
        "expected_loss": min(10**12, int(np.ceil(level.expected_loss_minor))),
    }
