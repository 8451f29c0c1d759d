"""What every store must do, whatever it keeps its bytes in."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from msgspec import structs

from service.features.state import BASE_MARK
from service.stores.base import MAX_CHUNKS, Append, Appends, Chunk, DecisionRecord, Past, Remote
from service.stores.memory import MemoryStore
from tests.stores.conftest import Opener
from tests.stores.examples import compaction, decision, replace_one

T = TypeVar("T")


def using(open_store: Opener, act: Callable[[Remote], Awaitable[T]]) -> T:
    """What comes of some calls to a store that is opened and closed for them."""

    async def within() -> T:
        async with open_store() as store:
            return await act(store)

    return asyncio.run(within())


async def logs(store: Remote, *appends: tuple[bytes, bytes]) -> list[bytes | None]:
    visit = await store.visit([], Appends.of([Append(*append) for append in appends]), time_ms=1)
    return visit.logs.strings()


def test_a_visit_reads_the_whole_log_with_its_own_entry_last(open_store: Opener) -> None:
    """What comes back is everything appended so far, in order."""

    async def act(store: Remote) -> list[list[bytes | None]]:
        return [await logs(store, (b"a", b"1")), await logs(store, (b"a", b"2"), (b"b", b"3"))]

    assert using(open_store, act) == [[b"1"], [b"12", b"3"]]


def test_two_appends_to_one_log_see_each_other_in_order(open_store: Opener) -> None:
    """In one visit too, an entry sees those before it and not those behind it."""

    async def act(store: Remote) -> list[bytes | None]:
        return await logs(store, (b"a", b"1"), (b"b", b"x"), (b"a", b"2"))

    assert using(open_store, act) == [b"1", b"x", b"12"]


def test_visits_at_the_same_time_get_their_own_answers(open_store: Opener) -> None:
    """However many there are in one turn of the loop, each gets the logs it asked for; none is lost or doubled."""

    async def act(store: Remote) -> list[list[bytes | None]]:
        visits = [logs(store, (b"log-%d" % number, b"own"), (b"all", b"%02d" % number)) for number in range(50)]
        return await asyncio.gather(*visits)

    answers = using(open_store, act)
    assert [own for own, _ in answers] == [b"own"] * 50
    longest = max(shared or b"" for _, shared in answers)
    assert sorted(longest[at : at + 2] for at in range(0, 100, 2)) == [b"%02d" % number for number in range(50)]
    assert all(longest.startswith(shared or b"?") for _, shared in answers)


def test_entries_may_be_any_bytes(open_store: Opener) -> None:
    """Nothing in an entry is taken for a part of the protocol."""
    entry = bytes(range(256)) + b"\r\n$-1\r\n"

    async def act(store: Remote) -> list[bytes | None]:
        await logs(store, (b"a", entry))
        return await logs(store, (b"a", b"."))

    assert using(open_store, act) == [entry + b"."]


def test_an_append_is_acknowledged_and_there(open_store: Opener) -> None:
    """What is appended without reading stands in the log."""

    async def act(store: Remote) -> tuple[list[bool], list[bytes | None]]:
        return await store.append([Append(b"a", b"1"), Append(b"b", b"2"), Append(b"a", b"3")]), await logs(
            store, (b"a", b"4")
        )

    assert using(open_store, act) == ([True, True, True], [b"134"])


def test_nothing_asked_is_nothing_answered(open_store: Opener) -> None:
    """Empty calls are calls."""

    async def act(store: Remote) -> bool:
        visit = await store.visit([], Appends.of([]), time_ms=1)
        return (visit.logs.strings(), visit.records, await store.append([]), await store.put_decisions([])) == (
            [],
            [],
            [],
            [],
        )

    assert using(open_store, act)


def test_a_base_replaces_what_it_stands_for_and_keeps_what_came_after(open_store: Opener) -> None:
    """Appends that arrive while a base is computed are not lost."""

    async def act(store: Remote) -> tuple[bool, list[bytes | None]]:
        await logs(store, (b"a", b"1"), (b"a", b"2"), (b"a", b"3"))
        return await replace_one(store, b"a", compaction(b"B", b"1", b"2"), audited=False), await logs(
            store, (b"a", b"4")
        )

    assert using(open_store, act) == (True, [b"B34"])


def test_a_base_can_stand_for_all_there_is(open_store: Opener) -> None:
    """A log that is nothing but a base goes on like any other."""

    async def act(store: Remote) -> tuple[bool, list[bytes | None]]:
        await logs(store, (b"a", b"1"))
        return await replace_one(store, b"a", compaction(b"B", b"1"), audited=False), await logs(store, (b"a", b"2"))

    assert using(open_store, act) == (True, [b"B2"])


def test_of_two_bases_for_the_same_entries_one_is_taken(open_store: Opener) -> None:
    """Whoever lost the race changes nothing."""

    async def act(store: Remote) -> tuple[list[bool], list[bytes | None]]:
        await logs(store, (b"a", b"1"), (b"a", b"2"))
        swaps = (replace_one(store, b"a", compaction(base, b"1", b"2"), audited=False) for base in (b"B", b"C"))
        return sorted(await asyncio.gather(*swaps)), await logs(store, (b"a", b"3"))

    swapped, (log,) = using(open_store, act)
    assert swapped == [False, True]
    assert log in {b"B3", b"C3"}


@pytest.mark.parametrize("elements", [(b"2",), (b"1", b"2", b"3"), (b"0", b"2")])
def test_a_base_for_another_beginning_is_refused(open_store: Opener, elements: tuple[bytes, ...]) -> None:
    """The log must still begin with what the base stands for."""

    async def act(store: Remote) -> tuple[bool, list[bytes | None]]:
        await logs(store, (b"a", b"1"), (b"a", b"2"))
        return await replace_one(store, b"a", compaction(b"B", *elements), audited=False), await logs(
            store, (b"a", b"4")
        )

    assert using(open_store, act) == (False, [b"124"])


def test_the_past_of_an_audited_log_is_kept_beside_it(open_store: Opener) -> None:
    """What bases stand for comes back in order, behind the base that the first of them came after, and with the log."""
    seed = bytes([BASE_MARK]) + (6).to_bytes(4, "little") + b"S"

    async def act(store: Remote) -> list[Past | None]:
        pasts = [await store.find_past(b"a")]
        await store.append([Append(b"a", entry) for entry in (b"1", b"2", b"3", b"4")])
        await replace_one(store, b"a", compaction(seed, b"1"), audited=False)
        pasts.append(await store.find_past(b"a"))
        second = replace(compaction(b"T", b"2", first_rev=1), prefix=seed + b"2", elements=2, first=seed)
        assert await replace_one(store, b"a", second, audited=True)
        third = replace(compaction(b"U", b"3", first_rev=2), prefix=b"T3", elements=2, first=b"T")
        assert await replace_one(store, b"a", third, audited=True)
        assert not await replace_one(store, b"a", third, audited=True)
        return [*pasts, await store.find_past(b"a")]

    chunks = [Chunk(7, 1, b"2"), Chunk(7, 2, b"3")]
    assert using(open_store, act) == [None, Past(b"", [], seed + b"234"), Past(seed, chunks, b"U4")]


def test_the_past_of_an_audited_log_is_bounded(open_store: Opener) -> None:
    """When there are too many chunks it begins anew, behind the base that stands now."""
    bases = [b"B%d" % number for number in range(MAX_CHUNKS + 2)]

    async def act(store: Remote) -> list[Past | None]:
        await store.append([Append(b"a", b"B0")])
        pasts = []
        for number in range(1, MAX_CHUNKS + 2):
            await store.append([Append(b"a", b"e")])
            both = replace(compaction(bases[number], b"e"), prefix=bases[number - 1] + b"e", elements=2)
            assert await replace_one(store, b"a", replace(both, first=bases[number - 1]), audited=True)
            pasts.append(await store.find_past(b"a"))
        return pasts[-2:]

    full, anew = using(open_store, act)
    assert full is not None
    assert len(full.chunks) == MAX_CHUNKS
    assert anew == Past(bases[-1], [], bases[-1])


def test_a_store_is_born_once(open_store: Opener) -> None:
    """The first time given is the birth; later ones do not move it, earlier ones neither."""

    async def act(store: Remote) -> list[int]:
        visits = [
            await store.visit([], Appends.of([Append(b"a", b"1")]), time_ms=time_ms) for time_ms in (500, 900, 100)
        ]
        return [birth for visit in visits for birth in visit.births_ms]

    assert using(open_store, act) == [500, 500, 500]


def test_a_decision_is_found_with_what_it_was_made_from(open_store: Opener) -> None:
    """The record comes back as it was, with a position under which its snapshot is."""
    given = decision("one", b'{"decision":"review"}')

    async def act(store: Remote) -> None:
        (standing,) = await store.put_decisions([given])
        found = await store.find_record("one")
        assert found is not None
        assert found.position
        assert standing is not None
        assert standing.response == found.response
        assert structs.replace(found, position="") == given.record
        snapshot = await store.find_snapshot("one", found)
        assert snapshot is not None
        assert snapshot.request == given.snapshot.request
        for name in ("numeric", "categorical", "findings"):
            np.testing.assert_array_equal(getattr(snapshot, name), getattr(given.snapshot, name))

    using(open_store, act)


def test_the_first_decision_of_a_transaction_stands(open_store: Opener) -> None:
    """Whoever comes later gets the first one's record, in one call or in several, at the same time too."""

    async def act(store: Remote) -> set[bytes]:
        twice = [decision("one", b"first"), decision("two", b"other"), decision("one", b"second")]
        rounds = await asyncio.gather(*(store.put_decisions(twice) for _ in range(5)))
        assert all(record is not None for standing in rounds for record in standing)
        return {record.response.body for standing in rounds for record in standing[::2] if record is not None}

    assert using(open_store, act) == {b"first"}


