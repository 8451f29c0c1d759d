"""The training loop: what it learns, when it stops, and that it repeats itself."""

import math

import numpy as np
import pytest
import torch

from service.errors import DataInvalid
from training import optimise
from training.config import (
    AllRowsConfig,
    Device,
    LossConfig,
    NetworkConfig,
    SamplerConfig,
    SmoteConfig,
    UndersampleConfig,
)
from training.losses import LossName
from training.metrics import average_precision
from training.network import raw_logits
from training.optimise import Part, Trained, settle_device, train

SMALL = NetworkConfig(width=16, depth=1, batch=256, epochs=4, average_decay=0.9)
HALF = UndersampleConfig(legitimate_kept=0.5)
SAMPLERS = (AllRowsConfig(), HALF, UndersampleConfig(legitimate_kept=0.5, drawn="once"), SmoteConfig())
ENTITIES = (slice(0, 2), slice(2, 3))
GPU_GPU_CPU: tuple[Device, ...] = ("cuda", "cuda", "cpu")


def part(rows: int = 4_000, seed: int = 7) -> Part:
    """About 3 % fraud that two features and one code give away, with noise."""
    draws = np.random.default_rng(seed)
    numeric = np.exp(draws.normal(0, 1, (rows, 4))).astype(np.float32)
    categorical = draws.integers(0, 3, (rows, 1))
    log_odds = 1.5 * np.log(numeric[:, 0]) + np.log(numeric[:, 2]) + 1.5 * (categorical[:, 0] == 2) - 5.5
    return Part(numeric, categorical, draws.random(rows) < 1 / (1 + np.exp(-log_odds)))


def trained(
    config: NetworkConfig = SMALL,
    sampler: SamplerConfig = HALF,
    *,
    seed: int = 7,
    name: LossName = "focal",
    tune: Part | None = None,
) -> Trained:
    """A run over the same rows."""
    loss = LossConfig(name=name)
    return train(
        part(), tune, config, loss, sampler, seed=seed, threads=1, entity_features=ENTITIES, tick=lambda: None
    )  # fmt: skip


def weights(result: Trained) -> list[bytes]:
    """Every tensor of the network, as bytes."""
    return [tensor.numpy().tobytes() for tensor in result.network.state_dict().values()]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(sampler: SamplerConfig) -> None:
    """Twice the same run is the same network, whatever the sampler; another seed is another."""
    first, again, other = (trained(sampler=sampler, seed=seed) for seed in (7, 7, 8))
    assert weights(first) == weights(again)
    assert weights(first) != weights(other)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("gathered", [1, 700])
