"""A transaction that arrives twice is counted once, and answered the same for as long as its log remembers it."""

import numpy as np
import pytest

from service.features.entry import Column
from service.features.joined import Joined
from service.features.kernel import DUPLICATE, RETRIED
from service.features.online import fold
from service.features.plan import Plan
from tests.features.agreement import assert_defined, card_spec, plan_of
from tests.features.byte_store import ByteStore, serve
from tests.features.streams import MINUTE_MS, Action, Rows, Step, mixed, rows_of

SPEC = card_spec(
    {
        "known": {"known": True},
        "count": {"total": "h1.count"},
        "amount": {"total": "h1.amount"},
        "seconds": {"since_last": True, "default": -1},
        "burst": {"decayed": "burst"},
        "new": {"new": "merchants"},
    },
    windows={"h1": {"length": "1h", "hop": "5m", "sums": ["count", "amount"]}},
    sets={"merchants": {"of": "merchant_id", "capacity": 4, "hop": "1h"}},
    decays={"burst": {"half_life": "1h", "sum": "count"}},
    log={"compact_at": 3, "keep": 1, "ring": 4},
)
OUTCOMES = (Action.LABEL, Action.DECLINE, Action.VOID)
BORN_AT_MS = 0  # long ago: no card of these tests is unknown


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(SPEC)


def test_a_retry_that_the_log_holds_gets_the_identical_vector(plan: Plan) -> None:
    """However many transactions came in between, the retry sees what the first attempt saw, with its rev."""
    rows = rows_of([Step(), Step(), Step(), Step(action=Action.AGAIN, back=1), Step(action=Action.AGAIN)])
    served = serve(ByteStore(plan), rows, born_at_ms=BORN_AT_MS, compaction=lambda _: None)
    assert (served.findings[:, 0] & RETRIED).tolist() == [0, 0, 0, RETRIED, RETRIED]
    np.testing.assert_array_equal(served.numeric[3], served.numeric[1])
    np.testing.assert_array_equal(served.numeric[4], served.numeric[1])
    assert served.revs[:, 0].tolist() == [0, 1, 2, 1, 1]


def test_a_retry_counts_once(plan: Plan) -> None:
    """After an attempt that was sent three times the next one counts one attempt, wherever the log was compacted."""
    rows = rows_of([Step(), Step(action=Action.AGAIN), Step(action=Action.AGAIN), Step()])
    for compacted_at in (1, 2, 3, 4):
        served = serve(
            ByteStore(plan),
            rows,
            born_at_ms=BORN_AT_MS,
            compaction=lambda length, at=compacted_at: 0 if length == at else None,  # type: ignore[misc]
        )
        assert served.numeric[3, :3].tolist() == [1, 1, 1_000]
        assert served.revs[3].tolist() == [1]


def test_a_retry_that_only_the_ring_remembers_has_its_rev_and_is_as_of_now(plan: Plan) -> None:
    """Its entry compacted away, the retry has the rev of the first attempt and the features of a new one, uncounted."""
    rows = rows_of([Step(), Step(merchant=2), Step(action=Action.AGAIN, back=1), Step()])
    served = serve(ByteStore(plan), rows, born_at_ms=BORN_AT_MS, compaction=lambda _: 0)
    assert served.findings[:, 0].tolist()[2] == DUPLICATE
    assert served.revs[:, 0].tolist() == [0, 1, 0, 2]
    np.testing.assert_array_equal(served.numeric[2], as_new(plan, rows, at=2))
    assert served.numeric[3, 1] == 2


def test_an_id_is_remembered_for_as_many_entries_as_the_ring_holds() -> None:
    """With a ring of four an id is known after three further entries; after four it is forgotten and counts anew."""
    remembered = rows_of([Step()] * 4 + [Step(action=Action.AGAIN, back=3), Step()])
    forgotten = rows_of([Step()] * 5 + [Step(action=Action.AGAIN, back=4), Step()])
    assert assert_defined(SPEC, remembered).revs[:, 0].tolist() == [0, 1, 2, 3, -1, 4]
    assert assert_defined(SPEC, forgotten).revs[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_outcomes_and_voids_are_counted_once_too() -> None:
    """A label, a decline and a void that arrive twice count once."""
    window = {"length": "1d", "hop": "1h", "at": "report", "sums": ["count", "fraud", "issuer_declined"]}
    spec = card_spec(
        {measure: {"total": f"w.{measure}"} for measure in ("count", "fraud", "issuer_declined")}, windows={"w": window}
    )
    once = rows_of([Step(), Step(), *[Step(action=action) for action in OUTCOMES], Step()])
    twice = np.vstack([once[:2], *[np.vstack([row, row]) for row in once[2:5]], once[5:]])
    for rows in (once, twice):
        assert assert_defined(spec, rows, born_at_ms=BORN_AT_MS).numeric[-1].tolist() == [1, 1, 1]


def test_a_void_takes_back_a_duplicate_that_the_ring_had_forgotten(plan: Plan) -> None:
    """A retry beyond the ring counts twice until its void arrives; then it has counted once."""
    again = Step(action=Action.AGAIN, back=5, wait_ms=0)
    rows = rows_of([*[Step(wait_ms=MINUTE_MS)] * 6, again, Step(), Step(action=Action.VOID, back=1), Step()])
    counts = assert_defined(SPEC, rows).numeric[:, plan.numeric.index("count")]
    assert counts[[5, 7, 9]].tolist() == [5, 7, 7]


@pytest.mark.parametrize("step", [1 << 10, 1 << 32, 1 << 44])
def test_ids_that_are_alike_are_not_taken_for_retries(plan: Plan, step: int) -> None:
    """Ids that agree in most of their bits are counted each, and a retry among them once, wherever it is remembered."""
    rows = rows_of([*[Step()] * 3, Step(action=Action.AGAIN), *[Step()] * 3, Step(action=Action.AGAIN, back=2), Step()])
    ids = {identity: 7 + step * place for place, identity in enumerate(dict.fromkeys(rows[:, Column.ID]))}
    rows[:, Column.ID] = [ids[identity] for identity in rows[:, Column.ID].tolist()]
    expected = assert_defined(SPEC, rows, born_at_ms=BORN_AT_MS)
    for keep in (0, 2, 9):
        served = serve(ByteStore(plan), rows, born_at_ms=BORN_AT_MS, compaction=lambda _, keep=keep: keep)  # type: ignore[misc]
        assert served.revs[:, 0].tolist() == [0, 1, 2, 2, 3, 4, 5, 3, 6]
        np.testing.assert_array_equal(served.numeric[[8]], expected.numeric[[8]])


def as_new(plan: Plan, rows: Rows, *, at: int) -> np.typing.NDArray[np.float32]:
    """What row `at` would see under an id of its own."""
    row = rows[at].copy()
    row[Column.ID] = mixed(1_000_000, bits=48)
    store = ByteStore(plan)
    serve(store, rows[:at], born_at_ms=BORN_AT_MS, compaction=lambda _: 0)
    store.append(row)
    return fold(plan, row[np.newaxis], Joined.of(store.read(row)), births_ms=[BORN_AT_MS]).numeric.reshape(-1)
