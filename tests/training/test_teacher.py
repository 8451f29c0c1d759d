"""The teacher: what it says, where it splits, and what a network learns from it."""

import numpy as np
import pytest
import torch

from training.calibrators import cross_entropy
from training.config import AllRowsConfig, LossConfig, NetworkConfig, TeacherConfig, UndersampleConfig
from training.metrics import average_precision
from training.network import Codes, Floats, Mask, raw_logits
from training.optimise import Part, Trained, train
from training.teacher import Teacher, learn

NAN = float("nan")
SMALL = TeacherConfig(members=2, rounds=60, learning_rate=0.1, leaves=6, features_shown=1.0, steps=8)
RULE = 220.0
"""Beyond it half of the transactions are fraud, up to it one in a thousand."""


def rows(count: int = 6_000, seed: int = 7) -> tuple[Floats, Codes, Mask]:
    """A feature with a sharp rule that few rows reach, one without meaning and a tenth missing, and a code."""
    draws = np.random.default_rng(seed)
    numeric = np.stack([np.exp(draws.normal(3.5, 1.0, count)), draws.normal(0, 1, count)], axis=1).astype(np.float32)
    numeric[draws.random(count) < 0.1, 1] = NAN
    labels = draws.random(count) < np.where(numeric[:, 0] > RULE, 0.5, 0.001)
    return numeric, draws.integers(-1, 4, (count, 1)), labels


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """One that saw the rows above."""
    return learn(*rows(), SMALL, seed=7, threads=1)


def test_it_says_how_likely_fraud_is_on_either_side_of_the_rule(teacher: Teacher) -> None:
    """Near one in two beyond it and near one in a thousand before it, in later rows; few trees shrink a little."""
    numeric, categorical, _ = rows(seed=8)
    said = 1 / (1 + np.exp(-teacher.log_odds(numeric, categorical)))
    assert 0.3 < said[numeric[:, 0] > RULE].mean() < 0.6
    assert 0.0001 < said[numeric[:, 0] <= RULE].mean() < 0.004


def test_trees_that_end_early_state_the_fraud_rate() -> None:
    """Three rounds bring no sum of trees down to the rate; the line behind them does, on later rows as well."""
    early = learn(*rows(), SMALL.model_copy(update={"rounds": 3}), seed=7, threads=1)
    numeric, categorical, labels = rows(seed=8)
    sums = (early.log_odds(numeric, categorical) - early.line.intercept) / early.line.slope
    assert (1 / (1 + np.exp(-sums))).mean() > 4 * labels.mean()
    assert (1 / (1 + np.exp(-early.log_odds(numeric, categorical)))).mean() == pytest.approx(labels.mean(), rel=0.2)


def test_what_trees_learned_by_heart_is_not_taught() -> None:
    """Labels that nothing explains: large trees know each row, and the teacher says one in ten of all of them."""
    draws = np.random.default_rng(7)
    numeric, codes = draws.normal(0, 1, (4_000, 3)).astype(np.float32), np.zeros((4_000, 0), np.int64)
    large = TeacherConfig(
        members=1, rounds=50, learning_rate=0.3, leaves=64, least_rows=1, least_weight=0.001, penalty=0
    )
    teacher = learn(numeric, codes, draws.random(4_000) < 0.1, large, seed=7, threads=1)
    said = 1 / (1 + np.exp(-teacher.log_odds(numeric, codes)))
    assert said == pytest.approx(np.full(4_000, 0.1), abs=0.05)


@pytest.mark.parametrize("learning_rate", [0.05, 0.2])
def test_trees_end_where_more_of_them_say_nothing_of_other_rows(learning_rate: float) -> None:
    """Where three numbers say a little each: not after a few of 400 trees, nor late, and later rows cost less so."""

    def sloping(seed: int) -> tuple[Floats, Codes, Mask]:
        draws = np.random.default_rng(seed)
        numeric = draws.normal(0, 1, (20_000, 3)).astype(np.float32)
        likely = 1 / (1 + np.exp(5 - numeric @ np.array([1.5, 1.0, 0.5])))
        return numeric, np.zeros((20_000, 0), np.int64), draws.random(20_000) < likely

    later, codes, truth = sloping(8)
    most = SMALL.model_copy(update={"members": 1, "rounds": 400, "learning_rate": learning_rate})
    chosen, cut_off = (
        learn(*sloping(7), most.model_copy(update={"rounds": rounds}), seed=7, threads=1) for rounds in (400, 10)
    )
    assert [member.num_trees() for member in cut_off.members] == [10]
    assert 10 < chosen.members[0].num_trees() < 200
    costs = [cross_entropy(teacher.log_odds(later, codes), truth).mean() for teacher in (chosen, cut_off)]
    assert costs[0] < 0.97 * costs[1]


