"""The session answers the same for a row whatever else is in its batch, on the provider that was asked for."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.binding import MAX_BOUND_ROWS
from service.bundle import Bundle
from service.errors import BundleInvalid, ProviderUnavailable
from service.model import OnnxModel, Provider, available_providers, thread_counts
from service.settings import SHIPPED_MODELS


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.load(small_bundle)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.load(next(SHIPPED_MODELS.iterdir()))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 13, 16])
def test_a_row_is_scored_alike_in_every_batch(bundle: Bundle, rows: int) -> None:
    """Equal bits, not close ones: retries, replays and batches must agree."""
    model, golden = OnnxModel.load(bundle), bundle.golden
    logit, probability = model.run(golden.numeric[:rows], golden.categorical[:rows])
    assert logit.shape == probability.shape == (rows,)
    assert (logit == golden.logit[:rows]).all()
    assert (probability == golden.probability[:rows]).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 6, 64, 255, MAX_BOUND_ROWS, MAX_BOUND_ROWS + 1, 2 * MAX_BOUND_ROWS + 3])
def test_bindings_and_threads_change_no_bit(shipped: Bundle, rows: int, threads: int) -> None:
    """How a batch reaches the session, and on how many cores it runs, is a matter of speed alone."""
    model, golden = OnnxModel.load(shipped, threads=threads), shipped.golden
    chosen = np.arange(2 * MAX_BOUND_ROWS + 4) % len(golden.logit)
    numeric, categorical = golden.numeric[chosen], golden.categorical[chosen]
    plain = OnnxModel.load(shipped).session.run(
        ("logit", "probability"), {"numeric": numeric, "categorical": categorical}
    )
    bound = model.run(numeric[:rows], categorical[:rows])
    assert [(ours == whole[:rows]).all() for ours, whole in zip(bound, plain, strict=True)] == [True, True]


def test_what_a_run_returned_stays_as_it_was(bundle: Bundle) -> None:
    """The memory that batches share is not the caller's."""
    model, golden = OnnxModel.load(bundle), bundle.golden
    logit, probability = model.run(golden.numeric[:4], golden.categorical[:4])
    model.run(golden.numeric[4:8], golden.categorical[4:8])
    assert (logit == golden.logit[:4]).all()
    assert (probability == golden.probability[:4]).all()


def test_threads_that_run_at_once_do_not_mix_their_rows(shipped: Bundle) -> None:
    """Batches share memory, so one waits for another."""
    model, golden = OnnxModel.load(shipped), shipped.golden
    parts = [slice(first, first + 7) for first in range(0, 240, 7)] * 20
    with ThreadPoolExecutor(4) as pool:
        logits = pool.map(lambda part: model.run(golden.numeric[part], golden.categorical[part])[0], parts)
    expected, _ = model.run(golden.numeric, golden.categorical)
    assert all((logit == expected[part]).all() for part, logit in zip(parts, logits, strict=True))


def test_numbers_of_another_kind_are_refused(bundle: Bundle) -> None:
    """Float64 would be rounded without a word, and one row of codes would serve for all."""
    model, golden = OnnxModel.load(bundle), bundle.golden
    with pytest.raises(TypeError, match="Cannot cast"):
        model.run(golden.numeric.astype(np.float64), golden.categorical)
    with pytest.raises(AssertionError, match="1 rows of codes for 16 rows of numbers"):
        model.run(golden.numeric, golden.categorical[:1])


def test_a_number_of_threads_that_is_given_is_not_measured(bundle: Bundle) -> None:
    """What the operator says wins, even where it is slower."""

    def clock() -> float:
        pytest.fail("measured")

    assert OnnxModel.load(bundle, threads=2, clock=clock).threads == 2


