"""The network and its encodings, and that the exported graph computes the same."""

import numpy as np
import pytest
import torch
from torch import Tensor

from service.model import OnnxModel, Provider
from training.export import to_onnx
from training.network import (
    MAX_CODE,
    NO_STEPS,
    RAREST_CODE,
    Architecture,
    CategoricalEncoding,
    Codes,
    Floats,
    FraudNetwork,
    NumericEncoding,
    Steps,
    raw_logits,
)
from training.served import ServedModel, probability_of

NAN = float("nan")


def examples(rows: int = 600) -> tuple[Floats, Codes]:
    """Twelve features of very different size, a tenth missing, and three categorical inputs."""
    draws = np.random.default_rng(7)
    numeric = (np.exp(draws.normal(0, 2, (rows, 12))) * np.geomspace(1e-3, 1e6, 12)).astype(np.float32)
    numeric[:, 3] *= -1
    numeric[draws.random((rows, 12)) < 0.1] = NAN
    categorical = np.stack(
        [draws.integers(-1, 5, rows), draws.choice([4829, 5411, 5999, 7995], rows), draws.integers(0, 677, rows)],
        axis=1,
    )
    return numeric, categorical


def fresh(*, bins: int = 0, steps: Steps = NO_STEPS) -> tuple[ServedModel, Floats, Codes]:
    """A model with weights as large as fitted ones, with the rows its encodings were fitted to."""
    numeric, categorical = examples()
    torch.manual_seed(7)
    network = FraudNetwork.for_data(numeric, categorical, Architecture(width=64, bins=bins), bias=-3.0, steps=steps)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(torch.randn_like(weights) * 0.05)
    return ServedModel(network, gamma=2.0, alpha=0.75, beta=0.2, slope=0.9, intercept=-0.3).eval(), numeric, categorical


def numeric_of(rows: list[list[float]], fitted_to: list[list[float]], *, bins: int = 0) -> Tensor:
    """Rows through an encoding fitted to other rows."""
    encoding = NumericEncoding.for_data(np.array(fitted_to, np.float32), bins=bins)
    encoded: Tensor = encoding(torch.tensor(rows))
    return encoded


def test_present_values_are_standardised_in_their_signed_logarithm() -> None:
    """Over the fitted rows the encoded feature has mean 0 and deviation 1, whatever its unit."""
    values = np.exp(np.random.default_rng(7).normal(9, 2, 1000)).astype(np.float32)[:, np.newaxis]
    encoded = NumericEncoding.for_data(values, bins=0)(torch.from_numpy(values))[:, 0]
    assert float(encoded.mean()) == pytest.approx(0, abs=1e-4)
    assert float(encoded.std(unbiased=False)) == pytest.approx(1, abs=1e-3)


def test_a_missing_value_is_the_mean_with_a_raised_flag() -> None:
    """Missing encodes as 0 and flag 1, present with flag 0; the other feature does not notice."""
    encoded = numeric_of([[NAN, 3.0], [1.0, 3.0]], [[0.0, 1.0], [4.0, 5.0]])
    assert encoded[0].tolist()[0] == 0
    assert encoded[:, 2].tolist() == [1, 0]
    assert encoded[0, 1] == encoded[1, 1]
    assert encoded[:, 3].tolist() == [0, 0]


@pytest.mark.parametrize("bins", [0, 4])
def test_features_without_any_value_or_any_variation_stay_finite(bins: int) -> None:
    """A feature that is always missing, or always the same, breaks nothing; nor does the largest amount."""
    encoded = numeric_of([[NAN, 7.0], [1e12, -1e12]], [[NAN, 7.0], [NAN, 7.0]], bins=bins)
    assert bool(torch.isfinite(encoded).all())


def test_quantile_bins_say_how_far_a_value_lies_in_each_of_them() -> None:
    """Below a bin 0, above it 1, inside linear: the sum is the position among the quantiles, in bins."""
    fitted = [[float(np.expm1(step))] for step in np.linspace(0, 4, 401)]
    encoded = numeric_of([[0.0], [float(np.expm1(2.5))], [1e6]], fitted, bins=4)
    positions = encoded[:, 2:].sum(dim=1)
    assert positions.tolist() == pytest.approx([0, 2.5, 4], abs=1e-3)


def test_a_step_tells_apart_what_lies_on_its_two_sides() -> None:
    """Behind the other encodings, in the order given: 1 above the place, 0 at it, below it and where nothing is."""
    numeric = np.array([[1.0, 5.0], [2.0, 5.0], [2.5, NAN]], np.float32)
    steps = Steps(np.array([0, 1, 0]), np.array([2.0, 4.0, 1.5], np.float32))
    encoding = NumericEncoding.for_data(numeric, bins=0, steps=steps)
    encoded = encoding(torch.from_numpy(numeric))
    assert encoded.shape == (3, encoding.width)
    assert encoded[:, -3:].tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 1]]


