"""The certificate: what it measures, of which rows, and how sure it is."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from service.features.entry import CHANNELS
from service.features.plan import Plan, compile_plan
from service.features.spec import parse_spec
from training.calibrators import CURVES, LINES, log_odds_of, probability_of
from training.certificate import (
    FEWEST_FRAUDS,
    FEWEST_LEGITIMATE,
    Answers,
    Compared,
    certify,
    certify_degraded,
    certify_segments,
    compare_calibrators,
)
from training.examples import Examples
from training.losses import recover_logit, stationary_bias
from training.metrics import average_precision, brier, expected_calibration_error, recall_at_fpr

CONFIGS = Path(__file__).parent.parent.parent / "training" / "configs"
Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
ROWS = 30_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The shipped features: four entities, a channel."""
    return compile_plan(parse_spec(yaml.safe_load((CONFIGS / "features.yaml").read_bytes())))


@pytest.fixture(scope="module")
def examples(plan: Plan) -> Examples:
    """Random vectors of three channels and of cards, some new; no row names a terminal or comes by mail order."""
    draws = np.random.default_rng(7)
    numeric = draws.normal(size=(ROWS, len(plan.numeric))).astype(np.float32)
    numeric[:, plan.numeric.index("card_known")] = draws.random(ROWS) < 0.7
    numeric[:, plan.numeric.index("merchant_known")] = 1
    numeric[:, plan.entity_features[plan.entities.index("terminal")]] = np.nan
    categorical = np.full((ROWS, len(plan.categorical)), -1)
    categorical[:, plan.categorical.index("channel")] = draws.integers(-1, 2, ROWS)
    return Examples(
        numeric=numeric,
        categorical=categorical,
        labels=draws.random(ROWS) < probability_of(logits(numeric, categorical)),
        reported_at_ms=np.full(ROWS, -1),
        event_time_ms=np.arange(ROWS),
        amount_minor=(10 ** draws.uniform(0, 5.5, ROWS)).astype(np.int64),
        card=np.zeros(ROWS, np.int64),
        typology=np.zeros(ROWS, np.int32),
    )


def logits(numeric: Floats, _: Codes) -> Reals:
    """A model that adds up the first three features of every row; a missing one counts 0."""
    total: Reals = np.nan_to_num(numeric[:, :3]).sum(axis=1).astype(np.float64) - 4
    return total


def score(numeric: Floats, categorical: Codes) -> tuple[Floats, Floats]:
    """The same as the exported graph would say it."""
    logit = logits(numeric, categorical)
    return logit.astype(np.float32), probability_of(logit).astype(np.float32)


@pytest.fixture(scope="module")
def answers(examples: Examples) -> Answers:
    return Answers(examples.labels, *score(examples.numeric, examples.categorical))


def test_the_certificate_shows_what_the_closed_form_mends() -> None:
    """At the focal minimiser the raw output is at least ten times further off than the recovered probability."""
    posteriors = np.repeat(np.geomspace(1e-4, 0.3, 30), 4_000)
    labels = np.random.default_rng(7).random(len(posteriors)) < posteriors
    minimiser = np.repeat([stationary_bias(p, gamma=2.0, alpha=0.75) for p in np.geomspace(1e-4, 0.3, 30)], 4_000)
    recovered = recover_logit(torch.from_numpy(minimiser), gamma=2.0, alpha=0.75, beta=1.0).numpy()
    times = np.arange(len(labels), dtype=np.int64)
    raw, served = probability_of(minimiser), probability_of(recovered)
    found = certify(labels, times, raw=raw, recovered=served, served=served)
    assert found.raw.expected_calibration_error > 10 * found.served.expected_calibration_error
    assert found.raw.brier > found.served.brier
    assert found.raw.log_loss > found.served.log_loss
    assert (found.rows, found.frauds) == (len(labels), int(labels.sum()))


