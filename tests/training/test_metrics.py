"""The figures equal their definitions, written here as loops, and examples worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import DataInvalid
from training import metrics
from training.metrics import Floats

LABELS = np.array([1, 0, 1, 0, 0])
SCORES = np.array([0.9, 0.8, 0.8, 0.3, 0.1])  # one tie, between a fraud and a legitimate transaction

Sample = tuple[NDArray[np.bool_], Floats]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Labels with both classes, and scores in [0, 1] coarse enough that ties are the rule."""
    rows = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=40))
    rows += [(True, draw(st.integers(0, 8))), (False, draw(st.integers(0, 8)))]
    labels, scores = zip(*draw(st.permutations(rows)), strict=True)
    return np.array(labels), np.array(scores) / 8


def test_average_precision_of_the_hand_example() -> None:
    """Precision 1 at the first fraud, 2/3 at the tie that holds the second: the mean is 5/6."""
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(5 / 6)


@given(samples())
def test_average_precision_is_the_mean_precision_at_each_fraud(sample: Sample) -> None:
    """Average precision is the mean, over frauds, of the share of fraud among rows scored at least as high."""
    labels, scores = sample
    precision_at = [np.mean(labels[scores >= score]) for score in scores[labels]]
    assert metrics.average_precision(labels, scores) == pytest.approx(np.mean(precision_at))


def test_roc_auc_of_the_hand_example() -> None:
    """Of six fraud-legitimate pairs five are in order and one is tied: 5.5 / 6."""
    assert metrics.roc_auc(LABELS, SCORES) == pytest.approx(5.5 / 6)


@given(samples())
def test_roc_auc_counts_pairs_in_order(sample: Sample) -> None:
    """ROC AUC is the share of fraud-legitimate pairs in the right order, ties counting half."""
    labels, scores = sample
    pairs = [(f > g) + (f == g) / 2 for f in scores[labels] for g in scores[~labels]]
    assert metrics.roc_auc(labels, scores) == pytest.approx(np.mean(pairs))


def test_precision_recall_curve_of_the_hand_example() -> None:
    """A curve has one point per distinct score, and tied rows are flagged together."""
    curve = metrics.precision_recall_curve(LABELS, SCORES)
    assert curve.threshold.tolist() == [0.9, 0.8, 0.3, 0.1]
    assert curve.precision.tolist() == [1, 2 / 3, 2 / 4, 2 / 5]
    assert curve.recall.tolist() == [0.5, 1, 1, 1]


def test_roc_curve_of_the_hand_example() -> None:
    """The ROC curve starts where nothing is flagged and ends where everything is."""
    curve = metrics.roc_curve(LABELS, SCORES)
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.8, 0.3, 0.1]
    assert curve.false_positive_rate.tolist() == [0, 0, 1 / 3, 2 / 3, 1]
    assert curve.recall.tolist() == [0, 0.5, 1, 1, 1]


@pytest.mark.parametrize(("fpr", "recall"), [(0, 0.5), (0.33, 0.5), (0.34, 1), (1, 1)])
def test_recall_at_fpr_of_the_hand_example(fpr: float, recall: float) -> None:
    """The tie is caught only where its legitimate transaction is affordable."""
    assert metrics.recall_at_fpr(LABELS, SCORES, fpr) == recall


def test_recall_is_zero_when_the_highest_score_is_not_affordable() -> None:
    """Where even the highest score would flag too many, nothing is flagged."""
    assert metrics.recall_at_fpr(np.array([1, 0]), np.array([0.5, 0.5]), 0.1) == 0
    assert metrics.threshold_at_fpr(np.array([1, 0]), np.array([0.5, 0.5]), 0.1) == math.inf


@given(samples(), st.floats(0, 1))
def test_recall_at_fpr_is_the_best_affordable(sample: Sample, fpr: float) -> None:
    """Recall at a false-positive rate is the best of all thresholds that stay within it."""
    labels, scores = sample
    affordable = [t for t in [*scores, math.inf] if np.mean(scores[~labels] >= t) <= fpr]
    assert metrics.recall_at_fpr(labels, scores, fpr) == max(np.mean(scores[labels] >= t) for t in affordable)


