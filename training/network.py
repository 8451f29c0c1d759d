"""The network: raw features in, one logit out, with every encoding inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.blocks import blocks

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

STANDARD_BOUND = 25.0
"""Standardised values are clipped here. Not tighter: a count of reported frauds is almost always 0, so that its 3 lies
beyond 8 standard deviations and its 5 must still differ from it (docs/log.md)."""

MAX_CODE = 65_535
"""Codes are looked up in a dense table. What does not fit is a hash, and a hash has no vocabulary."""

RAREST_CODE = 20
"""A code seen less often than this in the fit rows is trained as unseen, so that the unseen row means something."""

INFERENCE_ROWS = 16_384
"""Rows per pass when a table is scored: keeps the encodings of a large table out of memory."""

STATISTIC_ROWS = 200_000
"""Medians and quantiles are taken over at most this many evenly spaced rows: more changes no third digit."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Places where a number begins to matter: each is one more input, 1 above and 0 up to it.

    A network of smooth parts needs many rows to find a rule like "more than 220"; given the place it needs few.

    Attributes:
        feature: int64 (k,), which of the numeric features.
        place: float32 (k,), in its own unit.
    """

    feature: Codes
    place: Floats


NO_STEPS = Steps(np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of the network.

    Attributes:
        width: units in each hidden layer.
        depth: number of hidden layers.
        dropout: share of hidden units silenced in training, in [0, 1).
        bins: quantile bins of the piecewise-linear encoding per feature; 0 leaves it out.
        embedding: width of the vector for each categorical value.
    """

    width: int = 128
    depth: int = 2
    dropout: float = 0.1
    bins: int = 0
    embedding: int = 4


