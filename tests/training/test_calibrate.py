"""From recovered log-odds to probabilities and scores."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DataInvalid
from training.calibrate import SCORES, Chosen, choose_line, score_table
from training.calibrators import IDENTITY, LINES, LineMethod, cross_entropy

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def sigmoid(logits: Reals) -> Reals:
    """The logistic function in double precision."""
    result: Reals = 1 / (1 + np.exp(-logits))
    return result


def drawn(rows: int, seed: int = 7) -> tuple[Reals, npt.NDArray[np.bool_]]:
    """True log-odds around 1 %, and labels drawn from them."""
    draws = np.random.default_rng(seed)
    truth = draws.normal(-5, 1.5, rows)
    return truth, draws.random(rows) < sigmoid(truth)


def test_a_line_that_was_put_in_is_taken_out_again() -> None:
    """Logits that are off by a known line come back to within sampling error of the truth."""
    truth, labels = drawn(200_000)
    found = choose_line((truth - 1.0) / 1.5, labels, "auto")
    assert found.method == "platt"
    assert found.line.slope == pytest.approx(1.5, rel=0.05)
    assert found.line.intercept == pytest.approx(1.0, abs=0.2)


def test_a_slope_that_was_put_in_is_found_to_be_one() -> None:
    """Where nothing but the slope is off, the line is close to the temperature's, whichever of the two it is."""
    truth, labels = drawn(200_000)
    found = choose_line(truth / 2, labels, "auto")
    assert found.method != "none"
    assert found.line.slope == pytest.approx(2, rel=0.05)
    assert found.line.intercept == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_right_already_is_left_alone(seed: int) -> None:
    """No line beats the truth by more than chance."""
    truth, labels = drawn(50_000, seed)
    assert choose_line(truth, labels, "auto") == Chosen("none", IDENTITY)


def test_the_choice_is_made_on_rows_a_line_was_not_fitted_to() -> None:
    """A slice whose few frauds all lie in one stretch has a line that fits it well and the others not at all."""
    draws = np.random.default_rng(7)
    log_odds, labels = draws.normal(-6, 1, 5_000), np.zeros(5_000, bool)
    labels[:40] = True
    in_hindsight = cross_entropy(LINES["platt"](log_odds, labels)(log_odds), labels).mean()
    assert in_hindsight < cross_entropy(log_odds, labels).mean()
    assert choose_line(log_odds, labels, "auto").method == "none"


def test_a_ranking_is_never_turned_around() -> None:
    """Logits that rank the wrong way keep the identity, and a line asked for by name is refused."""
    truth, labels = drawn(50_000)
    assert choose_line(-truth, labels, "auto") == Chosen("none", IDENTITY)
    with pytest.raises(DataInvalid, match="calibration by platt has slope -"):
        choose_line(-truth, labels, "platt")


def test_a_stretch_whose_others_lack_a_class_is_judged_without_a_line() -> None:
    """Nothing can be fitted there."""
    labels = np.zeros(100, bool)
    labels[10] = True
    assert choose_line(np.linspace(-3, 3, 100), labels, "auto").method == "none"


@pytest.mark.parametrize("method", LINES)
def test_a_line_asked_for_by_name_is_the_one_that_is_served(method: LineMethod) -> None:
    """No cross-validation overrules a configuration."""
    truth, labels = drawn(20_000)
    assert choose_line(truth, labels, method) == Chosen(method, LINES[method](truth, labels))


def score_by_definition(probability: float, legitimate: Floats) -> int:
    """floor(-100 log10 FPR), counted."""
    above = int((legitimate >= probability).sum())
    return int(np.clip(np.floor(-100 * np.log10((1 + above) / (1 + len(legitimate)))), 0, SCORES))


def score(probability: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    """As the service looks it up."""
    return np.searchsorted(thresholds, probability, side="right")


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(50, 400), ties=st.booleans())
def test_every_counted_score_is_the_one_the_definition_gives(seed: int, rows: int, ties: bool) -> None:  # noqa: FBT001 - Hypothesis passes by name
    """Each counted threshold is the smallest float32 with its score, also where rows tie: its neighbour misses it."""
    draws = np.random.default_rng(seed)
    logits = (np.round(draws.normal(-4, 1, rows)) if ties else draws.normal(-4, 1, rows)).astype(np.float32)
    probabilities = sigmoid(logits.astype(np.float64)).astype(np.float32)
    table = score_table(logits, probabilities, np.zeros(rows, bool))
    for wanted in range(1, table.extrapolated_from):
        at = table.thresholds[wanted - 1]
        assert score_by_definition(at, probabilities) >= wanted
        assert score_by_definition(np.nextafter(at, np.float32(0)), probabilities) < wanted


def test_one_in_ten_to_the_score_over_100_legitimate_transactions_reaches_it() -> None:
    """100 is a false-positive rate of 10 %, 200 of 1 %, 300 of 0.1 %; frauds do not count."""
    logits = np.linspace(-12, 0, 200_000).astype(np.float32)
    probabilities = sigmoid(logits.astype(np.float64)).astype(np.float32)
    labels = np.zeros(len(logits), bool)
    labels[-1000:] = True
    table = score_table(logits, probabilities, labels)
    reached = score(probabilities[~labels], table.thresholds)
    for wanted, rate in ((100, 0.1), (200, 0.01), (300, 0.001)):
        assert (reached >= wanted).mean() == pytest.approx(rate, rel=0.01)


def test_scores_never_fall_and_go_on_beyond_the_last_count() -> None:
    """Thresholds are ascending probabilities; past the 20th-highest legitimate row they still rise."""
    logits = np.random.default_rng(7).normal(-6, 1.5, 50_000).astype(np.float32)
    probabilities = sigmoid(logits.astype(np.float64)).astype(np.float32)
    table = score_table(logits, probabilities, np.zeros(len(logits), bool))
    assert table.thresholds.dtype == np.float32
    assert (np.diff(table.thresholds) >= 0).all()
    assert table.thresholds.max() <= 1
    assert table.extrapolated_from == score_by_definition(float(np.sort(probabilities)[-20]), probabilities) + 1
    beyond = table.thresholds[table.extrapolated_from - 1 :]
    below_one = beyond[beyond < 1]
    assert (np.diff(below_one) > 0).all()


def test_the_tail_follows_the_line_it_was_drawn_from() -> None:
    """For exponentially thinning log-odds (ten times rarer every ln 10) 100 points are ln 10 log-odds."""
    rows = 100_000
    logits = (-10 - np.log((np.arange(rows) + 0.5) / rows)).astype(np.float32)
    table = score_table(logits, sigmoid(logits.astype(np.float64)).astype(np.float32), np.zeros(rows, bool))
    start = table.extrapolated_from
    low, high = (float(table.thresholds[s - 1]) for s in (start, start + 100))
    rise = np.log(high / (1 - high)) - np.log(low / (1 - low))
    assert rise == pytest.approx(np.log(10), rel=0.05)


def test_too_few_legitimate_rows_make_no_table() -> None:
    """Twenty of them cannot be ranked twentieth and leave anything to count."""
    with pytest.raises(DataInvalid, match="more than 20 legitimate rows, got 20"):
        score_table(np.zeros(20, np.float32), np.full(20, 0.5, np.float32), np.zeros(20, bool))