def test_a_code_never_seen_and_a_missing_one_have_vectors_of_their_own() -> None:
    """Known, unseen (beyond or between the known ones) and missing are three different things."""
    codes = np.repeat([[2], [5]], RAREST_CODE, axis=0)
    encoding = CategoricalEncoding.for_data(codes, width=3)
    known, other, between, beyond, missing, lower = encoding(torch.tensor([[2], [5], [3], [9_999], [-1], [-7]]))
    assert not torch.equal(known, other)
    assert torch.equal(between, beyond)
    assert torch.equal(missing, lower)
    assert not torch.equal(missing, beyond)
    assert not torch.equal(known, beyond)


def test_inputs_do_not_share_vectors() -> None:
    """The same code in two inputs means two things."""
    encoding = CategoricalEncoding.for_data(np.full((RAREST_CODE, 2), 4), width=3)
    first, second = encoding(torch.tensor([[4, 4]]))[0].split(3)
    assert not torch.equal(first, second)


def test_a_rare_code_is_trained_as_unseen() -> None:
    """One occurrence fewer than needed and it shares the vector of codes that never occurred."""
    rare, frequent = np.full((RAREST_CODE - 1, 1), 3), np.full((RAREST_CODE, 1), 8)
    encoding = CategoricalEncoding.for_data(np.concatenate([rare, frequent]), width=3)
    three, eight, unseen = encoding(torch.tensor([[3], [8], [4]]))
    assert torch.equal(three, unseen)
    assert not torch.equal(eight, unseen)


def test_a_hash_is_refused_as_a_categorical_code() -> None:
    """A vocabulary is a dense table; what does not fit is named."""
    with pytest.raises(ValueError, match=f"at most {MAX_CODE}, got {MAX_CODE + 1}"):
        CategoricalEncoding.for_data(np.array([[MAX_CODE + 1]]), width=2)


def test_the_network_begins_near_its_bias() -> None:
    """Before any step every row's logit is close to the class prior's."""
    numeric, categorical = examples()
    torch.manual_seed(7)
    network = FraudNetwork.for_data(numeric, categorical, Architecture(), bias=-2.94).eval()
    logits = raw_logits(network, numeric, categorical)
    assert np.abs(logits + 2.94).max() < 0.5


def test_calibration_leaves_the_ranking_as_it_is() -> None:
    """Probabilities order rows as the network's own logits do."""
    model, numeric, categorical = fresh()
    raw = raw_logits(model.network, numeric, categorical)
    with torch.no_grad():
        logit, probability = model(torch.from_numpy(numeric), torch.from_numpy(categorical))
    order = np.argsort(raw, kind="stable")
    assert (np.diff(logit.numpy()[order]) >= 0).all()
    assert (np.diff(probability.numpy()[order]) >= 0).all()


def test_a_calibration_that_turns_the_ranking_around_is_a_programming_error() -> None:
    """The slope of the line in log-odds is positive."""
    model, _, _ = fresh()
    with pytest.raises(AssertionError, match="must keep the ranking"):
        ServedModel(model.network, gamma=2.0, alpha=None, beta=1.0, slope=-1.0)


def test_small_probabilities_keep_their_relative_accuracy() -> None:
    """One in a million is one in a million to five digits, and no logit overflows."""
    logits = torch.linspace(-80, 80, 1601)
    exact = 1 / (1 + torch.exp(-logits.double()))
    assert torch.allclose(probability_of(logits).double(), exact, rtol=2e-5, atol=0)
    assert probability_of(torch.tensor([-1e30, 1e30])).isfinite().all()


@pytest.mark.parametrize("bins", [0, 8])
@pytest.mark.parametrize("steps", [NO_STEPS, Steps(np.array([0, 5, 5, 11]), np.array([1e-3, 7, 9, 1e6], np.float32))])
def test_the_exported_graph_computes_what_torch_computes(bins: int, steps: Steps) -> None:
    """Within 1e-5 in logit and probability, for every batch size, with missing values, missing and unseen codes."""
    model, numeric, categorical = fresh(bins=bins, steps=steps)
    numeric[0], categorical[1], categorical[2] = NAN, -1, 60_000
    graph = OnnxModel.from_bytes(to_onnx(model, 12, 3), 12, 3, provider=Provider.CPU)
    with torch.no_grad():
        expected = [out.numpy() for out in model(torch.from_numpy(numeric), torch.from_numpy(categorical))]
    for rows in (1, 2, 3, 7, 64, len(numeric)):
        logit, probability = graph.run(numeric[:rows], categorical[:rows])
        assert np.abs(logit - expected[0][:rows]).max() <= 1e-5
        assert np.abs(probability - expected[1][:rows]).max() <= 1e-5


def test_the_exported_graph_is_small_and_tells_nothing_of_the_machine_it_was_made_on() -> None:
    """Far below two megabytes, without paths, and equal weights give equal bytes."""
    first, second = (to_onnx(fresh()[0], 12, 3) for _ in range(2))
    assert len(first) < 2_000_000
    assert b".py" not in first
    assert first == second