def test_segments_are_cut_by_what_the_features_say(answers: Answers, plan: Plan, examples: Examples) -> None:
    """Every channel, amount and card that occurs has its row, and what nobody names has none."""
    rows = np.arange(ROWS)
    found = certify_segments(answers, plan, examples, rows, currency="EUR", seed=1)
    assert [(part.by, part.name) for part in found] == [
        ("channel", "ecommerce"),
        ("channel", "pos"),
        ("channel", "not stated"),
        ("amount", "below 1 EUR"),
        ("amount", "1–10 EUR"),
        ("amount", "10–100 EUR"),
        ("amount", "100–1,000 EUR"),
        ("amount", "1,000–10,000 EUR"),
        ("card", "new"),
        ("card", "known"),
        ("merchant", "known"),
    ]
    for by in ("channel", "amount", "card", "merchant"):
        assert sum(part.rows for part in found if part.by == by) == ROWS
        assert sum(part.frauds for part in found if part.by == by) == examples.labels.sum()
        expected = sum(part.expected_frauds for part in found if part.by == by)
        assert expected == pytest.approx(answers.probability.sum(dtype=np.float64))


def test_a_segment_is_measured_on_its_own_rows(answers: Answers, plan: Plan, examples: Examples) -> None:
    """Each figure of a channel is what the metric says about that channel alone."""
    rows = np.arange(ROWS)
    found = certify_segments(answers, plan, examples, rows, currency="EUR", seed=1)[1]
    inside = examples.categorical[:, plan.categorical.index("channel")] == CHANNELS["pos"]
    labels, logit = examples.labels[inside], answers.logit[inside]
    stated = answers.probability[inside].astype(np.float64)
    assert (found.name, found.rows) == ("pos", inside.sum())
    assert found.figures is not None
    assert found.figures.average_precision == average_precision(labels, logit)
    assert found.figures.recall_at_fpr_0_001 == recall_at_fpr(labels, logit, 0.001)
    assert found.figures.recall_at_fpr_0_005 == recall_at_fpr(labels, logit, 0.005)
    assert found.figures.expected_calibration_error == expected_calibration_error(labels, stated)
    assert found.figures.brier == brier(labels, stated)


@pytest.mark.parametrize(
    ("frauds", "legitimate", "certified"),
    [
        (FEWEST_FRAUDS, FEWEST_LEGITIMATE, True),
        (FEWEST_FRAUDS - 1, FEWEST_LEGITIMATE, False),
        (FEWEST_FRAUDS, FEWEST_LEGITIMATE - 1, False),
        (0, FEWEST_LEGITIMATE, False),
    ],
)
def test_a_segment_with_few_rows_of_a_class_has_counts_and_nothing_else(
    plan: Plan, examples: Examples, frauds: int, legitimate: int, *, certified: bool
) -> None:
    """One more or less of them would change every figure, so none is given."""
    chosen = np.concatenate([np.flatnonzero(examples.labels)[:frauds], np.flatnonzero(~examples.labels)[:legitimate]])
    answers = Answers(examples.labels[chosen], *score(examples.numeric[chosen], examples.categorical[chosen]))
    merchant = certify_segments(answers, plan, examples, chosen, currency="EUR", seed=1)[-1]
    assert (merchant.by, merchant.rows, merchant.frauds) == ("merchant", frauds + legitimate, frauds)
    assert (merchant.figures is not None) == certified


def test_each_outage_hides_its_entities_and_no_others(plan: Plan, examples: Examples) -> None:
    """The graph sees NaN in the features of what is missing, and everything else as it was."""
    seen: list[list[bool]] = []

    def watched(numeric: Floats, categorical: Codes) -> tuple[Floats, Floats]:
        seen.append([bool(np.isnan(column).all()) for column in numeric.T])
        assert (np.isnan(numeric) | (numeric == filled)).all()
        return score(numeric, categorical)

    filled = np.nan_to_num(examples.numeric)
    found = certify_degraded(examples.labels, plan, filled, examples.categorical, score=watched, seed=1)
    modes = [mode.without for mode in found]
    assert modes == [
        (),
        ("card",),
        ("merchant",),
        ("terminal",),
        ("device",),
        ("merchant", "terminal"),
        ("card", "merchant", "terminal", "device"),
    ]
    for without, hidden in zip(modes, seen, strict=True):
        expected = np.zeros(len(plan.numeric), bool)
        for entity in without:
            expected[plan.entity_features[plan.entities.index(entity)]] = True
        assert hidden == expected.tolist()