@pytest.mark.parametrize(
    ("half_s", "twice_s", "expected"), [(1.5, 1.0, thread_counts()[-1]), (1.4, 1.0, 1), (1.0, 1.5, 1)]
)
def test_threads_are_added_while_twice_as_many_are_half_as_fast_again(
    bundle: Bundle, half_s: float, twice_s: float, expected: int
) -> None:
    """On a single core nothing is tried; a gain smaller than that is left to the other cores."""
    model = OnnxModel.load(bundle, threads=None, clock=_taking(half_s, twice_s).__next__)
    assert model.threads == expected
    logit, probability = model.run(bundle.golden.numeric, bundle.golden.categorical)
    assert (logit == bundle.golden.logit).all()
    assert (probability == bundle.golden.probability).all()


def test_auto_takes_what_is_there_and_says_which(bundle: Bundle) -> None:
    """Without an accelerator that is the CPU."""
    expected = Provider.CUDA if Provider.CUDA in available_providers() else Provider.CPU
    assert OnnxModel.load(bundle, provider=Provider.AUTO).provider is expected


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_a_provider_asked_for_by_name_is_there_or_the_start_fails(bundle: Bundle, provider: Provider) -> None:
    """Nobody finds out from the bill that the GPU was never used."""
    if provider in available_providers():
        assert OnnxModel.load(bundle, provider=provider).provider is provider
    else:
        with pytest.raises(ProviderUnavailable, match=rf"{provider} was asked for.*cpu"):
            OnnxModel.load(bundle, provider=provider)


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_a_provider_that_does_not_open_is_refused_with_what_runs_instead(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    """An installation may have the provider, and the machine none of its libraries."""
    if provider in available_providers():
        pytest.skip(f"{provider} is here")
    monkeypatch.setattr("service.model.available_providers", lambda: (provider, Provider.CPU))
    expected = f"provider {provider} was asked for, but its libraries could not be loaded; onnxruntime runs on CPU"
    with (
        pytest.warns(UserWarning, match="is not in available provider names"),
        pytest.raises(ProviderUnavailable, match=expected),
    ):
        OnnxModel.load(bundle, provider=provider)


def test_auto_gives_up_a_provider_that_does_not_open(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same image starts on machines with and without a GPU."""
    if Provider.CUDA in available_providers():
        pytest.skip("cuda is here")
    monkeypatch.setattr("service.model.available_providers", lambda: (Provider.CUDA, Provider.CPU))
    with pytest.warns(UserWarning, match="is not in available provider names"):
        assert OnnxModel.load(bundle, provider=Provider.AUTO).provider is Provider.CPU


def test_a_graph_that_is_none_is_refused() -> None:
    """Whatever onnxruntime raises for it."""
    with pytest.raises(BundleInvalid, match="onnxruntime refuses the graph"):
        OnnxModel.from_bytes(b"not a graph", 1, 1, provider=Provider.CPU)


@pytest.mark.parametrize(("wider", "more_codes"), [(1, 0), (0, 1)])
def test_a_graph_with_other_inputs_is_refused(bundle: Bundle, wider: int, more_codes: int) -> None:
    """A vector that is too short would be read beyond its end."""
    numeric, categorical = len(bundle.manifest.numeric) + wider, len(bundle.manifest.categorical) + more_codes
    with pytest.raises(BundleInvalid, match=r"the graph's inputs are .*, expected"):
        OnnxModel.from_bytes(bundle.onnx, numeric, categorical, provider=Provider.CPU)


def test_scoring_nothing_gives_nothing(bundle: Bundle) -> None:
    """An empty batch is a batch."""
    golden = bundle.golden
    logit, probability = OnnxModel.load(bundle).run(golden.numeric[:0], golden.categorical[:0])
    assert np.concatenate([logit, probability]).size == 0


def _taking(half_s: float, twice_s: float) -> Iterator[float]:
    """A clock under which batches take so long in turns; three rounds are enough for any measurement."""
    readings = [0.0, *3 * [0.0, half_s, 0.0, twice_s], 0.0]
    return itertools.accumulate(itertools.cycle(readings))
