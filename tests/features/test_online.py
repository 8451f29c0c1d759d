"""Folding the bytes of a log one transaction at a time gives what folding the whole table gives, on every cell."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.features.compaction import Compaction, compact
from service.features.encoding import encode, read_entries
from service.features.entry import Column
from service.features.joined import Joined
from service.features.kernel import COMPACTABLE, DUPLICATE, RETRIED, UNAVAILABLE
from service.features.offline import Folded, bases, fold_events
from service.features.online import Histories, fold
from service.features.plan import Plan
from tests.features.agreement import card_spec, plan_of, shipped_spec
from tests.features.byte_store import ByteStore, nothing, serve, write
from tests.features.oracle import Declaration, Kind
from tests.features.strategies import specs, streams
from tests.features.streams import DAY_MS, HOUR_MS, Action, Rows, Step, random_steps, rows_of

pytestmark = pytest.mark.timeout(900)  # an example that fails is made small for up to five minutes

LENGTHS = range(1, 21)  # of a log when it is compacted


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(shipped_spec())


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of(random_steps(seed=1, size=400))


@pytest.fixture(scope="module")
def offline(plan: Plan, rows: Rows) -> Folded:
    return fold_events(plan, rows)


@settings(max_examples=200)
@given(spec=specs(), steps=streams(), seed=st.integers(0, 2**32))
def test_compaction_at_any_moment_changes_nothing(spec: Declaration, steps: list[Step], seed: int) -> None:
    """Bytes folded online are the table folded offline, whenever and however far the logs are compacted, if at all."""
    plan, rows = plan_of(spec), rows_of(steps)
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream, nothing secret

    def at_random(length: int) -> int | None:
        return rng.randint(0, length - 1) if rng.random() < 0.3 else None

    served = serve(ByteStore(plan), rows, born_at_ms=born_at_ms(rows), compaction=at_random)
    assert_served(served, fold_events(plan, rows), plan, rows)


@pytest.mark.parametrize("length", LENGTHS)
def test_compaction_at_every_length_changes_nothing(plan: Plan, rows: Rows, offline: Folded, length: int) -> None:
    """Logs that are compacted whenever they have `length` entries, whole or but for a few, give the same."""
    keep = length // 3
    served = serve(
        ByteStore(plan), rows, born_at_ms=born_at_ms(rows), compaction=lambda now: keep if now == length else None
    )
    assert_served(served, offline, plan, rows)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_transactions_that_are_read_together_see_only_what_came_before_them(
    plan: Plan, rows: Rows, offline: Folded, size: int
) -> None:
    """Later entries in the log that is read back, and other transactions in the same call, change nothing."""
    store, served = ByteStore(plan), nothing(plan, len(rows))
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        for row in batch:
            store.append(row)
        indices = [start + i for i, row in enumerate(batch) if is_transaction(row)]
        values = [value for index in indices for value in store.read(rows[index])]
        together = fold(plan, rows[indices], Joined.of(values), births_ms=[born_at_ms(rows)] * len(values))
        for place, index in enumerate(indices):
            write(served, index, pick(together, place))
        for row in batch:
            store.compact(row, lambda length: 4 if length >= 20 else None)
    assert_served(served, offline, plan, rows)


@pytest.mark.parametrize("cut", [0, 1, 150, 399])
def test_a_store_that_begins_with_bases_continues_as_if_it_had_seen_it_all(
    plan: Plan, rows: Rows, offline: Folded, cut: int
) -> None:
    """A prefix folded into bases offline, then the rest served from them, gives what the whole table gives."""
    before = rows[:cut]
    store = ByteStore(
        plan,
        [
            (k, int(rows[last, column]), base)
            for k, column in enumerate(plan.key_columns)
            for last, base in bases(plan, before, k)
        ],
    )
    rest = serve(store, rows[cut:], born_at_ms=born_at_ms(rows), compaction=lambda length: 3 if length > 11 else None)
    served = nothing(plan, len(rows))
    for place, index in enumerate(range(cut, len(rows))):
        write(served, index, pick(rest, place))
    assert_served(served, offline, plan, rows, first=cut)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("partitions", [1, 7, 64])
def test_partitions_and_threads_change_nothing(
    plan: Plan, rows: Rows, offline: Folded, partitions: int, threads: int
) -> None:
    """The table may be cut into any number of parts, folded by any number of threads."""
    parts = fold_events(plan, rows, partitions=partitions, threads=threads)
    np.testing.assert_array_equal(parts.numeric, offline.numeric, strict=True)
    np.testing.assert_array_equal(parts.revs, offline.revs, strict=True)


def test_a_log_asks_to_be_compacted_when_it_holds_what_its_specification_says() -> None:
    """With compact_at 4 and keep 2 the sixth entry asks, and the base then stands for all but two of them."""
    plan = plan_of(card_spec({"known": {"known": True}}, log={"compact_at": 4, "keep": 2, "ring": 8}))
    rows = rows_of([Step()] * 7)
    store = ByteStore(plan)
    served = serve(store, rows, born_at_ms=born_at_ms(rows), compaction=lambda _: None)
    assert (served.findings[:, 0] & COMPACTABLE).astype(bool).tolist() == [False] * 5 + [True] * 2
    value = store.read(rows[0])[0]
    done = compacted(plan, value, keep=None)
    rest = value.removeprefix(done.prefix)
    assert rest == encode(plan, rows[5], 0) + encode(plan, rows[6], 0)
    assert compact(plan, done.base + rest, 0) is None


def test_lateness_is_how_far_time_had_moved_on() -> None:
    """A transaction two hours behind what its card has seen is two hours late; one in order is not late."""
    plan, rows = plan_of(shipped_spec()), rows_of([Step(), Step(wait_ms=0, late_ms=2 * HOUR_MS)])
    served = serve(ByteStore(plan), rows, born_at_ms=born_at_ms(rows), compaction=lambda _: None)
    assert served.lateness_ms.tolist() == [[0, 0, 0, 0], [2 * HOUR_MS, 2 * HOUR_MS, 0, 0]]


def test_an_entity_whose_log_did_not_come_is_missing_and_the_others_are_not(plan: Plan, rows: Rows) -> None:
    """Without the card's log the card's features are missing and its outcome says so; nothing else changes."""
    row = rows[is_transactions(rows)][-1:]
    store = ByteStore(plan)
    serve(store, rows, born_at_ms=born_at_ms(rows), compaction=lambda _: None)
    values: list[bytes | None] = [*store.read(row[0])]
    complete = fold(plan, row, Joined.of(values), births_ms=[born_at_ms(rows)] * len(values))
    degraded = fold(plan, row, Joined.of([None, *values[1:]]), births_ms=[born_at_ms(rows)] * 4)
    own = plan.entity_features[0]
    assert degraded.findings[0, 0] == UNAVAILABLE
    assert degraded.findings[0, 1:].tolist() == complete.findings[0, 1:].tolist()
    assert np.isnan(degraded.numeric[0, own]).all()
    np.testing.assert_array_equal(degraded.numeric[0, own.stop :], complete.numeric[0, own.stop :])


def test_a_value_that_cannot_be_read_is_unavailable(plan: Plan, rows: Rows) -> None:
    """A cut or foreign value never gives features: another specification's base, half an entry, an unknown kind."""
    row = rows[:1]
    entry = encode(plan, row[0], 0)
    base = compacted(plan, entry, keep=0).base
    other = plan_of(card_spec({"known": {"known": True}}))
    foreign = compacted(other, encode(other, row[0], 0), keep=0).base
    unreadable = [
        b"",
        b"\x00" + entry,
        b"\x06" + entry,
        entry[:-1],
        entry + entry[:3],
        foreign + entry,
        base[:-1],
        base[:9],
    ]
    for value in unreadable:
        served = fold(plan, row, Joined.of([value, *[b""] * 3]), births_ms=[born_at_ms(rows)] * 4)
        assert served.findings[0, 0] == UNAVAILABLE, value
        assert np.isnan(served.numeric[0, plan.entity_features[0]]).all()


