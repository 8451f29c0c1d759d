"""What focal loss does with its gradient, and what that buys: every loss at every rarity of fraud, fitted and measured.

A fit is measured twice. Its *shares* say how much of the gradient easy legitimate rows take, its figures how well it
ranks a later week. docs/focal-loss.md defines both and argues why each is taken where it is.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from service.errors import DataInvalid
from training.config import AllRowsConfig, Device, LossConfig, NetworkConfig
from training.examples import Examples
from training.gradients import EASY_BELOW, gradient_share, gradient_sizes
from training.hard_cases import hard_frauds, hard_recall, reference_scores
from training.journal import append_line, read_lines
from training.losses import Loss, settle_loss, stationary_bias
from training.metrics import average_precision, recall_at_fpr
from training.network import Mask, raw_logits
from training.optimise import Part, Trained, train
from training.split import DAY_MS, known_labels

LOSSES: Mapping[str, LossConfig] = {
    "bce": LossConfig(name="bce"),
    "weighted bce": LossConfig(name="weighted_bce"),
    "focal γ1": LossConfig(name="focal", gamma=1.0, alpha=None),
    "focal γ2": LossConfig(name="focal", gamma=2.0, alpha=None),
    "focal γ2 α.75": LossConfig(name="focal", gamma=2.0, alpha=0.75),
    "focal γ2 α balanced": LossConfig(name="focal", gamma=2.0, alpha="balanced"),
    "focal γ3": LossConfig(name="focal", gamma=3.0, alpha=None),
}
COMMON = "bce"
"""The loss whose trained network is the state that all losses are compared at."""

FPRS: Mapping[str, float] = {"0.1 %": 0.001, "0.5 %": 0.005}
"""The false-positive rates at which recalls are measured, by the name they have in a run."""

RARITIES = (100, 1000, 5000)
"""Legitimate rows per fraud, where nothing else is asked for."""

RunKey: TypeAlias = tuple[str, int, int, str]
"""Test week, rarity, seed, loss."""

RUNS_FILE, SETTINGS_FILE = "runs.jsonl", "settings.json"


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """What to fit, and when.

    Attributes:
        network: the network and its optimiser, the same for every loss; each keeps its own best epoch.
        test_from: when each test week begins, with a time zone.
        fit_days: length of the fit rows.
        week_days: length of the tuning and of the test rows.
        gap_days: how late labels arrive: between fit and tuning rows, and between tuning and test rows.
        one_in: how many legitimate rows per fraud the fit rows have after thinning.
        seeds: how often each is repeated: another draw of frauds, other first weights.
        threads: of torch.
        device: where networks are fitted.
    """

    network: NetworkConfig
    test_from: tuple[datetime, ...]
    fit_days: float = 28
    week_days: float = 7
    gap_days: float = 7
    one_in: tuple[int, ...] = RARITIES
    seeds: int = 2
    threads: int = 1
    device: Device = "cpu"

    @property
    def runs(self) -> int:
        """How many fits that is."""
        return len(self.test_from) * len(self.one_in) * self.seeds * len(LOSSES)


@dataclass(frozen=True, slots=True)
class Shares:
    """Where a loss's |∂L/∂logit| falls, as shares of the sum over all fit rows.

    Attributes:
        below: of the legitimate rows whose sigmoid is below 0.1.
        easiest: of the 90 % of the legitimate rows with the lowest logits.
        legitimate: of all legitimate rows; the rest falls to the frauds.
        rows_below: which part of the legitimate rows is below 0.1; no gradient, but `below` is not readable without.
    """

    below: float
    easiest: float
    legitimate: float
    rows_below: float


@dataclass(frozen=True, slots=True)
class Run:
    """One fit of one loss, and all that was measured on it. A line of `runs.jsonl`.

    Attributes:
        test_from: when its test week begins.
        one_in: how many legitimate rows per fraud were asked for.
        seed: of the thinning and of the network.
        loss: its name in `LOSSES`.
        frauds: how many frauds it was fitted to.
        legitimate: how many legitimate rows.
        tune_average_precisions: of the tuning rows after each epoch that ran; the best one's network was measured.
        own_start: before anything is learned, at the bias where this loss is stationary.
        common_start: the same at the log-odds of the class prior, one logit for every loss.
        at_trained: by the name of a loss, that loss's shares at the logits of *this* run's network.
        average_precision: of the test rows, as the other figures.
        recall: by false-positive rate, of all frauds.
        hard_recall: by false-positive rate, of the hard half of the frauds.
    """

    test_from: str
    one_in: int
    seed: int
    loss: str
    frauds: int
    legitimate: int
    tune_average_precisions: tuple[float, ...]
    own_start: Shares
    common_start: Shares
    at_trained: dict[str, Shares]
    average_precision: float
    recall: dict[str, float]
    hard_recall: dict[str, float]

    @property
    def key(self) -> RunKey:
        """What makes it this run and no other."""
        return self.test_from, self.one_in, self.seed, self.loss

    @property
    def best_epoch(self) -> int:
        """The epoch that was measured, counted from 1."""
        return 1 + int(np.argmax(self.tune_average_precisions))


@dataclass(frozen=True, slots=True)
class Cut:
    """The rows of one test week's fits, and which of the test frauds are hard."""

    fit: Part
    tune: Part
    test: Part
    hard: Mask