def test_how_many_rows_are_gathered_together_changes_nothing(
    gathered: int, sampler: SamplerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch at a time, some, or a whole epoch: the same batches, and so the same weights to the last bit."""
    expected = weights(trained(sampler=sampler))
    monkeypatch.setattr(optimise, "GATHERED_ROWS", gathered)
    assert weights(trained(sampler=sampler)) == expected


def test_keeping_every_legitimate_row_is_no_sampling() -> None:
    """The sampler `none` is `undersample` with a share of 1, to the last bit."""
    everything = trained(sampler=UndersampleConfig(legitimate_kept=1.0))
    assert weights(trained(sampler=AllRowsConfig())) == weights(everything)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("name", ["bce", "weighted_bce", "focal"])
def test_every_loss_learns_to_rank_over_every_sampler(name: LossName, sampler: SamplerConfig) -> None:
    """On later rows from the same source the average precision is several times the prevalence."""
    later = part(seed=8)
    result = trained(SMALL.model_copy(update={"epochs": 12}), sampler, name=name)
    found = average_precision(later.labels, raw_logits(result.network, later.numeric, later.categorical))
    assert found > 4 * later.labels.mean()


@pytest.mark.parametrize("sampler", SAMPLERS[:3], ids=repr)
@pytest.mark.parametrize("name", ["bce", "weighted_bce", "focal"])
def test_what_sampling_and_weights_did_is_undone_on_average(name: LossName, sampler: SamplerConfig) -> None:
    """The recovered probabilities of later rows add up to the frauds among them, to within a third."""
    later = part(20_000, seed=8)
    result = trained(SMALL.model_copy(update={"epochs": 12}), sampler, name=name)
    raw = torch.from_numpy(raw_logits(result.network, later.numeric, later.categorical))
    recovered = torch.sigmoid(result.correction(raw))
    assert float(recovered.mean()) == pytest.approx(float(later.labels.mean()), rel=1 / 3)


def test_beta_is_the_exact_share_of_legitimate_rows_that_were_drawn() -> None:
    """Not the configured share but what rounding made of it; the prior is that of all rows."""
    rows = part()
    legitimate = int((~rows.labels).sum())
    result = trained(sampler=UndersampleConfig(legitimate_kept=0.333))
    assert result.beta == round(0.333 * legitimate) / legitimate
    assert result.prior == rows.labels.mean()


def test_the_best_epoch_on_the_tuning_rows_is_kept() -> None:
    """The returned network reaches the best average precision that was recorded."""
    tune = part(seed=8)
    result = trained(tune=tune)
    assert len(result.average_precisions) == SMALL.epochs
    reached = average_precision(tune.labels, raw_logits(result.network, tune.numeric, tune.categorical))
    assert reached == max(result.average_precisions)


def test_it_stops_when_patience_runs_out() -> None:
    """A run ends `patience` epochs after its best one."""
    tune = part(400, seed=8)
    config = SMALL.model_copy(update={"epochs": 200, "patience": 2})
    result = trained(config, tune=tune)
    reached = result.average_precisions
    assert len(reached) < 200
    assert len(reached) - 1 - int(np.argmax(reached)) == 2


def test_hidden_entities_do_not_touch_the_caller_s_rows() -> None:
    """Features are hidden in a copy: the examples hold no more missing values than before."""
    rows = part()
    train(
        rows, None, SMALL.model_copy(update={"entity_dropout": 1.0}), LossConfig(), HALF,
        seed=7, threads=1, entity_features=ENTITIES, tick=lambda: None,
    )  # fmt: skip
    assert not np.isnan(rows.numeric).any()


def test_a_network_that_never_saw_an_entity_ignores_it() -> None:
    """With an entity always hidden in training, its missing flag is all it ever was: nothing can be ranked by it."""
    result = trained(SMALL.model_copy(update={"entity_dropout": 1.0, "epochs": 8}))
    seen = trained(SMALL.model_copy(update={"entity_dropout": 0.0, "epochs": 8}))
    later = part(seed=8)
    scores = [
        average_precision(later.labels, raw_logits(r.network, later.numeric, later.categorical)) for r in (result, seen)
    ]
    assert scores[0] < 0.6 * scores[1]


def test_progress_is_told_once_per_epoch() -> None:
    """The progress bar ticks as often as epochs ran."""
    ticks: list[None] = []
    train(
        part(), None, SMALL, LossConfig(), HALF,
        seed=7, threads=1, entity_features=ENTITIES, tick=lambda: ticks.append(None),
    )  # fmt: skip
    assert len(ticks) == SMALL.epochs


def test_torch_is_left_as_it_was_found() -> None:
    """Threads, strictness and the global source of randomness are given back."""
    torch.manual_seed(1)
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist())
    result = trained()
    assert not math.isnan(result.prior)
    assert before == (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
    )


def test_a_gpu_that_is_not_there_is_an_error_by_name_and_the_cpu_otherwise() -> None:
    """`auto` takes what there is; `cuda` without one says what to do."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert settle_device("auto") == settle_device("cpu") == torch.device("cpu")
    with pytest.raises(DataInvalid, match="say auto or cpu"):
        settle_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_learns_what_the_cpu_learns_and_repeats_itself() -> None:
    """To the last bit the same twice, back on the CPU, and ranking later rows about as well."""
    later = part(seed=8)
    first, again, on_cpu = (
        train(
            part(), None, SMALL, LossConfig(), HALF,
            device=device, seed=7, threads=1, entity_features=ENTITIES, tick=lambda: None,
        )
        for device in GPU_GPU_CPU
    )  # fmt: skip
    assert weights(first) == weights(again)
    reached = [
        average_precision(later.labels, raw_logits(result.network, later.numeric, later.categorical))
        for result in (first, on_cpu)
    ]
    assert reached[0] == pytest.approx(reached[1], rel=0.1)
