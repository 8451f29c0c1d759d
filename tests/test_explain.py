"""Reasons are the difference that a group of features makes to the logit, to the last digit."""

import math

import numpy as np
import pytest

from service.bundle import Bundle
from service.explain import MAX_REASONS, ROWS_AT_ONCE, Explainer, Reason
from service.model import OnnxModel
from service.settings import SHIPPED_MODELS


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(next(SHIPPED_MODELS.iterdir()))


@pytest.mark.parametrize("rows", [1, 2, 5, ROWS_AT_ONCE + 1, 256])
def test_reasons_are_what_hiding_one_group_after_the_other_gives(bundle: Bundle, rows: int) -> None:
    """Explaining many decisions at once is worth its code only if nothing comes out otherwise."""
    model, golden = OnnxModel.load(bundle), bundle.golden
    logits, _ = model.run(golden.numeric[:rows], golden.categorical[:rows])
    explained = Explainer(bundle, model).explain(golden.numeric[:rows], golden.categorical[:rows], logits)
    assert explained == [_explained_by_hand(bundle, model, row) for row in range(rows)]


def test_nothing_to_explain_has_no_reasons(bundle: Bundle) -> None:
    """Most batches hold approvals only."""
    golden = bundle.golden
    explainer = Explainer(bundle, OnnxModel.load(bundle))
    assert explainer.explain(golden.numeric[:0], golden.categorical[:0], golden.logit[:0]) == []


def _explained_by_hand(bundle: Bundle, model: OnnxModel, row: int) -> tuple[Reason, ...]:
    """One decision, one group, one input at a time."""
    manifest, golden = bundle.manifest, bundle.golden
    numbers, codes = golden.numeric[row : row + 1], golden.categorical[row : row + 1]
    logit = model.run(numbers, codes)[0][0]
    reasons: list[tuple[np.float32, Reason]] = []
    for group in manifest.reasons:
        hidden_numbers, hidden_codes = numbers.copy(), codes.copy()
        for place, name in enumerate(manifest.numeric):
            if name in group.features:
                hidden_numbers[0, place] = manifest.reference_numeric[place]  # None becomes NaN
        for place, name in enumerate(manifest.categorical):
            if name in group.features:
                hidden_codes[0, place] = manifest.reference_categorical[place]
        raised_by = logit - model.run(hidden_numbers, hidden_codes)[0][0]
        seen = dict(zip(manifest.numeric, numbers[0], strict=True)) | dict(
            zip(manifest.categorical, codes[0], strict=True)
        )
        value = float(seen[group.value_feature])
        reason = Reason(group.code, round(float(raised_by), 4), None if math.isnan(value) else value, group.description)
        reasons.append((raised_by, reason))
    strongest = sorted(reasons, key=lambda pair: -pair[0])[:MAX_REASONS]
    return tuple(reason for raised_by, reason in strongest if raised_by > 0)