@given(noise=st.binary(max_size=80), after_a_base=st.booleans())
def test_any_bytes_can_be_folded(noise: bytes, *, after_a_base: bool) -> None:
    """Whatever a store returns, folding it ends and writes every cell of the transaction."""
    plan = plan_of(card_spec({"known": {"known": True}, "age": {"age": True}}))
    row = rows_of([Step()])
    base = compacted(plan, encode(plan, row[0], 0), keep=0).base
    value = (base if after_a_base else b"") + noise
    served = fold(plan, row, Joined.of([value]), births_ms=[0])
    assert served.findings[0, 0] >= 0
    assert served.lateness_ms[0, 0] >= 0 or served.findings[0, 0] & UNAVAILABLE


def test_a_compaction_says_what_it_replaces_element_by_element() -> None:
    """It names the first and the last element, and lists the entries that were accepted with their revs and life."""
    plan = plan_of(card_spec({"known": {"known": True}}, log={"compact_at": 2, "keep": 1, "ring": 8}))
    rows = rows_of([Step(), Step(), Step(action=Action.AGAIN), Step(), Step()])
    entries = [encode(plan, row, 0) for row in rows]
    first = compacted(plan, b"".join(entries[:4]), keep=1)
    assert (first.elements, first.first, first.last) == (3, entries[0], entries[2])
    assert (first.first_rev, first.entries) == (0, entries[0] + entries[1])  # the third is the second again
    second = compacted(plan, first.base + entries[3] + entries[4], keep=1)
    assert (second.elements, second.first, second.last) == (2, first.base, entries[3])
    assert (second.first_rev, second.entries) == (2, entries[3])
    assert first.generation == second.generation == rows[0, Column.ID]


