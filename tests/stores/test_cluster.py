"""What a store on a cluster promises: slots may move and nodes may die, and only the keys concerned notice."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
from redis.crc import key_slot

from service.errors import StoreUnavailable
from service.stores.base import Append, Appends
from service.stores.keys import SLOTS, decisions_stream, record_key, slot_of
from service.stores.redis import RedisStore, StoreLimits
from tests.stores.conftest import opened
from tests.stores.examples import compaction, replace_one
from tests.stores.servers import PATIENCE_S, Cluster, redis_binary, running, running_cluster

QUICK = StoreLimits(timeout_ms=200)  # for tests that wait for the timeout


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A cluster whose slots may be moved and whose nodes may be killed."""
    with running_cluster() as cluster:
        yield cluster


async def visit(store: RedisStore, *keys: bytes, entry: bytes = b".", time_ms: int = 1) -> list[bytes | None]:
    found = await store.visit([], Appends.of([Append(key, entry) for key in keys]), time_ms=time_ms)
    return found.logs.strings()


async def births(store: RedisStore, *keys: bytes, time_ms: int) -> list[int]:
    found = await store.visit([], Appends.of([Append(key, b".") for key in keys]), time_ms=time_ms)
    return list(found.births_ms)


async def until_answered(store: RedisStore, key: bytes) -> bytes:
    deadline = time.monotonic() + PATIENCE_S
    while (log := (await visit(store, key))[0]) is None:
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)
    return log


def key_in(slots: range, start: int = 0) -> bytes:
    """A log whose slot is among these."""
    return next(key for number in count(start) if slot_of(key := b"3f2a91bc:card:%d" % number) in slots)