def test_a_visit_finds_decisions_in_the_order_asked(open_store: Opener) -> None:
    """Known ids give their record, unknown ones nothing."""

    async def act(store: Remote) -> list[bytes | None]:
        await store.put_decisions([decision("one", b"first"), decision("three", b"third")])
        visit = await store.visit(["three", "two", "one"], Appends.of([Append(b"a", b"1")]), time_ms=1)
        return [record.response.body if isinstance(record, DecisionRecord) else None for record in visit.records]

    assert using(open_store, act) == [b"third", None, b"first"]


def test_what_was_never_put_is_not_found(open_store: Opener) -> None:
    """There is a difference between nothing and no answer."""

    async def act(store: Remote) -> list[object]:
        nowhere = decision("one").record
        snapshot = await store.find_snapshot("one", nowhere)
        return [await store.find_record("one"), await store.find_outcomes("one"), snapshot]

    assert using(open_store, act) == [None, None, None]


def test_outcomes_are_replaced_only_by_who_read_the_latest(open_store: Opener) -> None:
    """Of two who read the same document, the second to write it is told no."""

    async def act(store: Remote) -> tuple[list[bool], bytes | None]:
        exchanged = [
            await store.exchange_outcomes("one", before, after, news=b"news")
            for before, after in [(None, b"1"), (None, b"2"), (b"1", b"3"), (b"1", b"4"), (b"3", b"1")]
        ]
        return exchanged, await store.find_outcomes("one")

    assert using(open_store, act) == ([True, False, True, False, True], b"1")