def run_study(
    examples: Examples,
    entity_features: Sequence[slice],
    config: StudyConfig,
    out: Path,
    *,
    tick: Callable[[int], None],
) -> list[Run]:
    """Fit every loss at every rarity for every seed and test week, and append each fit to `out/runs.jsonl`.

    What stands there already is not fitted again: a study that was interrupted goes on, and one that is asked for more
    seeds, rarities or weeks grows.

    Args:
        examples: feature vectors and labels, in the order of time.
        entity_features: by entity, its part of the numeric features.
        config: what to fit.
        out: a directory, made if it is not there.
        tick: told how many more runs there are.

    Returns:
        The runs that the configuration asks for: by week, rarity, seed, and in the order of `LOSSES`.

    Raises:
        DataInvalid: `out` holds runs of other data or settings, or a part lacks one of the classes.
    """
    _claim(out, examples, config)
    done = {run.key: run for run in _read_runs(out / RUNS_FILE)}
    tick(sum(key in done for key in _keys(config)))
    for test_from in config.test_from:
        missing = [key for key in _keys(replace(config, test_from=(test_from,))) if key not in done]
        if missing:
            week = cut(examples, test_from, config)
            for key in missing:
                done[key] = _run(week, key, entity_features, config)
                append_line(out / RUNS_FILE, json.dumps(asdict(done[key]), ensure_ascii=False))
                tick(1)
    return [done[key] for key in _keys(config)]


def cut(examples: Examples, test_from: datetime, config: StudyConfig) -> Cut:
    """Fit | gap | tune | gap | test, counted back from the test week.

    The first two hold as fraud what had been reported when the test week began. Every row of the test week counts, that
    of cards already known to be compromised too.

    Raises:
        DataInvalid: the data begin or end a day or more too late or too early, or a part lacks one of the classes.
    """
    test_ms = round(test_from.timestamp() * 1000)
    week_ms, gap_ms = round(config.week_days * DAY_MS), round(config.gap_days * DAY_MS)
    tune_ms = test_ms - gap_ms - week_ms
    fit_ms = tune_ms - gap_ms - round(config.fit_days * DAY_MS)
    _check_span(examples, fit_ms, test_ms + week_ms)
    known = known_labels(examples.labels, examples.reported_at_ms, test_ms)
    fit = _part(examples, "fit", known, fit_ms, tune_ms - gap_ms)
    tune = _part(examples, "tuning", known, tune_ms, tune_ms + week_ms)
    test = _part(examples, "test", examples.labels, test_ms, test_ms + week_ms)
    return Cut(fit, tune, test, hard_frauds(reference_scores(fit, test.numeric, test.categorical), test.labels))


def thin(part: Part, *, one_in: int, seed: int) -> Part:
    """Frauds left out at random until there are `one_in` legitimate rows for each; every legitimate row stays.

    A part whose frauds are rarer already is returned as it is. With the same seed, the frauds left at a greater rarity
    are some of those left at a smaller one.

    Raises:
        DataInvalid: there are not `one_in` legitimate rows.
    """
    frauds = np.flatnonzero(part.labels)
    kept = round((len(part.labels) - len(frauds)) / one_in)
    if kept < 1:
        raise DataInvalid(f"one fraud in {one_in} needs as many legitimate rows, got {len(part.labels) - len(frauds)}")
    left = ~part.labels
    left[np.random.default_rng(seed).permutation(frauds)[:kept]] = True
    return Part(part.numeric[left], part.categorical[left], part.labels[left])


def shares(logits: Tensor, targets: Tensor, loss: Loss) -> Shares:
    """Where a loss's gradient falls at a network's logits, (rows,) each.

    Raises:
        ValueError: there is no gradient.
    """
    sizes, legitimate = gradient_sizes(logits, targets, loss), targets <= 0
    return Shares(
        below=gradient_share(logits, targets, loss, "below_0.1"),
        easiest=gradient_share(logits, targets, loss, "easiest_90"),
        legitimate=float(sizes[legitimate].sum() / sizes.sum()),
        rows_below=float((torch.sigmoid(logits[legitimate].double()) < EASY_BELOW).double().mean()),
    )


