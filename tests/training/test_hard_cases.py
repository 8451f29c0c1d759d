"""Hard cases: the reference that names them, which frauds they are, and how many a score catches."""

import numpy as np
import pytest

from service.errors import DataInvalid
from training import hard_cases
from training.hard_cases import hard_frauds, hard_recall, reference_scores
from training.metrics import recall_at_fpr
from training.network import RAREST_CODE, Codes, Floats
from training.optimise import Part

LABELS = np.array([1, 0, 1, 1, 0, 1, 1, 0])


def drawn(rows: int = 20_000, seed: int = 7) -> tuple[Part, Floats]:
    """A part whose log-odds of fraud are a straight line in what the reference sees, and those log-odds."""
    draws = np.random.default_rng(seed)
    numeric = (np.exp(draws.normal(0, 1, (rows, 3))) - 1).astype(np.float32)
    numeric[draws.random(rows) < 0.2, 1] = np.nan
    categorical = draws.integers(-1, 3, (rows, 1))
    signed_log = np.sign(numeric) * np.log1p(np.abs(numeric))
    log_odds = signed_log[:, 0] + np.where(np.isnan(numeric[:, 1]), 1.0, 0.7 * signed_log[:, 1])
    log_odds = log_odds + 1.5 * (categorical[:, 0] == -1) - (categorical[:, 0] == 2) - 3
    return Part(numeric, categorical, draws.random(rows) < 1 / (1 + np.exp(-log_odds))), log_odds.astype(np.float32)


def test_the_reference_finds_the_log_odds_where_they_are_a_straight_line() -> None:
    """On later rows it says what the rows were drawn from, codes and missing values included."""
    fit, _ = drawn()
    later, log_odds = drawn(seed=8)
    found = reference_scores(fit, later.numeric, later.categorical)
    assert np.sqrt(np.mean((found - log_odds) ** 2)) < 0.15


def test_the_reference_is_fitted_at_the_prevalence_of_the_fit_rows() -> None:
    """Its probabilities of the fit rows add up to their frauds: the intercept has no ridge."""
    fit, _ = drawn()
    probabilities = 1 / (1 + np.exp(-reference_scores(fit, fit.numeric, fit.categorical)))
    assert probabilities.sum() == pytest.approx(fit.labels.sum(), rel=1e-4)


def test_a_part_of_the_legitimate_rows_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the legitimate rows, weighed, the scores stay the log-odds among all rows."""
    fit, _ = drawn()
    whole = reference_scores(fit, fit.numeric, fit.categorical)
    monkeypatch.setattr(hard_cases, "LEGITIMATE_ROWS", 2_000)
    part = reference_scores(fit, fit.numeric, fit.categorical)
    assert np.any(part != whole)
    assert np.mean(part - whole) == pytest.approx(0, abs=0.15)
    assert np.corrcoef(part, whole)[0, 1] > 0.98


def test_a_code_that_was_hardly_seen_says_nothing() -> None:
    """A code seen less often than a network would learn from scores as one that was never seen."""
    fit, _ = drawn(4_000)
    rare, often = fit.categorical.copy(), fit.categorical.copy()
    rare[: RAREST_CODE - 1] = 7
    often[:RAREST_CODE] = 7

    def of(seen: Codes, code: int) -> float:
        part = Part(fit.numeric, seen, fit.labels)
        return float(reference_scores(part, fit.numeric[:1], np.array([[code]]))[0])

    assert of(rare, 7) == of(rare, 60_000)
    assert of(often, 7) != of(often, 60_000)


def test_the_reference_needs_no_categories() -> None:
    """Data without a single code have a reference all the same."""
    fit, log_odds = drawn(4_000)
    none = np.zeros((len(fit.labels), 0), np.int64)
    found = reference_scores(Part(fit.numeric, none, fit.labels), fit.numeric, none)
    assert np.corrcoef(found, log_odds)[0, 1] > 0.7


@pytest.mark.parametrize("fraud", [True, False])
def test_the_reference_needs_both_classes(fraud: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Rows of one class have nothing to tell apart."""
    fit, _ = drawn(100)
    with pytest.raises(DataInvalid, match="both classes"):
        reference_scores(Part(fit.numeric, fit.categorical, np.full(100, fraud)), fit.numeric, fit.categorical)


@pytest.mark.parametrize(
    ("of_frauds", "hard"),
    [
        ([5.0, 1.0, 4.0, 2.0, 3.0], [False, True, False, True, True]),  # of five the three lowest
        ([5.0, 1.0, 3.0, 3.0, 3.0], [False, True, True, True, True]),  # the third lowest has two equals
        ([3.0, 3.0, 3.0, 3.0, 3.0], [True, True, True, True, True]),
    ],
)
def test_the_lower_half_of_the_frauds_is_hard(of_frauds: list[float], hard: list[bool]) -> None:
    """The larger half of an odd number, equals of its last included, whatever the legitimate rows score."""
    scores = np.full(len(LABELS), -9.0)
    scores[LABELS == 1] = of_frauds
    found = hard_frauds(scores, LABELS)
    assert found[LABELS == 1].tolist() == hard
    assert not found[LABELS == 0].any()


def test_which_frauds_are_hard_does_not_depend_on_the_order_of_the_rows() -> None:
    """Shuffled rows with many ties have the same hard frauds."""
    draws = np.random.default_rng(3)
    scores, labels = draws.integers(0, 6, 500).astype(np.float64), draws.random(500) < 0.3
    order = draws.permutation(500)
    assert hard_frauds(scores, labels)[order].tolist() == hard_frauds(scores[order], labels[order]).tolist()


def test_without_frauds_none_is_hard() -> None:
    """There is no half of nothing."""
    with pytest.raises(DataInvalid, match="half of the frauds"):
        hard_frauds(np.zeros(3), np.zeros(3))


def test_a_hard_fraud_is_caught_at_the_threshold_of_all_rows() -> None:
    """At most one of three legitimate rows may be flagged, so the threshold is 3: of two hard frauds one is caught."""
    scores = np.array([9.0, 2.0, 3.0, 1.0, 4.0, 8.0, 7.0, 0.0])
    hard = np.array([False, False, True, True, False, False, False, False])
    assert hard_recall(LABELS, scores, hard, 1 / 3) == 0.5
    assert hard_recall(LABELS, scores, hard, 0.0) == 0.0


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.05, 1.0])
def test_hard_and_other_frauds_make_up_the_recall(fpr: float) -> None:
    """The recall of all frauds is that of the hard ones and that of the others, each by its number."""
    draws = np.random.default_rng(5)
    labels = draws.random(2_000) < 0.1
    scores = draws.normal(0, 1, 2_000) + labels
    hard = hard_frauds(draws.normal(0, 1, 2_000), labels)
    parts = [hard_recall(labels, scores, mask, fpr) * mask.sum() for mask in (hard, labels & ~hard)]
    assert sum(parts) / labels.sum() == pytest.approx(recall_at_fpr(labels, scores, fpr))