def test_calibration_error_of_the_hand_example() -> None:
    """Two bins, off by 0.2 and by 0.25: the mean over rows is 0.225."""
    labels = np.array([0, 0, 1, 0])
    probabilities = np.array([0.1, 0.3, 0.7, 0.8])
    assert metrics.expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(0.225)


@given(samples(), st.integers(1, 6))
def test_calibration_error_is_the_mean_gap_over_equal_mass_bins(sample: Sample, bins: int) -> None:
    """A row falls in the bin that the share of rows strictly below it says; the gaps are averaged over rows."""
    labels, probabilities = sample
    members: dict[int, list[int]] = {}
    for row, probability in enumerate(probabilities):
        members.setdefault(int(np.sum(probabilities < probability)) * bins // len(labels), []).append(row)
    gaps = [abs(np.mean(probabilities[rows]) - np.mean(labels[rows])) * len(rows) for rows in members.values()]
    error = metrics.expected_calibration_error(labels, probabilities, bins)
    assert error == pytest.approx(sum(gaps) / len(labels), abs=1e-12)


def test_bins_hold_equal_numbers_of_rows_when_nothing_is_tied() -> None:
    """Without ties every equal-mass bin holds n / bins rows, ordered by probability."""
    probabilities = np.random.default_rng(1).permutation(100) / 100
    reliability = metrics.reliability_bins(probabilities > 0.5, probabilities, bins=20)
    assert reliability.count.tolist() == [5] * 20
    assert reliability.mean_probability == pytest.approx(np.arange(20) * 0.05 + 0.02)


def test_equal_probabilities_share_a_bin() -> None:
    """One constant probability is one bin, whatever the number of bins."""
    reliability = metrics.reliability_bins(LABELS, np.full(5, 0.4), bins=20)
    assert reliability.count.tolist() == [5]
    assert reliability.fraud_rate.tolist() == [0.4]


def test_brier_of_the_hand_example() -> None:
    """The Brier score is the mean squared error of the probability."""
    assert metrics.brier(np.array([1, 0]), np.array([0.5, 0.2])) == pytest.approx((0.25 + 0.04) / 2)


def test_log_loss_of_the_hand_example() -> None:
    """Log loss is the mean of minus the log of the probability given to what happened."""
    assert metrics.log_loss(np.array([1, 0]), np.array([0.5, 0.2])) == pytest.approx(-(math.log(0.5 * 0.8)) / 2)


def test_log_loss_stays_finite_when_certainty_was_wrong() -> None:
    """A float32 probability of exactly 0 for a fraud costs a lot, not infinitely much."""
    probabilities = np.array([0, 1], np.float32)
    assert metrics.log_loss(np.array([1, 0]), probabilities) == pytest.approx(-math.log(1e-12))


def test_card_precision_of_the_hand_example() -> None:
    """A card counts once a day with its highest score, and not again once it was caught."""
    # Day 0: a 0.9 (its fraud scored 0.1), b 0.8, c 0.7 (fraud): the top two are a, b; a is caught.
    # Day 1: a is known, so the top two are c (fraud) and b: one caught. Day 2: only known cards: none.
    day = np.array([1, 1, 1, 0, 0, 0, 0, 2])
    card = np.array(["a", "c", "b", "a", "a", "b", "c", "a"])
    labels = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    scores = np.array([0.9, 0.3, 0.2, 0.9, 0.1, 0.8, 0.7, 0.9])
    assert metrics.card_precision_at_k(day, card, labels, scores, k=2) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.booleans(), st.integers(0, 5)), min_size=1),
    st.integers(1, 4),
)
def test_card_precision_is_the_handbooks(rows: list[tuple[int, int, bool, int]], k: int) -> None:
    """Card precision equals the Handbook's loop over days: best score per card, top k, the caught ones dropped."""
    caught: set[int] = set()
    precisions = []
    for day in sorted({row[0] for row in rows}):
        today = [row for row in rows if row[0] == day and row[1] not in caught]
        best = {card: max(score for _, other, _, score in today if other == card) for _, card, _, _ in today}
        top = sorted(best, key=lambda card: (-best[card], card))[:k]
        found = [card for card in top if any(fraud for _, other, fraud, _ in today if other == card)]
        caught.update(found)
        precisions.append(len(found) / k)
    days, cards, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    precision = metrics.card_precision_at_k(days, cards, labels, scores, k)
    assert precision == pytest.approx(np.mean(precisions), abs=1e-12)


