"""Reasons: which groups of features moved a decision, and by how much."""

import math
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.bundle import Bundle, ReasonGroup
from service.model import OnnxModel

MAX_REASONS = 4
ROWS_AT_ONCE = 64  # decisions explained in one model call; each costs one row per group

Number = TypeVar("Number", np.float32, np.int64)


class Reason(Struct, frozen=True, gc=False):
    """One reason for a decision.

    Attributes:
        code: stable name of the group of features.
        contribution: by how much the group raised the log-odds of fraud, against a legitimate transaction's values.
        value: of the feature that stands for the group; None where it is missing.
        description: one sentence.
    """

    code: str
    contribution: float
    value: float | None
    description: str


class Explainer:
    """Explains by occlusion: score again with a group at a legitimate transaction's values, and take the difference."""

    def __init__(self, bundle: Bundle, model: OnnxModel) -> None:
        manifest = bundle.manifest
        self._model = model
        self._groups = manifest.reasons
        numeric = [np.nan if value is None else value for value in manifest.reference_numeric]
        self._numeric = _Occlusion.of(manifest.reasons, manifest.numeric, np.array(numeric, np.float32))
        categorical = np.array(manifest.reference_categorical, np.int64)
        self._categorical = _Occlusion.of(manifest.reasons, manifest.categorical, categorical)
        inputs = (*manifest.numeric, *manifest.categorical)
        self._value_places = [inputs.index(group.value_feature) for group in self._groups]

    def explain(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> list[tuple[Reason, ...]]:
        """Reasons for each of n decisions, the strongest first, at most `MAX_REASONS`.

        Args:
            numeric: float32 (n, features), what the model saw.
            categorical: int64 (n, categories), the same.
            logits: float32 (n,), what it answered.
        """
        if not self._groups:
            return [()] * len(logits)
        reasons: list[tuple[Reason, ...]] = []
        for first in range(0, len(logits), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            reasons += self._explain(numeric[part], categorical[part], logits[part])
        return reasons

    def _explain(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> list[tuple[Reason, ...]]:
        without, _ = self._model.run(self._numeric.hide(numeric), self._categorical.hide(categorical))
        contributions = logits[:, np.newaxis] - without.reshape(len(logits), -1)
        return [
            self._strongest(raised_by, values, codes)
            for raised_by, values, codes in zip(contributions.tolist(), numeric, categorical, strict=True)
        ]

    def _strongest(
        self, raised_by: list[float], values: NDArray[np.float32], codes: NDArray[np.int64]
    ) -> tuple[Reason, ...]:
        """The reasons for one decision. A dozen groups are sorted sooner here than by numpy."""
        against = [index for index, contribution in enumerate(raised_by) if contribution > 0]
        against.sort(key=raised_by.__getitem__, reverse=True)
        return tuple(self._reason(index, raised_by[index], values, codes) for index in against[:MAX_REASONS])

    def _reason(self, index: int, contribution: float, values: NDArray[np.float32], codes: NDArray[np.int64]) -> Reason:
        group, place = self._groups[index], self._value_places[index]
        value = values.item(place) if place < len(values) else float(codes.item(place - len(values)))
        return Reason(
            code=group.code,
            contribution=round(contribution, 4),
            value=None if math.isnan(value) else value,
            description=group.description,
        )


@dataclass(frozen=True, slots=True)
class _Occlusion:
    """Where one kind of input is hidden: rows once for each group, the group's inputs at the reference.

    Attributes:
        groups: how many.
        places: int64, of the hidden inputs among groups * inputs.
        values: what stands there instead.
    """

    groups: int
    places: NDArray[np.int64]
    values: NDArray[np.float32] | NDArray[np.int64]

    @classmethod
    def of(
        cls, groups: tuple[ReasonGroup, ...], names: tuple[str, ...], reference: NDArray[np.float32] | NDArray[np.int64]
    ) -> Self:
        """The occlusion of the inputs called so, whose reference values are (names,)."""
        members = [[name in group.features for name in names] for group in groups]
        group, name = np.nonzero(np.array(members, np.bool_).reshape(len(groups), len(names)))
        return cls(len(groups), group * len(names) + name, reference[name])

    def hide(self, rows: NDArray[Number]) -> NDArray[Number]:
        """From rows (n, inputs) to (n * groups, inputs)."""
        repeated = np.repeat(rows, self.groups, axis=0)
        repeated.reshape(len(rows), -1)[:, self.places] = self.values
        return repeated
