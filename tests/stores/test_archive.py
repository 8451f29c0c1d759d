"""What a shared store offers to those who bring a past into it, on one server and on a cluster."""

import asyncio

import pytest

from service.errors import StoreUnavailable
from service.features.state import BASE_MARK
from service.stores.base import Append, Appends, Chunk, Past
from service.stores.keys import archive_stream
from service.stores.redis import RedisStore
from tests.stores.conftest import PATIENT, opened
from tests.stores.examples import compaction, replace_one
from tests.stores.proxy import proxy
from tests.stores.servers import Cluster, Server


@pytest.fixture(params=["redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """Of an empty store that is shared."""
    if request.param == "redis":
        server: Server = request.getfixturevalue("redis_server")
        server.ask("FLUSHALL")
        return server.url
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.ask_all("FLUSHALL")
    return cluster.url


def base(letter: bytes) -> bytes:
    """Six bytes that are a base to those who do not look inside."""
    return bytes([BASE_MARK]) + (6).to_bytes(4, "little") + letter


def test_logs_are_read_as_they_are(url: str) -> None:
    """In the order asked, and reading leaves no trace."""

    async def act() -> None:
        keys = [b"log-%d" % number for number in range(100)]
        async with opened(url) as store:
            await store.append([Append(key, key) for key in keys[::2]])
            for _ in range(2):
                assert await store.read_logs(keys) == [key if place % 2 == 0 else b"" for place, key in enumerate(keys)]

    asyncio.run(act())


def test_everything_archived_about_a_spec_is_found(url: str) -> None:
    """However much there is, in whatever partition; nothing of other specs."""

    async def act() -> None:
        keys = [b"spec-a:card:%d" % number for number in range(600)]
        async with opened(url) as store:
            for key in [b"spec-b:card:1", *keys]:
                await store.append([Append(key, b"1"), Append(key, b"2")])
                assert await replace_one(store, key, compaction(b"B", b"1", b"2", first_rev=4), audited=False)
            found = [chunk async for chunk in store.archived(b"spec-a:")]
        assert sorted(found) == sorted((key, Chunk(7, 4, b"12")) for key in keys)

    asyncio.run(act())


def test_a_base_is_put_before_entries_or_instead_of_a_base_or_of_nothing(url: str) -> None:
    """What came behind stays, and another beginning than the one that was read is refused."""

    async def act() -> None:
        async with opened(url) as store:
            await store.append([Append(b"entries", b"1"), Append(b"entries", b"2")])
            await store.append([Append(b"based", base(b"O")), Append(b"based", b"2")])
            given = [(b"none", b"", True), (b"entries", b"1", True), (b"based", base(b"O"), True)]
            given += [(b"none", b"", False), (b"entries", b"1", False), (b"based", b"", False), (b"none", b"1", False)]
            for key, beginning, expected in given:
                seeded = await store.seed(key, base(b"N"), generation=7, rev=9, beginning=beginning)
                assert seeded == expected, (key, beginning)
            logs = await store.read_logs([b"none", b"entries", b"based"])
        assert logs == [base(b"N"), base(b"N") + b"12", base(b"N") + b"2"]

    asyncio.run(act())


def test_what_was_kept_beside_a_log_goes_when_its_beginning_changes(url: str) -> None:
    """Chunks that came after another base would not continue the new one."""

    async def act() -> Past | None:
        async with opened(url) as store:
            await store.append([Append(b"a", b"1"), Append(b"a", b"2")])
            assert await replace_one(store, b"a", compaction(base(b"O"), b"1"), audited=True)
            assert await store.seed(b"a", base(b"N"), generation=7, rev=9, beginning=base(b"O"))
            return await store.find_past(b"a")

    assert asyncio.run(act()) == Past(b"", [], base(b"N") + b"2")


def test_those_who_collect_are_told_of_a_base(redis_server: Server) -> None:
    """It stands in the archive under log, generation and rev, and expires with its log like others."""
    redis_server.ask("FLUSHALL")

    async def act() -> None:
        async with opened(redis_server.url) as store:
            await store.seed(b"a", base(b"N"), generation=7, rev=9, beginning=b"")
            assert [chunk async for chunk in store.archived(b"a")] == []

    asyncio.run(act())
    told = redis_server.ask("XRANGE", archive_stream(0), "-", "+")
    assert isinstance(told, list)
    assert [fields for _, fields in told] == [[b"k", b"a", b"g", b"7", b"r", b"9", b"b", base(b"N")]]
    assert redis_server.ask("TTL", "a") == PATIENT.log_ttl_s


def test_a_store_is_as_old_as_the_past_brought_into_it(url: str) -> None:
    """Before or after it was born; a younger past changes nothing."""

    async def births(store: RedisStore) -> set[int]:
        logs = [Append(b"log-%d" % number, b".") for number in range(50)]
        return set((await store.visit([], Appends.of(logs), time_ms=900)).births_ms)

    async def act() -> None:
        async with opened(url) as store:
            await store.set_birth(700)
            assert await births(store) == {700}
            await store.set_birth(300)
            assert await births(store) == {300}
            await store.set_birth(800)
            assert await births(store) == {300}

    asyncio.run(act())


def test_without_an_answer_it_is_said(redis_server: Server) -> None:
    """Whoever brings a past must know what was not done."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, opened(between.url) as store:
            store._nodes.every()[0].link.drop("for the test")
            between.open.clear()
            for asked in (
                store.read_logs([b"a"]),
                store.seed(b"a", base(b"N"), generation=7, rev=9, beginning=b""),
                store.set_birth(1),
                anext(store.archived(b"")),
            ):
                with pytest.raises(StoreUnavailable):
                    await asked

    asyncio.run(act())