def test_its_best_step_is_the_rule(teacher: Teacher) -> None:
    """The place with the greatest gain lies between the last value below the rule and the first above it."""
    numeric, _, _ = rows()
    (best,) = teacher.steps(1).place.tolist()
    assert teacher.steps(1).feature.tolist() == [0]
    below, above = numeric[numeric[:, 0] <= RULE, 0].max(), numeric[numeric[:, 0] > RULE, 0].min()
    assert below * 0.9 <= best <= above * 1.1


def test_steps_are_of_numbers_in_order_and_no_more_than_asked_for(teacher: Teacher) -> None:
    """Splits of codes and splits between present and missing are no places; each place is there once."""
    steps = teacher.steps(8)
    places = list(zip(steps.feature.tolist(), steps.place.tolist(), strict=True))
    assert places == sorted(set(places))
    assert 0 < len(places) <= 8
    assert set(steps.feature.tolist()) <= {0, 1}
    assert np.isfinite(steps.place).all()


def test_a_step_splits_the_rows_as_the_trees_do() -> None:
    """In float32 a value is above the step exactly where it is above the trees' own place in float64."""
    above = np.nextafter(np.float32(0.1), np.float32(1))
    numeric = np.repeat(np.array([0.1, above], np.float32), 400)[:, np.newaxis]
    labels = np.repeat([False, True], 400)
    found = learn(numeric, np.zeros((800, 0), np.int64), labels, SMALL, seed=7, threads=1).steps(1)
    assert ((numeric[:, 0] > found.place[0]) == labels).all()


def test_the_same_seed_gives_the_same_teacher_however_many_threads() -> None:
    """Twice the same answers to the last bit; another seed answers otherwise."""
    numeric, categorical, labels = rows(2_000)
    first, again, other = (
        learn(numeric, categorical, labels, SMALL, seed=seed, threads=threads).log_odds(numeric, categorical)
        for seed, threads in ((7, 1), (7, 2), (8, 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def taught(teacher: TeacherConfig | None, *, kept: float = 1.0, seed: int = 7) -> Trained:
    """A small network over the rows above."""
    network = NetworkConfig(width=16, depth=1, batch=256, epochs=8, average_decay=0.9, dropout=0.0)
    sampler = AllRowsConfig() if kept == 1.0 else UndersampleConfig(legitimate_kept=kept)
    return train(
        Part(*rows()), None, network, LossConfig(), sampler,
        teacher_config=teacher, seed=seed, threads=1, entity_features=[slice(0, 1)], tick=lambda: None,
    )  # fmt: skip


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_a_taught_network_says_what_its_teacher_says(kept: float, teacher: Teacher) -> None:
    """On later rows, whatever share of the legitimate rows it saw: probabilities add up alike, and it ranks as well."""
    numeric, categorical, labels = rows(seed=8)
    result = taught(SMALL, kept=kept)
    raw = torch.from_numpy(raw_logits(result.network, numeric, categorical))
    said = torch.sigmoid(result.correction(raw)).numpy()
    by_teacher = teacher.log_odds(numeric, categorical)
    assert said.sum() == pytest.approx((1 / (1 + np.exp(-by_teacher))).sum(), rel=0.15)
    assert average_precision(labels, said) > average_precision(labels, by_teacher) - 0.05


def test_a_taught_network_repeats_itself_to_the_last_bit() -> None:
    """Seed and threads decide; so does whether there is a teacher."""
    first, again, untaught = (
        [tensor.numpy().tobytes() for tensor in result.network.state_dict().values()]
        for result in (taught(SMALL), taught(SMALL), taught(None))
    )
    assert first == again
    assert first != untaught


def test_a_schedule_can_be_left_early() -> None:
    """Stopped after three epochs, it is where the whole schedule was after three: another place than one of three."""
    network = NetworkConfig(width=8, depth=1, batch=256, epochs=8, average_decay=0.9)
    counted = []

    def run(config: NetworkConfig, stop_after: int | None) -> Trained:
        return train(
            Part(*rows(2_000)), None, config, LossConfig(), AllRowsConfig(),
            stop_after=stop_after, seed=7, threads=1, entity_features=[], tick=lambda: counted.append(1),
        )  # fmt: skip

    left, short = run(network, 3), run(network.model_copy(update={"epochs": 3}), None)
    assert len(counted) == 6
    numeric, categorical, _ = rows(2_000)
    one, other = (raw_logits(result.network, numeric, categorical) for result in (left, short))
    assert not np.array_equal(one, other)
