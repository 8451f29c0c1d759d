"""What every store must do, whatever it keeps its bytes in."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from service.stores.base import Append, DecisionRecord, Store
from service.stores.memory import MemoryStore


def memory(max_entities: int = 1000, max_decisions: int = 1000) -> MemoryStore:
    return MemoryStore(max_entities=max_entities, max_decisions=max_decisions)


@pytest.fixture(params=[memory])
def store(request: pytest.FixtureRequest) -> Store:
    open_store: Callable[[], Store] = request.param
    return open_store()


def record(response: bytes) -> DecisionRecord:
    return DecisionRecord(
        b"digest", response, 0, (b"a",), np.zeros(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64)
    )


def test_an_append_reads_the_whole_log_with_its_own_entry_last(store: Store) -> None:
    """What comes back is everything appended so far, in order."""
    assert asyncio.run(store.append_and_read([Append(b"a", b"1")])) == [b"1"]
    assert asyncio.run(store.append_and_read([Append(b"a", b"2"), Append(b"b", b"3")])) == [b"12", b"3"]


def test_two_appends_to_one_log_see_each_other_in_order(store: Store) -> None:
    """In one call too, an entry sees those before it and not those behind it."""
    assert asyncio.run(store.append_and_read([Append(b"a", b"1"), Append(b"a", b"2")])) == [b"1", b"12"]


def test_a_base_replaces_the_prefix_it_stands_for_and_keeps_what_came_after(store: Store) -> None:
    """Appends that arrive while a base is computed are not lost."""
    asyncio.run(store.append_and_read([Append(b"a", b"1"), Append(b"a", b"2"), Append(b"a", b"3")]))
    assert asyncio.run(store.replace(b"a", b"12", b"B"))
    assert asyncio.run(store.append_and_read([Append(b"a", b"4")])) == [b"B34"]


@pytest.mark.parametrize("prefix", [b"", b"2", b"1234"])
def test_a_base_for_another_prefix_is_refused(store: Store, prefix: bytes) -> None:
    """Whoever lost the race changes nothing."""
    asyncio.run(store.append_and_read([Append(b"a", b"1"), Append(b"a", b"2")]))
    assert not asyncio.run(store.replace(b"a", prefix, b"B"))
    assert asyncio.run(store.append_and_read([Append(b"a", b"3")])) == [b"123"]


def test_a_store_is_born_once(store: Store) -> None:
    """The first time given is the birth; later ones do not move it, earlier ones neither."""
    assert [asyncio.run(store.born_at(time)) for time in (500, 900, 100)] == [500, 500, 500]


def test_a_decision_is_found_under_its_id(store: Store) -> None:
    """Known ids give their record, unknown ones nothing, in the order asked."""
    asyncio.run(store.put_record("one", record(b"first")))
    found = asyncio.run(store.find_records(["two", "one"]))
    assert [None if item is None else item.response for item in found] == [None, b"first"]


def test_exchanging_a_label_tells_the_one_before(store: Store) -> None:
    """A transaction begins as legitimate; each exchange returns what it replaces."""
    assert [asyncio.run(store.exchange_label("one", label)) for label in (1, 1, 0, 1)] == [0, 1, 1, 0]


def test_memory_forgets_the_longest_unused_log_when_full() -> None:
    """The bound holds, the evicted log begins anew, and the eviction is counted."""
    store = memory(max_entities=2)
    for key in (b"a", b"b", b"a", b"c"):
        asyncio.run(store.append_and_read([Append(key, key)]))
    assert (store.entities, store.evictions) == (2, 1)
    assert asyncio.run(store.append_and_read([Append(b"a", b"!")])) == [b"aa!"]
    assert asyncio.run(store.append_and_read([Append(b"b", b"!")])) == [b"!"]


def test_memory_bounds_the_decisions_it_keeps() -> None:
    """The oldest decision makes room."""
    store = memory(max_decisions=2)
    for name in ("one", "two", "three"):
        asyncio.run(store.put_record(name, record(name.encode())))
    found = asyncio.run(store.find_records(["one", "two", "three"]))
    assert [item is None for item in found] == [True, False, False]
