"""The engine beside its definition: fold a stream with both, insist on every cell, and hand out the values."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from service.features.offline import Folded, fold_events
from service.features.plan import Plan, compile_plan
from service.features.spec import parse_spec
from tests.features.oracle import Declaration, define
from tests.features.streams import DAY_MS, START_MS, Rows, Step, events_of, rows_of

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
ELSEWHERE = 1_000_000  # a card, merchant and device that no test looks at


def shipped_spec() -> Declaration:
    """The specification that the shipped model was trained with."""
    return declared("features.yaml")


def handbook_spec() -> Declaration:
    """The specification for the Handbook's data, which has every operation over windows."""
    return declared("handbook_features.yaml")


def declared(name: str) -> Declaration:
    document: Declaration = yaml.safe_load((CONFIGS / name).read_text("utf-8"))
    return document


def plan_of(spec: Declaration) -> Plan:
    """The compiled plan of a specification as YAML gives it."""
    return compile_plan(parse_spec(spec))


def assert_defined(spec: Declaration, rows: Rows, *, born_at_ms: int | None = None) -> Folded:
    """Fold the rows, and insist that each feature and each rev is what the definition says."""
    plan = plan_of(spec)
    folded = fold_events(plan, rows, born_at_ms=born_at_ms)
    answer = define(spec, events_of(rows), born_at=born_at_ms)
    assert set(plan.numeric) == set(answer.features)
    for column, name in enumerate(plan.numeric):
        np.testing.assert_array_equal(folded.numeric[:, column], answer.features[name], err_msg=name, strict=True)
    for column, entity in enumerate(plan.entities):
        np.testing.assert_array_equal(folded.revs[:, column], answer.revs[entity], err_msg=entity, strict=True)
    return folded


def assert_same(one: Folded, other: Folded) -> None:
    """Insist that two folds agree on every cell, NaN with NaN."""
    np.testing.assert_array_equal(one.numeric, other.numeric, strict=True)
    np.testing.assert_array_equal(one.revs, other.revs, strict=True)


def values(spec: Declaration, steps: Sequence[Step], *, start_ms: int = START_MS) -> Mapping[str, list[float]]:
    """Each feature over the steps, by engine and definition alike, in a store that is 100 days old when they begin."""
    elsewhere = Step(
        card=ELSEWHERE, merchant=ELSEWHERE, terminal=ELSEWHERE, device=ELSEWHERE, customer=ELSEWHERE, wait_ms=0
    )
    first = replace(steps[0], wait_ms=steps[0].wait_ms + 100 * DAY_MS)
    rows = rows_of([elsewhere, first, *steps[1:]], start_ms=start_ms - 100 * DAY_MS)
    folded = assert_defined(spec, rows)
    return {name: folded.numeric[1:, column].tolist() for column, name in enumerate(plan_of(spec).numeric)}


def card_spec(
    features: Mapping[str, Declaration],
    *,
    windows: Mapping[str, Declaration] | None = None,
    sets: Mapping[str, Declaration] | None = None,
    decays: Mapping[str, Declaration] | None = None,
    unusual: Declaration | None = None,
    transaction: Mapping[str, Declaration] | None = None,
    horizon: str = "90d",
    log: Mapping[str, int] | None = None,
) -> Declaration:
    """A specification with one entity, the card."""
    return {
        "version": 1,
        "horizon": horizon,
        "entities": {
            "card": {
                "key": "card_id",
                "log": log or {"compact_at": 8, "keep": 2, "ring": 16},
                "windows": windows or {},
                "sets": sets or {},
                "decays": decays or {},
                "features": features,
                **({"unusual": unusual} if unusual else {}),
            }
        },
        "transaction": {"features": transaction or {}, "categories": []},
    }
