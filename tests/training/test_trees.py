"""Trees in the served graph: they say there what LightGBM says."""

import numpy as np
import pytest
import torch

from service.model import OnnxModel, Provider
from training.config import TeacherConfig
from training.export import to_onnx
from training.network import Architecture, Codes, Floats, FraudNetwork, Mask
from training.served import ServedModel
from training.teacher import Blend, Teacher, learn

NAN = float("nan")
NUMBERS = 3
SETTINGS = TeacherConfig(members=2, rounds=40, leaves=8, least_weight=0.001, penalty=0.1)


def rows(count: int = 4_000, seed: int = 7, *, codes: int = 1) -> tuple[Floats, Codes, Mask]:
    """Amounts that are always there, two numbers that are often not, and codes that say more than a number could."""
    draws = np.random.default_rng(seed)
    numeric = draws.lognormal(3, 1, (count, NUMBERS)).astype(np.float32)
    numeric[draws.random((count, NUMBERS)) < np.array([0, 0.2, 0.6])] = NAN
    categorical = draws.integers(-1, 12, (count, codes))
    odd = np.isin(categorical, [1, 4, 9]).any(axis=1)
    risk = 0.02 + 0.3 * (numeric[:, 0] > 60) + 0.3 * odd + 0.2 * np.isnan(numeric[:, 2])
    return numeric, categorical, draws.random(count) < risk


def graph_of(teacher: Teacher, numeric: Floats, categorical: Codes, share: float) -> tuple[OnnxModel, ServedModel]:
    """A graph of a fresh network beside the teacher, and the same in torch."""
    torch.manual_seed(7)
    network = FraudNetwork.for_data(numeric, categorical, Architecture(width=8), bias=-3.0)
    model = ServedModel(network, gamma=2.0, alpha=None, beta=1.0, blend=Blend(teacher, share)).eval()
    widths = numeric.shape[1], categorical.shape[1]
    return OnnxModel.from_bytes(to_onnx(model, *widths), *widths, provider=Provider.CPU), model


def on_and_beside_each_split(teacher: Teacher, numeric: Floats) -> Floats:
    """The rows, some of whose numbers are those at which the trees split and the next float32 above."""
    changed = numeric.copy()
    steps = teacher.steps(1_000)
    for row, (feature, place) in enumerate(zip(steps.feature, steps.place, strict=True)):
        changed[2 * row, feature] = place
        changed[2 * row + 1, feature] = np.nextafter(place, np.float32(np.inf))
    return changed


@pytest.mark.parametrize("codes", [0, 1, 2])
def test_the_graph_says_what_the_trees_say(codes: int) -> None:
    """For later rows, with known, unknown and missing codes, and numbers on both sides of every split."""
    numeric, categorical, labels = rows(codes=codes)
    teacher = learn(numeric, categorical, labels, SETTINGS, seed=7, threads=1)
    graph, _ = graph_of(teacher, numeric, categorical, share=1.0)
    later, known, _ = rows(seed=8, codes=codes)
    later = on_and_beside_each_split(teacher, later)
    known[::7] += 20
    told = teacher.log_odds(later, known)
    assert told.std() > 0.5
    assert graph.run(later, known)[0] == pytest.approx(told, abs=1e-5)


def test_what_was_never_missing_goes_where_the_trees_send_it() -> None:
    """As when the store cannot be reached: features that every fit row had, hidden all together and one by one."""
    numeric, categorical, labels = rows()
    full = np.nan_to_num(numeric, nan=-5.0)
    teacher = learn(full, categorical, labels, SETTINGS, seed=7, threads=1)
    graph, _ = graph_of(teacher, full, categorical, share=1.0)
    hidden = np.repeat(full[:200], NUMBERS + 1, axis=0)
    for feature in range(NUMBERS):
        hidden[feature :: NUMBERS + 1, feature] = NAN
    hidden[NUMBERS :: NUMBERS + 1] = NAN
    known = np.repeat(categorical[:200], NUMBERS + 1, axis=0)
    assert graph.run(hidden, known)[0] == pytest.approx(teacher.log_odds(hidden, known), abs=1e-5)


def test_trees_that_learned_nothing_can_be_served() -> None:
    """Too few rows to split: a tree is one leaf, and all rows are as likely."""
    numeric, categorical, labels = rows(40)
    teacher = learn(numeric, categorical, labels, TeacherConfig(members=2, least_rows=30), seed=7, threads=1)
    graph, _ = graph_of(teacher, numeric, categorical, share=1.0)
    assert graph.run(numeric, categorical)[1] == pytest.approx(np.full(40, labels.mean()), rel=1e-4)


def test_network_and_trees_share_the_answer() -> None:
    """A third of the log-odds is the trees'; torch says so too, and a row alone gets what it gets among others."""
    numeric, categorical, labels = rows()
    teacher = learn(numeric, categorical, labels, SETTINGS, seed=7, threads=1)
    graph, model = graph_of(teacher, numeric, categorical, share=1 / 3)
    with torch.no_grad():
        inputs = torch.from_numpy(numeric), torch.from_numpy(categorical)
        own = model.corrected(model.network(*inputs)).numpy()
        in_torch = model(*inputs)[0].numpy()
    logit, _ = graph.run(numeric, categorical)
    assert logit == pytest.approx((2 * own + teacher.log_odds(numeric, categorical)) / 3, abs=1e-5)
    assert logit == pytest.approx(in_torch, abs=1e-5)
    assert [graph.run(numeric[row : row + 1], categorical[row : row + 1])[0][0] for row in range(50)] == logit[
        :50
    ].tolist()
