"""Samplers: the rows that training shows the network, and what showing them did to the odds of fraud."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.errors import DataInvalid
from training.config import AllRowsConfig, SamplerConfig, SmoteConfig, UndersampleConfig
from training.losses import Loss, recover_logit
from training.network import Codes, Floats, Mask, NumericEncoding

Indices = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

SMOTE_INEXACT = (
    "SMOTE invents frauds between frauds, which changes where fraud lies and not only how much there is of it: by how "
    "much it raised the odds differs from row to row, and the logit does not say. The graph undoes the average"
)

SYNTHETIC_ROWS = 2048
"""Invented rows per call of SMOTE: it votes on codes over a dense (rows, neighbours, encoded codes) cube of float64."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows that training draws its epochs from.

    Attributes:
        numeric: (rows, n), NaN where missing.
        categorical: (rows, m), negative where missing.
        labels: (rows,), invented frauds among them.
        legitimate: how many legitimate rows an epoch shows; it shows every fraud.
        beta: by what sampling divided the odds of fraud, in (0, 1]: the share of legitimate rows an epoch shows, over
            the factor by which frauds were multiplied.
        inexact: why beta undoes sampling on average only; None where it is the same for every row.
    """

    numeric: Floats
    categorical: Codes
    labels: Mask
    legitimate: int
    beta: float
    inexact: str | None = None

    @property
    def frauds(self) -> int:
        """How many frauds an epoch shows."""
        return int(self.labels.sum())

    def epoch(self, draws: np.random.Generator) -> Indices:
        """The rows of one epoch in random order: all frauds, and as many legitimate rows as an epoch shows."""
        kept = draws.choice(np.flatnonzero(~self.labels), self.legitimate, replace=False, shuffle=False)
        return draws.permutation(np.concatenate([np.flatnonzero(self.labels), kept]))


@dataclass(frozen=True, slots=True)
class Correction:
    """What the served graph does to the network's logit before the fitted line in log-odds.

    Attributes:
        gamma: the loss's focusing exponent.
        alpha: the loss's weight of fraud, or None.
        beta: by what sampling divided the odds of fraud.
        inexact: why this is not the inverse of loss and sampler; None where it is, at the population minimiser.
    """

    gamma: float
    alpha: float | None
    beta: float
    inexact: str | None

    def __call__(self, logits: Tensor) -> Tensor:
        """Log-odds of fraud (batch,) from the network's logits (batch,)."""
        return recover_logit(logits, gamma=self.gamma, alpha=self.alpha, beta=self.beta)


def correction(loss: Loss, sample: Sample) -> Correction:
    """What undoes a loss over a sample: exactly, or with the reason why nothing could."""
    return Correction(loss.gamma, loss.alpha, sample.beta, sample.inexact)


def draw_sample(
    config: SamplerConfig, numeric: Floats, categorical: Codes, labels: Mask, draws: np.random.Generator
) -> Sample:
    """Settle a configured sampler for the rows of a fit.

    Args:
        config: which sampler, and how much of it.
        numeric: (rows, n), NaN where missing.
        categorical: (rows, m), negative where missing.
        labels: (rows,); both classes must be there.
        draws: not touched where rows are drawn anew each epoch.

    Raises:
        DataInvalid: SMOTE has fewer frauds than it needs, or nothing to add.
    """
    legitimate = len(labels) - int(labels.sum())
    match config:
        case AllRowsConfig():
            return Sample(numeric, categorical, labels, legitimate, beta=1.0)
        case UndersampleConfig():
            kept = max(1, round(config.legitimate_kept * legitimate))
            sample = Sample(numeric, categorical, labels, kept, beta=kept / legitimate)
            return sample if config.drawn == "each_epoch" else _drawn_once(sample, draws)
        case SmoteConfig():
            return _with_smote(config, numeric, categorical, labels, draws)