def test_entries_can_be_read_back(plan: Plan, rows: Rows) -> None:
    """What was packed for an entity comes back in the columns that its entries carry, and packs to the same bytes."""
    for k in range(len(plan.entities)):
        packed = [encode(plan, row, k) for row in rows]
        again = read_entries(plan, k, b"".join(packed))
        np.testing.assert_array_equal(again[:, [Column.KIND, Column.ID, Column.TIME]], rows[:, [0, 1, 2]])
        assert [encode(plan, row, k) for row in again] == packed


def test_a_log_whose_oldest_entry_is_a_month_old_asks_to_be_compacted() -> None:
    """So its expiry is renewed, however rarely it is used."""
    plan = plan_of(card_spec({"known": {"known": True}}, log={"compact_at": 16, "keep": 4, "ring": 32}))
    rows = rows_of([Step(), Step(wait_ms=20 * DAY_MS), Step(wait_ms=20 * DAY_MS)])
    served = serve(ByteStore(plan), rows, born_at_ms=born_at_ms(rows), compaction=lambda _: None)
    assert (served.findings[:, 0] & COMPACTABLE).astype(bool).tolist() == [False, False, True]


def compacted(plan: Plan, value: bytes, *, keep: int | None) -> Compaction:
    """The compaction of a log of the first kind of entity that has something to compact."""
    done = compact(plan, value, 0, keep=keep)
    assert done is not None
    return done


def assert_served(served: Histories, offline: Folded, plan: Plan, rows: Rows, *, first: int = 0) -> None:
    """Insist that from row `first` on each transaction was answered as the definition has it.

    An accepted transaction has its own cells and revs. A duplicate has the rev of its first occurrence, and its
    features too while the log holds that. When only the ring remembers it, its features are as of now, which
    `test_retries.py` is about; and where the same id came with another body, it is refused and has none.
    """
    numeric, revs = offline.numeric.copy(), offline.revs.copy()
    accepted: dict[tuple[int, int, int], int] = {}
    for index in np.flatnonzero(is_transactions(rows)).tolist():
        for k, column in enumerate(plan.key_columns):
            log = (k, int(rows[index, column]), int(rows[index, Column.ID]))
            if offline.revs[index, k] >= 0:
                accepted[log] = index
            elif rows[index, column] != 0 and index >= first:
                earlier, own, outcome = accepted[log], plan.entity_features[k], served.findings[index, k]
                assert bool(outcome & DUPLICATE) != bool(outcome & RETRIED), (index, k, outcome)
                revs[index, k] = offline.revs[earlier, k]
                identical = bool(outcome & RETRIED) and bool((rows[index] == rows[earlier]).all())
                numeric[index, own] = (offline.numeric[earlier] if identical else served.numeric[index])[own]
    revs[~is_transactions(rows)] = -1
    np.testing.assert_array_equal(served.numeric[first:], numeric[first:], strict=True)
    np.testing.assert_array_equal(served.revs[first:], revs[first:], strict=True)


def is_transaction(row: Rows) -> bool:
    return bool(row[Column.KIND] in {Kind.ATTEMPT, Kind.FOLLOW_UP})


def is_transactions(rows: Rows) -> np.typing.NDArray[np.bool_]:
    return np.isin(rows[:, Column.KIND], [Kind.ATTEMPT, Kind.FOLLOW_UP])


def born_at_ms(rows: Rows) -> int:
    return int(rows[0, Column.TIME])


def pick(histories: Histories, place: int) -> Histories:
    """One transaction of a batch."""
    one = slice(place, place + 1)
    return Histories(
        histories.numeric[one],
        histories.categorical[one],
        histories.revs[one],
        histories.lateness_ms[one],
        histories.findings[one],
    )