def test_threshold_sweep_of_the_hand_example() -> None:
    """A sweep counts what declining at or above each probability would have done, in rows and in money."""
    amounts = np.array([100, 50, 300, 20, 10])
    sweep = metrics.threshold_sweep(LABELS, SCORES, amounts, thresholds=(0.1, 0.8, 0.9, 0.95))
    assert sweep.false_positive_rate.tolist() == [1, 1 / 3, 0, 0]
    assert sweep.recall.tolist() == [1, 1, 0.5, 0]
    assert sweep.precision[:3].tolist() == [2 / 5, 2 / 3, 1]
    assert math.isnan(sweep.precision[3])
    assert sweep.declines_per_10_000.tolist() == [10_000, 6_000, 2_000, 0]
    assert sweep.fraud_amount_caught.tolist() == [400, 400, 100, 0]
    assert sweep.value_caught.tolist() == [1, 1, 0.25, 0]


def test_a_sweep_compares_as_decisions_do() -> None:
    """A float32 probability just below a threshold is below it, although it would round to it in float32."""
    probabilities = np.array([0.7, 0.7], np.float32)  # 0.699999988
    sweep = metrics.threshold_sweep(np.array([1, 0]), probabilities, np.array([1, 1]), thresholds=(0.7,))
    assert sweep.recall.tolist() == [0]


def test_wilson_interval_of_published_examples() -> None:
    """The interval agrees with the worked example of Newcombe (1998), table I: 81/263 and 0/20."""
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


@given(samples())
def test_figures_of_ranking_ignore_the_scale(sample: Sample) -> None:
    """A strictly increasing transform of the scores changes no ranking figure."""
    labels, scores = sample
    logits = 7 * scores - 3
    assert metrics.average_precision(labels, logits) == metrics.average_precision(labels, scores)
    assert metrics.roc_auc(labels, logits) == metrics.roc_auc(labels, scores)
    assert metrics.recall_at_fpr(labels, logits, 0.2) == metrics.recall_at_fpr(labels, scores, 0.2)


@pytest.mark.parametrize(
    ("figure", "labels"),
    [
        (metrics.average_precision, [0, 0]),
        (metrics.roc_auc, [0, 0]),
        (metrics.roc_auc, [1, 1]),
        (metrics.expected_calibration_error, []),
        (metrics.brier, []),
        (metrics.log_loss, []),
    ],
)
def test_a_figure_without_its_rows_is_refused(
    figure: Callable[[NDArray[np.int64], Floats], float], labels: list[int]
) -> None:
    """A figure that is undefined on the rows given is an error, not a NaN in a report."""
    with pytest.raises(DataInvalid, match="needs some"):
        figure(np.array(labels, np.int64), np.full(len(labels), 0.5))


def test_recall_by_typology_of_the_hand_example() -> None:
    """Every kind of fraud is judged at one common threshold; unknown kinds and legitimate rows are left out."""
    labels = np.array([1, 1, 1, 1, 0, 0])
    scores = np.array([0.9, 0.7, 0.2, 0.8, 0.5, 0.1])
    kinds = np.array(["cash_out", "testing", "testing", None, "testing", ""], object)
    assert metrics.recall_by_typology(labels, scores, kinds, 0.0) == (
        metrics.TypologyRecall("cash_out", frauds=1, caught=1),
        metrics.TypologyRecall("testing", frauds=2, caught=1),
    )


def test_log_odds_bins_of_the_hand_example() -> None:
    """One bin per decade of odds: 1 to 10 and 2 to 10 against together, 1 to 100 against apart."""
    probabilities = np.array([1 / 101, 0.1, 0.15, 0.9])
    bins = metrics.log_odds_bins(np.array([0, 1, 0, 1]), probabilities, bins_per_decade=1)
    assert bins.count.tolist() == [1, 2, 1]
    assert bins.fraud_rate.tolist() == [0, 0.5, 1]
    assert bins.mean_probability == pytest.approx([1 / 101, 0.125, 0.9])