def synthetic_frauds(
    numeric: Floats, categorical: Codes, labels: Mask, *, count: int, neighbours: int, draws: np.random.Generator
) -> tuple[Floats, Codes]:
    """Frauds that never happened, each on the line between a real one and one of its nearest (SMOTE-NC).

    Distances and lines are those of the encoding that the network sees: the standardised signed logarithm, where a
    missing number is the mean. Which numbers are missing and every code are voted by the neighbours. The result goes
    back to raw features, so it may hold 2.7 transactions and an hour between two others.

    Args:
        numeric: (rows, n), NaN where missing; all rows of the fit, for the encoding.
        categorical: (rows, m), negative where missing.
        labels: (rows,), more than `neighbours` of them true.
        count: how many to invent.
        neighbours: how many nearest frauds the other end is drawn from.
        draws: where the seeds come from.

    Returns:
        numeric (count, n) and categorical (count, m).
    """
    encoding = NumericEncoding.for_data(numeric, bins=0)
    frauds = np.hstack([encoding(torch.from_numpy(numeric[labels])).numpy(), categorical[labels]]).astype(np.float64)
    sizes = [min(SYNTHETIC_ROWS, count - start) for start in range(0, count, SYNTHETIC_ROWS)]
    voted = range(numeric.shape[1], frauds.shape[1])  # flags and codes
    made = np.concatenate([_smote(frauds, voted, size, neighbours, int(draws.integers(2**31))) for size in sizes])
    standard, missing, codes = np.split(made, [numeric.shape[1], 2 * numeric.shape[1]], axis=1)
    log = standard / encoding.inverse_scale.numpy() + encoding.center.numpy()
    raw = np.where(missing > 0, np.nan, np.sign(log) * np.expm1(np.abs(log)))
    return raw.astype(np.float32), np.rint(codes).astype(np.int64)


def _drawn_once(sample: Sample, draws: np.random.Generator) -> Sample:
    """The rows of one epoch, in the order of time, for every epoch."""
    rows = np.sort(sample.epoch(draws))
    return Sample(sample.numeric[rows], sample.categorical[rows], sample.labels[rows], sample.legitimate, sample.beta)


def _with_smote(
    config: SmoteConfig, numeric: Floats, categorical: Codes, labels: Mask, draws: np.random.Generator
) -> Sample:
    frauds = int(labels.sum())
    legitimate = len(labels) - frauds
    wanted = round(config.frauds_per_legitimate * legitimate)
    if frauds <= config.neighbours:
        raise DataInvalid(f"SMOTE between {config.neighbours} neighbours needs more frauds than that, got {frauds}")
    if wanted <= frauds:
        raise DataInvalid(
            f"SMOTE has nothing to add: {frauds} frauds among {legitimate} legitimate rows are already at least "
            f"{config.frauds_per_legitimate} of them"
        )
    more_numeric, more_categorical = synthetic_frauds(
        numeric, categorical, labels, count=wanted - frauds, neighbours=config.neighbours, draws=draws
    )
    return Sample(
        np.concatenate([numeric, more_numeric]),
        np.concatenate([categorical, more_categorical]),
        np.concatenate([labels, np.ones(wanted - frauds, np.bool_)]),
        legitimate,
        beta=frauds / wanted,
        inexact=SMOTE_INEXACT,
    )


def _smote(frauds: Reals, voted: range, count: int, neighbours: int, seed: int) -> Reals:
    """`count` new rows from imbalanced-learn's SMOTE-NC, (count, columns).

    It looks at no row of the other class but wants to see one, so the first fraud plays that part.
    """
    from imblearn.over_sampling import SMOTENC  # noqa: PLC0415 - loads scikit-learn: a second that only SMOTE needs

    oversampler = SMOTENC(
        list(voted), sampling_strategy={1: len(frauds) + count}, k_neighbors=neighbours, random_state=seed
    )
    target = np.append(np.ones(len(frauds), np.int64), 0)
    rows, _ = oversampler.fit_resample(np.vstack([frauds, frauds[:1]]), target)
    return np.asarray(rows[len(target) :], np.float64)
