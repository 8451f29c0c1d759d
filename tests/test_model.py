"""The session answers the same for a row whatever else is in its batch, on the provider that was asked for."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle
from service.errors import ProviderUnavailable
from service.model import OnnxModel, Provider, available_providers


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.load(small_bundle)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 13, 16])
def test_a_row_is_scored_alike_in_every_batch(bundle: Bundle, rows: int) -> None:
    """Equal bits, not close ones: retries, replays and batches must agree."""
    model, golden = OnnxModel.load(bundle), bundle.golden
    logit, probability = model.run(golden.numeric[:rows], golden.categorical[:rows])
    assert logit.shape == probability.shape == (rows,)
    assert (logit == golden.logit[:rows]).all()
    assert (probability == golden.probability[:rows]).all()


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


def test_scoring_nothing_gives_nothing(bundle: Bundle) -> None:
    """An empty batch is a batch."""
    golden = bundle.golden
    logit, probability = OnnxModel.load(bundle).run(golden.numeric[:0], golden.categorical[:0])
    assert np.concatenate([logit, probability]).size == 0