def test_two_openings_of_a_store_see_the_same(open_store: Opener) -> None:
    """What one process appended, decided and learned, another one finds."""

    async def act(store: Remote) -> tuple[list[bytes | None], int, bool]:
        async with open_store() as other:
            await other.visit([], Appends.of([Append(b"a", b"1")]), time_ms=3)
            await other.put_decisions([decision("one", b"first")])
            await other.exchange_outcomes("one", None, b"known", news=None)
        visit = await store.visit(["one"], Appends.of([Append(b"a", b"2")]), time_ms=8)
        [record] = visit.records
        decided = isinstance(record, DecisionRecord) and record.response.body == b"first"
        return visit.logs.strings(), int(visit.births_ms[0]), decided and await store.find_outcomes("one") == b"known"

    assert using(open_store, act) == ([b"12"], 3, True)


def memory(max_entities: int = 1000, max_decisions: int = 1000) -> MemoryStore:
    return MemoryStore(max_entities=max_entities, max_decisions=max_decisions)


def test_memory_forgets_the_log_that_was_longest_not_written_when_full() -> None:
    """The bound holds, the evicted log begins anew, and the eviction is counted."""
    store = memory(max_entities=2)
    for key in (b"a", b"b", b"a", b"c"):
        asyncio.run(logs(store, (key, key)))
    assert (store.status().entities, store.status().evictions) == (2, 1)
    assert asyncio.run(logs(store, (b"a", b"!"))) == [b"aa!"]
    assert asyncio.run(logs(store, (b"b", b"!"))) == [b"!"]


def test_memory_bounds_the_decisions_it_keeps() -> None:
    """The oldest decision makes room."""
    store = memory(max_decisions=2)
    names = ("one", "two", "three")
    for name in names:
        asyncio.run(store.put_decisions([decision(name)]))
    assert [asyncio.run(store.find_record(name)) is None for name in names] == [True, False, False]
