"""Reasons: which groups of features moved a decision, and by how much."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, ReasonGroup
from service.model import OnnxModel

MAX_REASONS = 4
ROWS_AT_ONCE = 64  # decisions explained in one model call; each costs one row per group


@dataclass(frozen=True, slots=True)
class Reason:
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
        self._inputs = (*manifest.numeric, *manifest.categorical)
        reference = [np.nan if value is None else value for value in manifest.reference_numeric]
        self._reference_numeric = np.array(reference, np.float32)
        self._reference_categorical = np.array(manifest.reference_categorical, np.int64)
        self._occludes_numeric = _members(self._groups, manifest.numeric)
        self._occludes_categorical = _members(self._groups, manifest.categorical)

    def explain(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> list[tuple[Reason, ...]]:
        """Reasons for each of n decisions, the strongest first, at most `MAX_REASONS`.

        Args:
            numeric: float32 (n, features), what the model saw.
            categorical: int64 (n, categories), the same.
            logits: float32 (n,), what it answered.
        """
        reasons: list[tuple[Reason, ...]] = []
        for first in range(0, len(logits), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            reasons += self._explain(numeric[part], categorical[part], logits[part])
        return reasons

    def _explain(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> list[tuple[Reason, ...]]:
        groups = len(self._groups)
        if groups == 0:
            return [()] * len(logits)
        without_numeric = np.where(self._occludes_numeric, self._reference_numeric, numeric[:, np.newaxis])
        without_categorical = np.where(
            self._occludes_categorical, self._reference_categorical, categorical[:, np.newaxis]
        )
        without, _ = self._model.run(
            without_numeric.reshape(-1, numeric.shape[1]), without_categorical.reshape(-1, categorical.shape[1])
        )
        contributions = logits[:, np.newaxis] - without.reshape(-1, groups)
        return [
            self._strongest(row, np.concatenate([values, codes]))
            for row, values, codes in zip(contributions, numeric, categorical, strict=True)
        ]

    def _strongest(self, contributions: NDArray[np.float32], values: NDArray[np.float64]) -> tuple[Reason, ...]:
        order = np.argsort(-contributions, kind="stable")[:MAX_REASONS]
        return tuple(
            Reason(
                code=self._groups[index].code,
                contribution=round(float(contributions[index]), 4),
                value=_number(values[self._inputs.index(self._groups[index].value_feature)]),
                description=self._groups[index].description,
            )
            for index in order
            if contributions[index] > 0
        )


def _members(groups: tuple[ReasonGroup, ...], names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Membership as bool (groups, names): whether a group holds an input."""
    members = [[name in group.features for name in names] for group in groups]
    return np.array(members, np.bool_).reshape(len(groups), len(names))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
