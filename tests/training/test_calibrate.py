"""From logits to probabilities and scores, with the evidence."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DataInvalid
from training.calibrate import IDENTITY, SCORES, calibration_line, certify, fit_line, score_table
from training.losses import recover_logit, stationary_bias

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
    truth, labels = drawn(400_000)
    line = calibration_line((truth - 1.0) / 1.5, labels)
    assert line.slope == pytest.approx(1.5, rel=0.05)
    assert line.intercept == pytest.approx(1.0, abs=0.2)


def test_a_line_that_would_not_help_later_is_left_out() -> None:
    """Fitted to a first half that is off one way, it makes a second half worse that is off the other way."""
    truth, labels = drawn(50_000)
    half = len(truth) // 2
    shift = np.where(np.arange(len(truth)) < half, 2.0, -2.0)
    assert calibration_line(truth + shift, labels) == IDENTITY


def test_a_ranking_is_never_turned_around() -> None:
    """Logits that rank the wrong way keep the identity: a falling line would hide a broken network."""
    truth, labels = drawn(50_000)
    assert calibration_line(-truth, labels) == IDENTITY


def test_a_slice_with_one_class_in_a_half_keeps_the_identity() -> None:
    """Nothing can be judged there."""
    labels = np.zeros(100, bool)
    labels[10] = True
    assert calibration_line(np.linspace(-3, 3, 100), labels) == IDENTITY


def test_the_fitted_line_meets_the_likelihood_equations() -> None:
    """Expected frauds equal observed ones, also when weighted by the logit."""
    truth, labels = drawn(20_000)
    line = fit_line(truth * 0.3 + 4, labels)
    off = sigmoid(line.slope * (truth * 0.3 + 4) + line.intercept) - labels
    assert abs(off.mean()) < 1e-9
    assert abs((off * (truth * 0.3 + 4)).mean()) < 1e-9


def test_the_certificate_shows_what_the_closed_form_mends() -> None:
    """At the focal minimiser the raw output is at least ten times further off than the recovered probability."""
    posteriors = np.repeat(np.geomspace(1e-4, 0.3, 30), 4_000)
    labels = np.random.default_rng(7).random(len(posteriors)) < posteriors
    minimiser = np.repeat([stationary_bias(p, gamma=2.0, alpha=0.75) for p in np.geomspace(1e-4, 0.3, 30)], 4_000)
    recovered = recover_logit(torch.from_numpy(minimiser), gamma=2.0, alpha=0.75, beta=1.0).numpy()
    times = np.arange(len(labels), dtype=np.int64)
    found = certify(labels, times, raw=sigmoid(minimiser), recovered=sigmoid(recovered), served=sigmoid(recovered))
    assert found.raw.expected_calibration_error > 10 * found.served.expected_calibration_error
    assert found.raw.brier > found.served.brier
    assert found.raw.log_loss > found.served.log_loss
    assert (found.rows, found.frauds) == (len(labels), int(labels.sum()))


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
