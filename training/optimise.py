"""The training loop: from examples to the network that ranks the tuning slice best."""

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from service.errors import DataInvalid
from training.calibrators import Reals, probability_of
from training.config import Device, LossConfig, NetworkConfig, SamplerConfig, TeacherConfig
from training.losses import Loss, settle_loss, stationary_bias
from training.metrics import average_precision
from training.network import (
    NO_STEPS,
    Architecture,
    Codes,
    Floats,
    FraudNetwork,
    Mask,
    Steps,
    raw_logits,
)
from training.samplers import Correction, Sample, correction, draw_sample
from training.teacher import Blend, learn

GATHERED_ROWS = 1_000_000
"""Of an epoch, in memory at a time: where rows are read from a disk, one walk in their order is what it does best."""

GRADIENT_BOUND = 1.0
"""Gradients are clipped to this norm: one odd batch must not undo what a hundred have learned."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows the loop may see, in the order of time.

    Shapes: numeric (rows, n), NaN where missing; categorical (rows, m), negative where missing; labels (rows,).
    """

    numeric: Floats
    categorical: Codes
    labels: Mask


@dataclass(frozen=True, slots=True)
class Trained:
    """A network with what is needed to read its logits.

    Attributes:
        network: in evaluation mode, the best moving average of the weights.
        loss: the loss it minimised, its numbers settled.
        correction: what undoes that loss and the sampler.
        prior: share of fraud among the fit rows before sampling.
        average_precisions: of the tuning slice after each epoch that ran, by the network alone; empty without one.
        blend: the trees that answer beside the network, if any do.
    """

    network: FraudNetwork
    loss: Loss
    correction: Correction
    prior: float
    average_precisions: tuple[float, ...]
    blend: Blend | None

    def log_odds(self, raw: Floats | Reals, numeric: Floats, categorical: Codes) -> Reals:
        """Of fraud (rows,), from the network's own logits of the same rows: loss and sampler undone, trees beside."""
        own: Reals = self.correction(torch.from_numpy(raw)).numpy().astype(np.float64)
        return own if self.blend is None else self.blend.mixed(own, self.blend.teacher.log_odds(numeric, categorical))

    @property
    def beta(self) -> float:
        """By what sampling divided the odds of fraud: the share of legitimate rows an epoch showed, if no more."""
        return self.correction.beta


def train(
    fit: Part,
    tune: Part | None,
    config: NetworkConfig,
    loss_config: LossConfig,
    sampler_config: SamplerConfig,
    *,
    teacher_config: TeacherConfig | None = None,
    stop_after: int | None = None,
    device: Device = "cpu",
    seed: int,
    threads: int,
    entity_features: Sequence[slice],
    tick: Callable[[], None],
) -> Trained:
    """Minimise the loss over `fit` and keep the epoch with the best average precision on `tune`.

    AdamW under a one-cycle schedule, the sampler's rows each epoch, a moving average of the weights. Same arguments,
    same weights to the last bit (on one type of CPU or GPU). In float32 on a GPU too: a network this small waits for
    launches, not for multiplications, and eight bits of a bfloat16 are few for a log-odds.

    Args:
        fit: the rows to learn from; both classes must be there.
        tune: later rows that decide when to stop; without them every epoch runs and the last counts.
        config: network and optimiser.
        loss_config: what to minimise.
        sampler_config: over which of the rows.
        teacher_config: whom to learn from beside the labels; None: from the labels alone.
        stop_after: end after so many of the schedule's epochs; None: when `tune` says so.
        device: where; `auto` takes a GPU if there is one. The network comes back to the CPU.
        seed: of the initial weights, the draws and the drop-outs.
        threads: torch's threads; the order of sums depends on it.
        entity_features: by entity, its part of the numeric features; hidden together now and then.
        tick: called after each epoch, for a progress bar.

    Raises:
        DataInvalid: the sampler cannot work with these rows, or there is no such device.
    """
    place = settle_device(device)
    with _reproducible(seed, threads, place):
        draws = np.random.default_rng(seed)
        sample = draw_sample(sampler_config, fit.numeric, fit.categorical, fit.labels, draws)
        loss = settle_loss(
            loss_config.name,
            gamma=loss_config.gamma,
            alpha=loss_config.alpha,
            frauds=sample.frauds,
            legitimate=sample.legitimate,
        )
        shape = Architecture(config.width, config.depth, config.dropout, config.bins, config.embedding)
        prior = float(fit.labels.mean())
        bias = stationary_bias(prior, gamma=loss.gamma, alpha=loss.alpha, beta=sample.beta)
        steps, targets, blend = _lesson(fit, sample, teacher_config, seed=seed, threads=threads)
        network = FraudNetwork.for_data(fit.numeric, fit.categorical, shape, bias=bias, steps=steps).to(place)
        best, reached = network, [0.0]
        turns = math.ceil((sample.frauds + sample.legitimate) / config.batch)
        batches = partial(_batches, sample, targets, config, entity_features, draws)
        for averaged in islice(_epochs(network, loss, config, turns, batches), stop_after):
            tick()
            if tune is None:
                best = averaged
                continue
            reached.append(average_precision(tune.labels, raw_logits(averaged, tune.numeric, tune.categorical)))
            if reached[-1] > max(reached[:-1]):
                best = copy.deepcopy(averaged)
            elif len(reached) - 1 - int(np.argmax(reached)) >= config.patience:
                break
    return Trained(best.eval().cpu(), loss, correction(loss, sample), prior, tuple(reached[1:]), blend)


