"""A table folded in pieces: where it is cut changes no feature, and each log continues from what it had become."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.features.bases import NO_BASES, Bases
from service.features.entry import Kind
from service.features.offline import Fold, Folded, fold_events
from service.features.plan import Plan
from tests.features.agreement import assert_same, handbook_spec, plan_of, shipped_spec
from tests.features.oracle import Declaration
from tests.features.strategies import specs, streams
from tests.features.streams import Rows, Step, random_steps, rows_of

pytestmark = pytest.mark.timeout(900)  # an example that fails is made small for up to five minutes


def fold_pieces(plan: Plan, rows: Rows, cuts: list[int], *, threads: int = 1) -> Folded:
    """What the pieces give, one after the other."""
    fold = Fold(plan)
    parts = [fold.take(piece, threads=threads) for piece in np.split(rows, cuts)]
    return Folded(np.concatenate([part.numeric for part in parts]), np.concatenate([part.revs for part in parts]))


@settings(max_examples=200)
@given(spec=specs(), steps=streams(), data=st.data())
def test_where_a_stream_is_cut_changes_nothing(spec: Declaration, steps: list[Step], data: st.DataObject) -> None:
    """Any features, any events, labels and retries and late ones among them: every cell is that of one pass."""
    plan, rows = plan_of(spec), rows_of(steps)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=8)))
    assert_same(fold_pieces(plan, rows, cuts), fold_events(plan, rows))


@pytest.mark.parametrize("size", [1, 7, 64, 333])
@pytest.mark.parametrize("declared", [shipped_spec, handbook_spec])
def test_pieces_of_any_size_give_what_one_pass_gives(declared: Callable[[], Declaration], size: int) -> None:
    """For every feature that is shipped; some frauds are told of in a later piece than the one they happened in."""
    plan, rows = plan_of(declared()), rows_of(random_steps(seed=2, size=1_000))
    assert (rows[size:, 0] == Kind.FRAUD_LABEL).any()
    assert_same(fold_pieces(plan, rows, list(range(size, len(rows), size)), threads=2), fold_events(plan, rows))


def test_what_is_carried_matters() -> None:
    """Pieces folded each by itself are another table, so equality above is not that of features without a past."""
    plan, rows = plan_of(shipped_spec()), rows_of(random_steps(seed=2, size=1_000))
    whole, alone = fold_events(plan, rows), fold_events(plan, rows[500:])
    assert not np.array_equal(whole.numeric[500:], alone.numeric, equal_nan=True)


def bases_of(content: dict[int, bytes]) -> Bases:
    """A table of bases from a dictionary of them."""
    keys = np.array(sorted(content), np.int64)
    lengths = np.array([len(content[key]) for key in keys.tolist()], np.int64)
    return Bases.of(keys, lengths, [np.frombuffer(content[key], np.uint8) for key in keys.tolist()])


def found(bases: Bases, keys: list[int]) -> dict[int, bytes]:
    """What a table of bases says about some logs; those that it does not know are left out."""
    starts, ends = bases.find(np.array(keys, np.int64))
    places = zip(keys, starts.tolist(), ends.tolist(), strict=True)
    return {key: bases.content[start:end].tobytes() for key, start, end in places if start < end}


TABLES = st.dictionaries(st.integers(-5, 5), st.binary(min_size=1, max_size=4))


@given(tables=st.lists(TABLES, max_size=4))
def test_tables_of_bases_are_dictionaries(tables: list[dict[int, bytes]]) -> None:
    """Updated with one after the other, every log is found with its last base, and no other log is."""
    bases, expected = NO_BASES, dict[int, bytes]()
    for table in tables:
        bases, expected = bases.updated(bases_of(table)), expected | table
    assert found(bases, list(range(-6, 7))) == expected
    assert bases.keys.tolist() == sorted(expected)
