"""Each calibrator against its definition."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibrators import (
    CURVES,
    LINES,
    Curve,
    Line,
    beta,
    cross_entropy,
    isotonic,
    log_odds_of,
    platt,
    probability_of,
    temperature,
    venn_abers,
)

Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@st.composite
def slices(draw: st.DrawFn) -> tuple[Reals, Mask]:
    """A small slice: scores with many ties, labels of any kind."""
    rows = draw(st.integers(1, 25))
    scores = draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    return np.array(scores, np.float64), np.array(labels)


def monotone_fit(scores: Reals, labels: Mask, at: float) -> float:
    """Isotonic regression at one of the scores, by its minimax formula (Robertson et al. 1988, theorem 1.4.4)."""
    known = np.unique(scores)
    return max(
        min(float(labels[(scores >= low) & (scores <= high)].mean()) for high in known[known >= at])
        for low in known[known <= at]
    )


@given(slices())
def test_isotonic_regression_is_the_minimax_of_its_means(rows: tuple[Reals, Mask]) -> None:
    """At every score: the largest, over where to begin, of the smallest mean over where to end."""
    scores, labels = rows
    found = probability_of(isotonic(scores, labels)(np.unique(scores)))
    expected = [monotone_fit(scores, labels, at) for at in np.unique(scores)]
    assert found == pytest.approx(expected, abs=1e-9)


@given(slices(), st.integers(-1, 20))
def test_venn_abers_is_isotonic_regression_with_the_row_itself(rows: tuple[Reals, Mask], half_steps: int) -> None:
    """On, between and beyond the scores, p0 and p1 are the fits with the row added as legitimate and as fraud."""
    (scores, labels), at = rows, half_steps / 2
    p0, p1 = (monotone_fit(np.append(scores, at), np.append(labels, label), at) for label in (False, True))
    assert probability_of(venn_abers(scores, labels)(np.array([at]))) == pytest.approx([p1 / (1 - p0 + p1)], abs=1e-9)


@pytest.mark.parametrize("fit", [*LINES.values(), *CURVES.values()])
@given(rows=slices())
def test_no_calibrator_falls_or_leaves_the_numbers(
    fit: Callable[[Reals, Mask], Curve], rows: tuple[Reals, Mask]
) -> None:
    """Finite log-odds that rise or stay, beyond the fitted range too; a line that falls says so."""
    scores, labels = rows
    fitted = fit(np.concatenate([scores - 4.5, [0.0, 1.0]]), np.append(labels, [True, False]))
    answers = fitted(np.linspace(-12, 12, 200))
    assert np.isfinite(answers).all()
    rises = not isinstance(fitted, Line) or fitted.rises
    assert ((np.diff(answers) if rises else -np.diff(answers)) >= -1e-9).all()


def drawn(rows: int = 200_000) -> tuple[Reals, Mask]:
    """True log-odds around 1 %, and labels drawn from them."""
    draws = np.random.default_rng(7)
    truth = draws.normal(-4, 2, rows)
    return truth, draws.random(rows) < probability_of(truth)


def test_the_line_meets_the_likelihood_equations() -> None:
    """Expected frauds equal observed ones, also when weighted by the log-odds."""
    truth, labels = drawn(20_000)
    log_odds = truth * 0.3 + 4
    off = probability_of(platt(log_odds, labels)(log_odds)) - labels
    assert abs(off.mean()) < 1e-9
    assert abs((off * log_odds).mean()) < 1e-9


def test_a_temperature_has_no_intercept() -> None:
    """It finds a slope that was put in, and cannot move a fraud rate."""
    truth, labels = drawn()
    line = temperature(truth / 3, labels)
    assert line.slope == pytest.approx(3, rel=0.02)
    assert line.intercept == 0
    assert temperature(truth + 3, labels)(np.zeros(1)) == 0


def test_beta_finds_two_slopes_that_were_put_in() -> None:
    """Log-odds made of p with one exponent and of 1 − p with another come back."""
    truth, _ = drawn()
    log_odds = 0.8 * -np.logaddexp(0, -truth) + 2.0 * np.logaddexp(0, truth) - 0.5
    labels = np.random.default_rng(8).random(len(truth)) < probability_of(log_odds)
    found = beta(truth, labels)
    assert (found.a, found.b, found.c) == pytest.approx((0.8, 2.0, -0.5), abs=0.1)


def test_beta_gives_up_a_slope_that_would_fall() -> None:
    """Where small risks rank the wrong way, their slope is 0 and the rest still fits the fraud rate."""
    truth, _ = drawn()
    log_odds = -0.05 * -np.logaddexp(0, -truth) + 2.0 * np.logaddexp(0, truth) - 4
    labels = np.random.default_rng(8).random(len(truth)) < probability_of(log_odds)
    found = beta(truth, labels)
    assert found.a == 0
    assert found.b > 0
    assert probability_of(found(truth)).sum() == pytest.approx(labels.sum(), rel=1e-6)


def test_on_its_own_rows_no_calibrator_is_worse_than_one_that_it_contains() -> None:
    """Log loss falls from none over temperature, platt and beta, each the last with one number more."""
    truth, labels = drawn(20_000)
    log_odds = truth / 2 + 1
    losses = [
        cross_entropy(fit(log_odds, labels)(log_odds), labels).mean()
        for fit in (LINES["none"], LINES["temperature"], LINES["platt"], CURVES["beta"])
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_log_odds_are_the_inverse_of_probabilities() -> None:
    """Also near the ends, and finite at them."""
    log_odds = np.linspace(-25, 25, 101)
    assert log_odds_of(probability_of(log_odds)) == pytest.approx(log_odds, abs=1e-4)
    assert np.isfinite(log_odds_of(np.array([0.0, 1.0]))).all()