def _lesson(
    fit: Part, sample: Sample, config: TeacherConfig | None, *, seed: int, threads: int
) -> tuple[Steps, Floats, Blend | None]:
    """Which steps the network gets, what it is to answer for each row of the sample (rows,), and who answers beside it.

    Without a teacher its label; else what the teacher's share leaves of that. The teacher speaks of fraud as rare as it
    is, the sample shows it 1 / beta times as often.
    """
    labels = sample.labels.astype(np.float32)
    if config is None:
        return NO_STEPS, labels, None
    teacher = learn(fit.numeric, fit.categorical, fit.labels, config, seed=seed, threads=threads)
    shown = teacher.log_odds(sample.numeric, sample.categorical) - math.log(sample.beta)
    answers = probability_of(shown).astype(np.float32)
    targets = config.share * answers + (1 - config.share) * labels
    return teacher.steps(config.steps), targets, Blend(teacher, config.blend) if config.blend else None


def _epochs(
    network: FraudNetwork,
    loss: Loss,
    config: NetworkConfig,
    turns: int,
    batches: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]],
) -> Iterator[FraudNetwork]:
    """Run the optimiser; after each epoch, the moving average of the weights as a network."""
    place = network.output.weight.device
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=turns * config.epochs
    )
    decay = get_ema_multi_avg_fn(config.average_decay)  # type: ignore[no-untyped-call] # torch ships it untyped
    average = AveragedModel(network, multi_avg_fn=decay)
    for _ in range(config.epochs):
        network.train()
        for numeric, categorical, targets in batches():
            optimiser.zero_grad()
            logits = network(numeric.to(place), categorical.to(place))
            loss(logits, targets.to(place)).backward()  # type: ignore[no-untyped-call] # torch's is untyped
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_BOUND)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
        averaged = average.module
        assert isinstance(averaged, FraudNetwork), type(averaged)
        yield averaged.eval()


def _batches(
    sample: Sample,
    targets: Floats,
    config: NetworkConfig,
    entity_features: Sequence[slice],
    draws: np.random.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of the sample, each row's entities hidden now and then; the target stays what it was in full sight."""
    rows = sample.epoch(draws)
    together = config.batch * max(1, GATHERED_ROWS // config.batch)
    for first in range(0, len(rows), together):
        ascending = np.sort(rows[first : first + together])
        known, codes = sample.numeric[ascending], sample.categorical[ascending]
        for start in range(first, min(first + together, len(rows)), config.batch):
            batch = rows[start : start + config.batch]
            places = np.searchsorted(ascending, batch)
            numeric = known[places]
            hidden = draws.random((len(batch), len(entity_features))) < config.entity_dropout
            for entity, features in enumerate(entity_features):
                numeric[hidden[:, entity], features] = np.nan
            yield torch.from_numpy(numeric), torch.from_numpy(codes[places]), torch.from_numpy(targets[batch])


def settle_device(device: Device) -> torch.device:
    """Where to fit.

    Raises:
        DataInvalid: CUDA was asked for by name and is not there.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise DataInvalid("device cuda was asked for, but torch finds none: install its CUDA build, or say auto or cpu")
    return torch.device("cuda" if found and device != "cpu" else "cpu")


@contextmanager
def _reproducible(seed: int, threads: int, place: torch.device) -> Iterator[None]:
    """Torch as a function of the seed and the number of threads; its global state is given back afterwards."""
    if place.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may add in any order, and torch refuses
    threads_before, strict_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    try:
        with torch.random.fork_rng(devices=[] if place.type == "cpu" else [torch.cuda.current_device()]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(strict_before)
        torch.set_num_threads(threads_before)