def test_a_model_that_lives_on_a_card_s_history_is_worse_without_it(plan: Plan, examples: Examples) -> None:
    """Without the features it ranks by it has nothing; without others nothing changes, not even the chance."""
    found = {
        mode.without: mode.figures
        for mode in certify_degraded(examples.labels, plan, examples.numeric, examples.categorical, score=score, seed=1)
    }
    whole, without_cards = found[()], found["card",]
    assert without_cards.average_precision == pytest.approx(examples.labels.mean())
    assert without_cards.average_precision < whole.average_precision / 2
    assert without_cards.brier > whole.brier
    assert found["device",] == whole


def test_the_error_of_chance_is_what_right_probabilities_show(plan: Plan, examples: Examples) -> None:
    """Here labels were drawn from the probabilities, so the error is near it, and far above it once they are wrong."""
    rows = np.arange(ROWS)
    logit, probability = score(examples.numeric, examples.categorical)

    def merchant(stated: Floats) -> tuple[float, float]:
        found = certify_segments(Answers(examples.labels, logit, stated), plan, examples, rows, currency="EUR", seed=1)[
            -1
        ].figures
        assert found is not None
        return found.expected_calibration_error, found.error_by_chance

    error, by_chance = merchant(probability)
    assert error == pytest.approx(by_chance, rel=0.5)
    error, by_chance = merchant(probability * np.float32(2 / 3))
    assert error > 3 * by_chance


def drawn(rows: int, seed: int) -> tuple[Reals, Mask]:
    """Log-odds whose odds are half the truth's, and labels."""
    draws = np.random.default_rng(seed)
    truth = draws.normal(-5, 2, rows)
    return truth - np.log(2), draws.random(rows) < probability_of(truth)


def test_every_calibrator_is_measured_on_the_later_rows() -> None:
    """Lines and what moves no row past another keep the ranking; stairs lose some; a wrong rate is mended."""
    fit, test = drawn(30_000, 1), drawn(30_000, 2)
    found: dict[str, Compared] = {row.method: row for row in compare_calibrators(fit, test, seed=1)}
    assert list(found) == [*LINES, *CURVES]
    assert [row.method for row in found.values() if row.in_graph] == list(LINES)
    ranking = average_precision(test[1], test[0])
    for name in ("none", "temperature", "platt", "beta"):
        assert found[name].average_precision == pytest.approx(ranking, abs=1e-12)
    assert found["isotonic"].average_precision < ranking
    for name in ("platt", "beta", "isotonic", "venn_abers"):
        assert found[name].error.value < found["none"].error.value / 2
        assert found[name].brier.value < found["none"].brier.value
    assert found["none"].error.value == pytest.approx(
        expected_calibration_error(test[1], probability_of(test[0])), rel=1e-9
    )
    assert found["none"].brier.value == pytest.approx(brier(test[1], probability_of(test[0])), rel=1e-9)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """In 60 slices, of a probability wrong by a known amount, the 95 % intervals miss at most a tenth of the time."""
    grid = np.repeat(np.linspace(0.02, 0.4, 20), 100)  # bins of the error are these very values
    truth = 1.5 * grid
    error = float((truth - grid).mean())
    squared = float((truth * (1 - truth) + (truth - grid) ** 2).mean())
    held = []
    for seed in range(60):
        labels = np.random.default_rng(seed).random(len(grid)) < truth
        row = compare_calibrators((np.zeros(2), np.array([True, False])), (log_odds_of(grid), labels), seed)[0]
        assert row.error.low <= row.error.value <= row.error.high
        held.append((row.error.low <= error <= row.error.high, row.brier.low <= squared <= row.brier.high))
    assert np.mean(held, axis=0) == pytest.approx([0.95, 0.95], abs=0.05)