def _run(week: Cut, key: RunKey, entity_features: Sequence[slice], config: StudyConfig) -> Run:
    test_from, one_in, seed, name = key
    fit = thin(week.fit, one_in=one_in, seed=seed)
    trained = _train(fit, week.tune, LOSSES[name], entity_features, config, seed=seed)
    frauds = int(fit.labels.sum())
    settled = {other: _settled(of, fit.labels) for other, of in LOSSES.items()}
    targets = torch.from_numpy(fit.labels.astype(np.float32))
    logits = torch.from_numpy(raw_logits(trained.network, fit.numeric, fit.categorical))
    loss, labels = settled[name], week.test.labels
    scores = raw_logits(trained.network, week.test.numeric, week.test.categorical)
    return Run(
        test_from, one_in, seed, name, frauds, len(fit.labels) - frauds,
        tune_average_precisions=trained.average_precisions,
        own_start=_at_start(targets, loss, stationary_bias(trained.prior, gamma=loss.gamma, alpha=loss.alpha)),
        common_start=_at_start(targets, loss, math.log(trained.prior / (1 - trained.prior))),
        at_trained={other: shares(logits, targets, of) for other, of in settled.items()},
        average_precision=average_precision(labels, scores),
        recall={at: recall_at_fpr(labels, scores, fpr) for at, fpr in FPRS.items()},
        hard_recall={at: hard_recall(labels, scores, week.hard, fpr) for at, fpr in FPRS.items()},
    )  # fmt: skip


def _train(
    fit: Part, tune: Part, loss: LossConfig, entity_features: Sequence[slice], config: StudyConfig, *, seed: int
) -> Trained:
    """Over every legitimate row: leaving some out would change the rarity that is being studied."""
    return train(
        fit, tune, config.network, loss, AllRowsConfig(),
        device=config.device, seed=seed, threads=config.threads, entity_features=entity_features, tick=lambda: None,
    )  # fmt: skip


def _at_start(targets: Tensor, loss: Loss, bias: float) -> Shares:
    """Before any feature counts every row has the same logit."""
    return shares(torch.full_like(targets, bias, dtype=torch.float64), targets, loss)


def _settled(loss: LossConfig, labels: Mask) -> Loss:
    frauds = int(labels.sum())
    legitimate = len(labels) - frauds
    return settle_loss(loss.name, gamma=loss.gamma, alpha=loss.alpha, frauds=frauds, legitimate=legitimate)


def _check_span(examples: Examples, start_ms: int, stop_ms: int) -> None:
    first_ms, last_ms = int(examples.event_time_ms[0]), int(examples.event_time_ms[-1])
    if first_ms >= start_ms + DAY_MS or last_ms < stop_ms - DAY_MS:
        needed, there = (
            " to ".join(str(np.datetime64(time_ms, "ms").astype("datetime64[D]")) for time_ms in span)
            for span in ((start_ms, stop_ms - 1), (first_ms, last_ms))
        )
        raise DataInvalid(f"this test week needs data from {needed}, got {there}")


def _part(examples: Examples, name: str, labels: Mask, start_ms: int, stop_ms: int) -> Part:
    rows = np.flatnonzero((examples.event_time_ms >= start_ms) & (examples.event_time_ms < stop_ms))
    frauds = int(labels[rows].sum())
    if frauds in {0, len(rows)}:
        begins = np.datetime64(start_ms, "ms")
        raise DataInvalid(f"the {name} rows from {begins} on are {len(rows)} with {frauds} frauds; both classes needed")
    return Part(examples.numeric[rows], examples.categorical[rows], labels[rows])


def _keys(config: StudyConfig) -> Iterator[RunKey]:
    for test_from in config.test_from:
        yield from product([test_from.isoformat()], config.one_in, range(config.seeds), LOSSES)


def _claim(out: Path, examples: Examples, config: StudyConfig) -> None:
    """Write down what the runs of a directory have in common, or check that it is this.

    Raises:
        DataInvalid: it is something else; the message names what.
    """
    ours = {
        "data": examples.fingerprint(),
        "losses": {name: loss.model_dump() for name, loss in LOSSES.items()},
        "network": config.network.model_dump(),
        "fit_days": config.fit_days,
        "week_days": config.week_days,
        "gap_days": config.gap_days,
        "threads": config.threads,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS_FILE
    if not path.exists():
        path.write_text(json.dumps(ours, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    theirs = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if differing:
        raise DataInvalid(f"{out} holds runs with other {', '.join(differing)}; take another directory")


def _read_runs(path: Path) -> list[Run]:
    """The runs so far."""
    adapter = TypeAdapter(Run)
    return [adapter.validate_json(line) for line in read_lines(path)]
