"""Thresholds from costs."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.thresholds import parse_thresholds
from training.config import CostConfig
from training.operating_points import Document, operating_points

Reals = npt.NDArray[np.float64]
FREELY = {"max_challenge_rate": 1.0, "max_review_rate": 1.0, "max_decline_rate": 1.0}


def transactions(rows: int = 20_000) -> tuple[Reals, Reals]:
    """Probabilities around 0.1 %, some high, and amounts of some 50 euros."""
    draws = np.random.default_rng(7)
    probabilities = 1 / (1 + np.exp(7 - 1.8 * draws.standard_normal(rows)))
    amounts = np.exp(draws.normal(8.5, 1.0, rows)).round()
    return probabilities, amounts


def levels(document: Document) -> dict[str, dict[str, float | int]]:
    """The levels of e-commerce, where all three can be reached."""
    [segment] = document["segments"]
    return {
        "challenge_at": segment["challenge_at"],
        "review_at": segment["review_at"],
        "decline_at": segment["decline_at"],
    }


def triggered(document: Document, level: str, probabilities: Reals, amounts: Reals) -> npt.NDArray[np.bool_]:
    """Rows that reach a level by either of its bounds."""
    bound = levels(document)[level]
    hit: npt.NDArray[np.bool_] = probabilities >= bound["probability"]
    return hit | (probabilities * amounts >= bound["expected_loss"])


def costs_of(probability: float, amount: float, costs: CostConfig) -> dict[str, float]:
    """What each decision costs on average, from the prices alone."""
    loss = probability * amount
    return {
        "approve": loss,
        "challenge_at": costs.challenge_minor + loss * (1 - costs.challenge_catches),
        "review_at": costs.review_minor + loss * (1 - costs.review_catches),
        "decline_at": costs.false_decline_minor,
    }


def test_the_service_reads_the_document_and_finds_nothing_wrong() -> None:
    """What training writes is what the service accepts."""
    document = operating_points(*transactions(), CostConfig(), currency="EUR")
    parse_thresholds(document, base_currency="EUR")


def test_a_bound_on_expected_loss_lies_where_two_neighbours_cost_the_same() -> None:
    """Just below it the milder decision is cheaper, just above it the severer one."""
    costs = CostConfig(**FREELY)
    document = operating_points(*transactions(), costs, currency="EUR")
    milder = "approve"
    for level in ("challenge_at", "review_at", "decline_at"):
        bound = levels(document)[level]["expected_loss"]
        below, above = (costs_of(1e-6, (bound + by) * 1e6, costs) for by in (-2, 2))
        assert below[milder] < below[level]
        assert above[level] < above[milder]
        milder = level


def test_a_bound_on_probability_is_the_same_point_at_the_amount_fraud_takes() -> None:
    """Probability bound · probability-weighted mean amount = expected-loss bound."""
    probabilities, amounts = transactions()
    document = operating_points(probabilities, amounts, CostConfig(**FREELY), currency="EUR")
    typical = float((probabilities * amounts).sum() / probabilities.sum())
    for level in ("challenge_at", "review_at"):
        bound = levels(document)[level]
        assert bound["probability"] * typical == pytest.approx(bound["expected_loss"], rel=0.05)


@given(
    challenge=st.floats(0.0, 0.2), review=st.floats(0.0, 0.1), decline=st.floats(0.0, 0.05), price=st.floats(1, 10_000)
)
def test_no_rate_is_exceeded_and_bounds_keep_their_order(
    challenge: float, review: float, decline: float, price: float
) -> None:
    """Whatever the prices, at most the allowed share of these rows reaches a level, and a severer level is no lower."""
    costs = CostConfig(
        max_challenge_rate=challenge, max_review_rate=review, max_decline_rate=decline, false_decline_minor=price
    )
    probabilities, amounts = transactions(2_000)
    document = operating_points(probabilities, amounts, costs, currency="EUR")
    rates = {"challenge_at": challenge, "review_at": review, "decline_at": decline}
    for level, rate in rates.items():
        assert triggered(document, level, probabilities, amounts).mean() <= rate
    parse_thresholds(document, base_currency="EUR")


def test_where_nobody_can_be_challenged_review_begins_where_it_pays_against_approving() -> None:
    """The default has no challenge, and its review lies where it costs what approving costs."""
    costs = CostConfig(**FREELY)
    default = operating_points(*transactions(), costs, currency="EUR")["default"]
    assert set(default) == {"review_at", "decline_at"}
    bound = default["review_at"]["expected_loss"]
    below, above = (costs_of(1e-6, (bound + by) * 1e6, costs) for by in (-2, 2))
    assert below["approve"] < below["review_at"]
    assert above["review_at"] < above["approve"]


def test_a_binding_rate_is_used_up() -> None:
    """A level that must be made stricter is not made stricter than needed: at least 90 % of the rate is used."""
    probabilities, amounts = transactions()
    costs = CostConfig(max_challenge_rate=0.01, max_review_rate=0.005, max_decline_rate=0.0005)
    document = operating_points(probabilities, amounts, costs, currency="EUR")
    assert triggered(document, "challenge_at", probabilities, amounts).mean() > 0.009


def test_the_fallback_is_taken_from_the_configuration() -> None:
    """What is not scored is approved below the configured amount and reviewed above it."""
    document = operating_points(*transactions(), CostConfig(fallback_approve_below_minor=1234), currency="EUR")
    assert document["fallback"] == {"decision": "review", "approve_below_amount": 1234}
