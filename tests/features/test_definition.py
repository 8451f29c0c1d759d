"""The engine computes what docs/features.md defines, for any specification and any stream of events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features.agreement import assert_defined, handbook_spec, plan_of, shipped_spec
from tests.features.oracle import Declaration
from tests.features.strategies import specs, streams
from tests.features.streams import HOUR_MS, MINUTE_MS, SECOND_MS, Rows, Step, random_steps, rows_of

pytestmark = pytest.mark.timeout(900)  # an example that fails is made small for up to five minutes


@settings(max_examples=300)
@given(spec=specs(), steps=streams())
def test_any_short_stream_has_the_features_of_its_definition(spec: Declaration, steps: list[Step]) -> None:
    """Engine and definition agree on every cell and every rev, and where they don't the smallest stream is shown."""
    assert_defined(spec, rows_of(steps))


@settings(max_examples=40)
@given(
    spec=specs(),
    seed=st.integers(0, 2**32),
    wait_ms=st.sampled_from([None, SECOND_MS, MINUTE_MS, HOUR_MS]),
    born_at_ms=st.sampled_from([0, None]),
)
def test_any_long_stream_has_the_features_of_its_definition(
    spec: Declaration, seed: int, wait_ms: int | None, born_at_ms: int | None
) -> None:
    """Engine and definition agree after hundreds of entries too, when sets and rings have overflowed many times."""
    assert_defined(spec, rows_of(random_steps(seed, size=200, wait_ms=wait_ms)), born_at_ms=born_at_ms)


@pytest.mark.parametrize("wait_ms", [None, 20 * MINUTE_MS])
def test_the_shipped_features_are_those_of_their_definition(wait_ms: int | None) -> None:
    """Engine and definition agree on the shipped specification, over quiet days and busy ones; each feature moves."""
    rows = rows_of(random_steps(seed=11, size=1_000, entities=4, wait_ms=wait_ms))
    assert_every_feature_moves(shipped_spec(), rows)


def test_the_handbook_features_are_those_of_their_definition() -> None:
    """Engine and definition agree on the specification for the Handbook over four months; each feature moves."""
    rows = rows_of(random_steps(seed=13, size=1_000, wait_ms=3 * HOUR_MS))
    assert_every_feature_moves(handbook_spec(), rows)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_the_shipped_features_are_those_of_their_definition_over_a_season() -> None:
    """Engine and definition agree on 75,000 events of 3,000 cards, merchants, terminals and devices in four months."""
    rows = rows_of(random_steps(seed=12, size=75_000, entities=3_000, wait_ms=2 * MINUTE_MS))
    assert_every_feature_moves(shipped_spec(), rows)


def assert_every_feature_moves(spec: Declaration, rows: Rows) -> None:
    """Fold a specification by engine and definition alike; a feature that never moves would prove nothing."""
    numeric = assert_defined(spec, rows, born_at_ms=0).numeric  # a store so old that it knows who is new
    for name, column in zip(plan_of(spec).numeric, numeric.T, strict=True):
        assert len(np.unique(column[~np.isnan(column)])) > 1, name