def key_of_each(cluster: Cluster) -> list[bytes]:
    """A log for each node of a cluster whose slots are where they were at first."""
    masters = len(cluster.servers)
    return [key_in(range(SLOTS * index // masters, SLOTS * (index + 1) // masters)) for index in range(masters)]


@pytest.mark.parametrize(
    "key", [b"", b"a", b"3f2a91bc:card:1", b"decision:{7}:tx", b"{}a", b"a{b", b"a{{b}}c", b"{a}{b}"]
)
def test_slots_are_those_of_the_specification(key: bytes) -> None:
    """What is hashed is what stands in the first braces, unless that is nothing."""
    assert slot_of(key) == key_slot(key)


def test_what_belongs_together_is_on_one_node() -> None:
    """Scripts name only keys of one slot."""
    assert slot_of(record_key(7, b"any{id}")) == slot_of(decisions_stream(7))


def test_every_node_answers_for_its_own(cluster: Cluster) -> None:
    """One visit reaches all nodes, and each keeps what is its."""
    cluster.ask_all("FLUSHALL")
    keys = key_of_each(cluster)

    async def act() -> None:
        async with opened(cluster.url) as store:
            assert await visit(store, *keys, *keys) == [b"."] * 3 + [b".."] * 3
            assert (store.status().links, store.status().links_up) == (3, 3)

    asyncio.run(act())
    for key in keys:
        assert cluster.owner(key).ask("LLEN", key) == 2


def test_a_node_that_lost_everything_is_newborn_alone(cluster: Cluster) -> None:
    """The histories of the others are as known as before."""
    cluster.ask_all("FLUSHALL")
    keys = key_of_each(cluster)

    async def act() -> None:
        async with opened(cluster.url) as store:
            assert await births(store, *keys, time_ms=100) == [100, 100, 100]
            cluster.servers[1].ask("FLUSHALL")
            assert await births(store, *keys, time_ms=200) == [100, 200, 100]

    asyncio.run(act())


def test_a_slot_that_moved_is_found(own_cluster: Cluster) -> None:
    """MOVED is followed within the same visit, and only once: afterwards the new owner is asked at once."""
    first, second, _ = own_cluster.servers
    key = key_in(range(SLOTS // 3))

    async def act() -> None:
        async with opened(own_cluster.url) as store:
            assert await visit(store, key) == [b"."]
            own_cluster.begin_to_move(slot_of(key), first, second)
            own_cluster.move_keys(slot_of(key), first, second)
            own_cluster.end_to_move(slot_of(key), second)
            assert await visit(store, key, key) == [b"..", b"..."]
            assert await store.append([Append(key, b".")]) == [True]
            assert await replace_one(store, key, replace(compaction(b"B", b"."), elements=4), audited=True)
            assert await visit(store, key) == [b"B."]
            redirections = first.information("errorstats", "errorstat_MOVED")
            assert await visit(store, key) == [b"B.."]
            assert first.information("errorstats", "errorstat_MOVED") == redirections

    asyncio.run(act())


def test_a_slot_on_its_way_is_found_on_either_side(own_cluster: Cluster) -> None:
    """ASK is followed for what has moved already, or is new; what has not moved is answered where it is."""
    first, second, _ = own_cluster.servers
    slot = slot_of(key_in(range(SLOTS // 3)))
    old = key_in(range(slot, slot + 1))
    gone = key_in(range(slot, slot + 1), start=int(old.rpartition(b":")[2]) + 1)
    new = key_in(range(slot, slot + 1), start=int(gone.rpartition(b":")[2]) + 1)

    async def act() -> None:
        async with opened(own_cluster.url) as store:
            await visit(store, old, gone)
            own_cluster.begin_to_move(slot, first, second)
            first.ask("MIGRATE", "127.0.0.1", second.port, gone, 0, 5000)
            assert await visit(store, old, gone, new, gone) == [b"..", b"..", b".", b"..."]
            assert [first.ask("LLEN", old), await store.append([Append(new, b".")])] == [2, [True]]
            assert await visit(store, new) == [b"..."]

    asyncio.run(act())


def test_slots_move_under_load_without_losing_or_doubling_anything(own_cluster: Cluster) -> None:
    """Every entry that was acknowledged is in its log exactly once, and its visit saw it there, the last."""
    first, second, third = own_cluster.servers
    slots = [slot_of(key_in(range(start, start + 1000))) for start in (0, 1000, 2000)]
    keys = [key_in(range(slot, slot + 1)) for slot in slots] + key_of_each(own_cluster)[1:]
    moves = [
        (slot, source, target)
        for source, target in ((first, second), (second, third), (third, first))
        for slot in slots
    ]

    async def move_all() -> None:
        for slot, source, target in moves:
            for step in (
                lambda slot=slot, source=source, target=target: own_cluster.begin_to_move(slot, source, target),
                lambda slot=slot, source=source, target=target: own_cluster.move_keys(slot, source, target),
                lambda slot=slot, target=target: own_cluster.end_to_move(slot, target),
            ):
                await asyncio.to_thread(step)
                await asyncio.sleep(0.02)

    async def act() -> tuple[list[bytes], int]:
        acknowledged: list[bytes] = []
        silent = 0
        async with opened(own_cluster.url) as store:
            moved = asyncio.get_running_loop().create_task(move_all())
            for number in count():
                entry = b"%06d" % number
                for log in await visit(store, *keys, entry=entry):
                    silent += log is None
                    assert log is None or log.endswith(entry)
                acknowledged += [entry]
                if moved.done() and number > 300:
                    break
            await moved
        return acknowledged, silent

    acknowledged, silent = asyncio.run(act())
    assert silent == 0
    for key in keys:
        kept = own_cluster.owner(key).ask("LRANGE", key, 0, -1)
        assert kept == acknowledged


def test_histories_that_moved_keep_their_birth(own_cluster: Cluster) -> None:
    """A node whose first slot moved away is as old as before, not a newborn."""
    _, second, third = own_cluster.servers
    lowest = SLOTS // 3
    key = key_in(range(lowest + 1, 2 * lowest))

    async def act() -> None:
        async with opened(own_cluster.url) as store:
            assert await births(store, *key_of_each(own_cluster), time_ms=100) == [100, 100, 100]
            own_cluster.begin_to_move(lowest, second, third)
            own_cluster.move_keys(lowest, second, third)
            own_cluster.end_to_move(lowest, third)
            deadline = time.monotonic() + PATIENCE_S
            before = store._nodes.node_of(key)
            while store._nodes.node_of(key) is before:
                assert time.monotonic() < deadline, "the new order was not learnt"
                await asyncio.sleep(0.05)
            assert await births(store, key, time_ms=900) == [100]
            second.ask("FLUSHALL")
            assert await births(store, key, time_ms=900) == [900]

    asyncio.run(act())


def test_a_dead_node_takes_along_only_its_keys(own_cluster: Cluster) -> None:
    """The others answer as before, its own have no answer at once, and all is well when it is back."""
    keys = key_of_each(own_cluster)
    _, victim, _ = own_cluster.servers

    async def act() -> None:
        async with opened(own_cluster.url, QUICK) as store:
            await visit(store, *keys)
            victim.kill()
            for number in range(2, 40):
                assert await visit(store, *keys) == [b"." * number, None, b"." * number]
                await asyncio.sleep(0.05)
            assert store.status().links_up == 2
            async with opened(own_cluster.url, QUICK) as late:
                assert [log is None for log in await visit(late, *keys)] == [False, True, False]
            victim.start()
            assert await until_answered(store, keys[1]) == b"."
            assert None not in await visit(store, *keys)

    asyncio.run(act())


def test_the_seed_may_be_any_node_and_must_be_one(cluster: Cluster) -> None:
    """A cluster can be opened through each of its nodes; a lone server is told how to be written."""

    async def act(url: str) -> None:
        async with opened(url) as store:
            assert None not in await visit(store, *key_of_each(cluster))

    for server in cluster.servers:
        asyncio.run(act(f"redis+cluster://127.0.0.1:{server.port}"))
    with running(redis_binary()) as alone, pytest.raises(StoreUnavailable, match="begin the store's URL with redis://"):
        asyncio.run(act(f"redis+cluster://127.0.0.1:{alone.port}"))


def test_a_user_of_the_acl_logs_in_on_every_node(cluster: Cluster) -> None:
    """The URL's user and password are for all nodes."""
    cluster.ask_all("FLUSHALL")
    cluster.ask_all("ACL", "SETUSER", "scorer", "on", ">s3cret", "~*", "+@all")

    async def act() -> None:
        async with opened(cluster.url.replace("//", "//scorer:s3cret@")) as store:
            assert await visit(store, *key_of_each(cluster)) == [b"."] * 3
            for node in store._nodes.every():
                assert await node.link.send(b"ACL WHOAMI\r\n", 1) == [b"scorer"]

    asyncio.run(act())


def test_a_replica_takes_over_with_all_histories() -> None:
    """When a master dies for good its replica is found, and nothing it had acknowledged is unknown."""

    async def act(cluster: Cluster) -> None:
        key = key_of_each(cluster)[0]
        async with opened(f"redis+cluster://127.0.0.1:{cluster.servers[1].port}", QUICK) as store:
            assert await births(store, key, time_ms=100) == [100]
            cluster.servers[0].ask("WAIT", 1, 1000)
            await asyncio.sleep(0.2)
            cluster.servers[0].kill()
            assert (await until_answered(store, key)).startswith(b".")
            assert await births(store, key, time_ms=900) == [100]
            deadline = time.monotonic() + PATIENCE_S
            while store.status().links != store.status().links_up:
                assert time.monotonic() < deadline, store.status()
                await asyncio.sleep(0.05)

    with running_cluster(replicas=1) as cluster:
        asyncio.run(act(cluster))