class FraudNetwork(nn.Module):
    """An MLP beside a straight line, over encodings that are part of the module.

    The line (a linear skip from the encodings to the logit) is what the network falls back on where frauds are few.

    Example:
        >>> numeric = np.array([[1.0, np.nan], [20.0, 3.0]], np.float32)
        >>> categorical = np.array([[0], [-1]])
        >>> network = FraudNetwork.for_data(numeric, categorical, Architecture(width=8), bias=-3.0)
        >>> network(torch.from_numpy(numeric), torch.from_numpy(categorical)).shape
        torch.Size([2])
    """

    def __init__(
        self, numeric: "NumericEncoding", categorical: "CategoricalEncoding", shape: Architecture, *, bias: float
    ) -> None:
        super().__init__()
        self.numeric = numeric
        self.categorical = categorical
        width = numeric.width + categorical.width
        self.hidden = nn.Sequential(*_hidden_layers(width, shape))
        self.output = nn.Linear(shape.width, 1)
        self.line = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            self.output.bias.fill_(bias)
            self.output.weight.mul_(0.1)  # begin near the bias: the first steps are not spent on unlearning noise
            self.line.weight.zero_()

    @classmethod
    def for_data(
        cls, numeric: Floats, categorical: Codes, shape: Architecture, *, bias: float, steps: Steps = NO_STEPS
    ) -> "FraudNetwork":
        """A fresh network whose encodings are fitted to these rows.

        Args:
            numeric: (rows, n) raw features, NaN where missing.
            categorical: (rows, m) raw codes, negative where missing.
            shape: the layers.
            bias: where the output starts, see `losses.stationary_bias`.
            steps: places of the numeric features to tell apart, see `teacher`.
        """
        return cls(
            NumericEncoding.for_data(numeric, bins=shape.bins, steps=steps),
            CategoricalEncoding.for_data(categorical, width=shape.embedding),
            shape,
            bias=bias,
        )

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Logits (batch,) of the loss, not yet log-odds of fraud.

        Args:
            numeric: (batch, n) float32, NaN where missing.
            categorical: (batch, m) int64, negative where missing.
        """
        encoded = torch.cat((self.numeric(numeric), self.categorical(categorical)), dim=1)
        logits: Tensor = self.output(self.hidden(encoded)) + self.line(encoded)
        return logits.squeeze(1)


class NumericEncoding(nn.Module):
    """Raw numbers to [standardised signed log, missing flag, quantile position] per feature, then the steps.

    Missing is the mean (0 after standardising) beside a raised flag. `log(1 + x)` rather than `log1p`: it is what the
    exported graph computes, and the two must agree to the last digits.
    """

    center: Tensor
    inverse_scale: Tensor
    bin_start: Tensor
    bin_inverse_width: Tensor
    step_feature: Tensor
    step_place: Tensor

    def __init__(self, center: Floats, scale: Floats, edges: Floats, steps: Steps) -> None:
        """From mean and deviation of the signed log, (n,) each, bin edges in its units, (n, bins + 1), and steps."""
        super().__init__()
        self.bins = max(0, edges.shape[1] - 1)
        self.steps = len(steps.feature)
        self.width = len(center) * (2 + self.bins) + self.steps
        self.register_buffer("center", torch.from_numpy(center))
        self.register_buffer("inverse_scale", torch.from_numpy(1 / scale))
        if self.bins:
            widths = np.diff(edges, axis=1)
            inverse = np.divide(1.0, widths, out=np.zeros_like(widths), where=widths > 0)  # an empty bin says nothing
            self.register_buffer("bin_start", torch.from_numpy(edges[:, :-1].copy()))
            self.register_buffer("bin_inverse_width", torch.from_numpy(inverse))
        if self.steps:
            self.register_buffer("step_feature", torch.from_numpy(steps.feature))
            self.register_buffer("step_place", torch.from_numpy(steps.place))

    @classmethod
    def for_data(cls, numeric: Floats, *, bins: int, steps: Steps = NO_STEPS) -> "NumericEncoding":
        """Statistics of the present values; a feature that never varies has scale 1, one never present center 0."""
        sample = _signed_log(torch.tensor(_spaced(numeric))).numpy().astype(np.float64)
        present = np.isfinite(sample)
        count = np.maximum(present.sum(axis=0), 1)
        center = np.where(present, sample, 0).sum(axis=0) / count
        deviation = np.sqrt((np.where(present, sample - center, 0) ** 2).sum(axis=0) / count)
        scale = np.where(deviation > 1e-6, deviation, 1.0)  # noqa: PLR2004 - float32's resolution of a constant
        edges = np.zeros((numeric.shape[1], bins + 1))
        for feature in range(numeric.shape[1] if bins else 0):
            values = sample[present[:, feature], feature]
            edges[feature] = np.quantile(values, np.linspace(0, 1, bins + 1)) if len(values) else 0.0
        return cls(center.astype(np.float32), scale.astype(np.float32), edges.astype(np.float32), steps)

    def forward(self, numeric: Tensor) -> Tensor:
        """(batch, n) raw to (batch, width)."""
        missing = torch.isnan(numeric)
        present = (~missing).to(numeric.dtype)
        log = _signed_log(torch.where(missing, 0.0, numeric))
        standard = ((log - self.center) * self.inverse_scale).clamp(-STANDARD_BOUND, STANDARD_BOUND) * present
        parts = [standard, missing.to(numeric.dtype)]
        if self.bins:
            position = ((log.unsqueeze(2) - self.bin_start) * self.bin_inverse_width).clamp(0.0, 1.0)
            parts.append((position * present.unsqueeze(2)).flatten(1))
        if self.steps:
            parts.append((numeric[:, self.step_feature] > self.step_place).to(numeric.dtype))  # what is missing is not
        return torch.cat(parts, dim=1)


class CategoricalEncoding(nn.Module):
    """Raw integer codes to learned vectors, through a vocabulary that is a table of the module.

    All inputs share one table of codes and one of vectors. Each input has its own vector for a code it did not see in
    training and its own for a missing one.
    """

    sizes: Tensor
    offsets: Tensor
    rows: Tensor

    def __init__(self, vocabularies: Sequence[Codes], width: int) -> None:
        """From the known codes of each input, ascending, and the width of a vector."""
        super().__init__()
        self.width = len(vocabularies) * width
        sizes, tables, used = [], [], 0
        for known in vocabularies:
            size = int(known[-1]) + 1 if len(known) else 0
            unseen = used + len(known)
            table = np.full(size + 2, unseen, np.int64)
            table[known] = used + np.arange(len(known))
            table[size + 1] = unseen + 1  # missing
            sizes.append(size)
            tables.append(table)
            used = unseen + 2
        offsets = np.cumsum([0, *(len(table) for table in tables[:-1])]) if tables else np.zeros(0)
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.int64))
        self.register_buffer("offsets", torch.from_numpy(offsets.astype(np.int64)))
        self.register_buffer("rows", torch.from_numpy(np.concatenate([*tables, np.zeros(0, np.int64)])))
        self.vectors = nn.Embedding(max(used, 1), width)

    @classmethod
    def for_data(cls, categorical: Codes, *, width: int) -> "CategoricalEncoding":
        """The codes that occur often enough to learn from.

        Raises:
            ValueError: a code is beyond what a dense vocabulary holds.
        """
        seen = np.zeros((categorical.shape[1], MAX_CODE + 1), np.int64)
        for block in blocks(len(categorical)):
            for index, column in enumerate(categorical[block].T):
                codes = column[column >= 0]
                if len(codes) and codes.max() > MAX_CODE:
                    raise ValueError(f"a categorical code is at most {MAX_CODE}, got {codes.max()}")
                seen[index] += np.bincount(codes, minlength=MAX_CODE + 1)
        return cls([np.flatnonzero(counts >= RAREST_CODE) for counts in seen], width)

    def forward(self, categorical: Tensor) -> Tensor:
        """(batch, m) raw codes to (batch, m · width)."""
        known_or_unseen = torch.minimum(categorical, self.sizes)
        place = torch.where(categorical < 0, self.sizes + 1, known_or_unseen) + self.offsets
        vectors: Tensor = self.vectors(self.rows[place])
        return vectors.flatten(1)


def raw_logits(network: FraudNetwork, numeric: Floats, categorical: Codes) -> Floats:
    """The network's own logits (rows,) for a whole table, computed where the network is."""
    parts = [np.zeros(0, np.float32)]
    device = network.output.weight.device
    with torch.no_grad():
        for start in range(0, len(numeric), INFERENCE_ROWS):
            rows = slice(start, start + INFERENCE_ROWS)
            inputs = (torch.tensor(table[rows], device=device) for table in (numeric, categorical))
            parts.append(network(*inputs).cpu().numpy())
    return np.concatenate(parts)


def _hidden_layers(inputs: int, shape: Architecture) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *[shape.width] * shape.depth]):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(shape.dropout)]
    return layers


def _signed_log(values: Tensor) -> Tensor:
    return torch.sign(values) * torch.log(1 + values.abs())


def _spaced(rows: Floats) -> Floats:
    """At most `STATISTIC_ROWS` rows, evenly spaced."""
    if len(rows) <= STATISTIC_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, STATISTIC_ROWS).astype(np.int64)]
