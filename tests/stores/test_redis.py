"""What a store on a server promises beyond what every store does: it is shared, it can be lost, and it says so."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from service.errors import StoreUnavailable
from service.stores.base import NO_ANSWER, Append, Appends, DecisionRecord, StoreStatus
from service.stores.keys import archive_stream, decisions_stream, outcomes_stream, record_key
from service.stores.redis import RedisStore, StoreLimits, open_redis_store
from tests.stores.conftest import PATIENT, opened
from tests.stores.examples import compaction, decision, replace_one
from tests.stores.proxy import proxy
from tests.stores.servers import PATIENCE_S, Server, free_port, redis_binary, running

QUICK = StoreLimits(timeout_ms=100)  # for tests that wait for the timeout


@pytest.fixture
def server(redis_server: Server) -> Iterator[Server]:
    """An empty server, whose configuration is as it was when the test is over."""
    redis_server.ask("FLUSHALL")
    yield redis_server
    redis_server.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")


async def visit(store: RedisStore, key: bytes, entry: bytes, *, time_ms: int = 1) -> tuple[bytes | None, int]:
    """One entry: the log, and the birth."""
    found = await store.visit([], Appends.of([Append(key, entry)]), time_ms=time_ms)
    return found.logs.strings()[0], found.births_ms[0]


async def until_answered(store: RedisStore, key: bytes) -> bytes:
    """Append until the store answers; how often it took may be seen in the log."""
    deadline = time.monotonic() + PATIENCE_S
    while (log := (await visit(store, key, b"."))[0]) is None:
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
    return log


async def until(store: RedisStore, holds: Callable[[StoreStatus], bool]) -> None:
    """Wait for what the store notices in the background."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(store.status()):
        assert time.monotonic() < deadline, store.status()
        await asyncio.sleep(0.02)


def entries(server: Server, stream: bytes) -> list[dict[bytes, bytes]]:
    """The fields of what stands in a stream."""
    answer = server.ask("XRANGE", stream, "-", "+")
    assert isinstance(answer, list)
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in answer]


def test_a_new_log_expires_and_a_compacted_one_anew(server: Server) -> None:
    """Histories that nobody touches go away by themselves."""

    async def act() -> None:
        async with opened(server.url, replace(PATIENT, log_ttl_s=1000)) as store:
            await visit(store, b"visited", b"1")
            await store.append([Append(b"appended", b"1")])
            await visit(store, b"visited", b"2")  # by when the EXPIRE behind the first has been done
            assert [server.ask("TTL", key) for key in ("visited", "appended")] == [1000, 1000]
            server.ask("EXPIRE", "visited", 5)
            await replace_one(store, b"visited", compaction(b"B", b"1"), audited=False)
            assert server.ask("TTL", "visited") == 1000

    asyncio.run(act())


def test_a_log_is_read_once_however_many_of_its_entries_are_looked_for(server: Server) -> None:
    """A merchant's comes with every payment, and is long."""

    async def act() -> None:
        async with opened(server.url) as store:
            await visit(store, b"merchant", b"0")
            server.ask("CONFIG", "RESETSTAT")
            wanted = [Append(b"merchant", b"%d" % number) for number in range(100)]
            assert await store.append_missing(wanted, since_ms=0) == [True] * 100
            assert server.information("commandstats", "cmdstat_lrange").startswith("calls=1,")
            assert server.ask("LLEN", "merchant") == 100

    asyncio.run(act())


def test_what_a_base_stands_for_is_in_the_archive(server: Server) -> None:
    """Entries are archived under log, generation and rev before they are replaced, and once more if that is refused."""

    async def act() -> None:
        async with opened(server.url) as store:
            await store.append([Append(b"a", entry) for entry in (b"1", b"2", b"3")])
            assert await replace_one(store, b"a", compaction(b"B", b"1", b"2", first_rev=40), audited=False)
            assert not await replace_one(store, b"a", compaction(b"C", b"1", b"2", first_rev=40), audited=False)
        archived = {b"k": b"a", b"g": b"7", b"r": b"40", b"e": b"12"}
        assert entries(server, archive_stream(0)) == [archived, archived]

    asyncio.run(act())


def test_nothing_is_replaced_that_could_not_be_archived(server: Server) -> None:
    """Where the archive refuses, the log stays as it is."""

    async def act() -> None:
        async with opened(server.url) as store:
            await visit(store, b"a", b"1")
            server.ask("SET", archive_stream(0), "no stream")
            assert not await replace_one(store, b"a", compaction(b"B", b"1"), audited=False)
            assert (await visit(store, b"a", b"2"))[0] == b"12"

    asyncio.run(act())


def test_a_decision_and_its_stream_entry_exist_together(server: Server) -> None:
    """One entry per decision that stands, none for those that came too late; the record expires."""

    async def act() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            given = [decision("one", b"first"), decision("one", b"second"), decision("two", b"first")]
            await asyncio.gather(*(some.put_decisions(given) for some in (store, other) for _ in range(5)))
            found = await store.find_record("one")
        assert found is not None
        stream = entries(server, decisions_stream(0))
        assert [(entry[b"t"], set(entry)) for entry in stream] == [
            (b"one", {b"t", b"d", b"s"}),
            (b"two", {b"t", b"d", b"s"}),
        ]
        assert server.ask("GET", record_key(0, b"one")) == stream[0][b"d"] + found.position.encode()
        assert 86_300 < int(str(server.ask("TTL", record_key(0, b"one")))) <= 86_400

    asyncio.run(act())


def test_news_of_outcomes_is_told_once_and_only_if_they_are_replaced(server: Server) -> None:
    """Who lost the race tells nothing, and nothing is told where there is nothing to tell."""

    async def act() -> None:
        async with opened(server.url) as store:
            await store.exchange_outcomes("one", None, b"1", news=b"first")
            await store.exchange_outcomes("one", None, b"2", news=b"lost")
            await store.exchange_outcomes("one", b"1", b"3", news=None)
        assert entries(server, outcomes_stream(0)) == [{b"o": b"first"}]

    asyncio.run(act())


def test_streams_are_bounded(server: Server) -> None:
    """About as many entries stay as were asked for."""

    async def act() -> None:
        async with opened(server.url, replace(PATIENT, max_stream_decisions=100)) as store:
            for batch in range(10):
                await store.put_decisions([decision(f"{batch}-{number}") for number in range(100)])
            assert 100 <= len(entries(server, decisions_stream(0))) <= 300
            first = await store.find_record("0-0")
            assert first is not None
            assert await store.find_snapshot("0-0", first) is None

    asyncio.run(act())


def test_losing_everything_is_noticed_by_the_next_visit(server: Server) -> None:
    """After FLUSHALL the store is newborn for every process, so an empty history is an unknown one."""

    async def act() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            assert await visit(store, b"a", b"1", time_ms=100) == (b"1", 100)
            assert await visit(other, b"a", b"2", time_ms=200) == (b"12", 100)
            server.ask("FLUSHALL")
            assert await visit(store, b"a", b"3", time_ms=300) == (b"3", 300)
            assert await visit(other, b"a", b"4", time_ms=400) == (b"34", 300)

    asyncio.run(act())


def test_eviction_is_noticed(server: Server) -> None:
    """Where the server threw keys away, any history may be gone: the store is newborn, and says so."""

    async def act() -> None:
        async with opened(server.url) as store:
            await visit(store, b"a", b"1", time_ms=100)
            await asyncio.sleep(0.1)  # the first look
            used = int(server.information("memory", "used_memory"))
            server.ask("CONFIG", "SET", "maxmemory", used + 2_000_000, "maxmemory-policy", "allkeys-random")
            for number in range(200):
                await visit(store, b"filler-%d" % number, b"x" * 50_000, time_ms=500)
            await until(store, lambda status: status.evictions > 0)
            server.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
            _, born_ms = await visit(store, b"a", b"2", time_ms=900)
            assert born_ms in {500, 900}  # the marker itself may have been among what was thrown away
            assert store.status().evictions == int(server.information("stats", "evicted_keys"))

    with capture_logs() as logged:
        asyncio.run(act())
    assert "store_evicted" in {entry["event"] for entry in logged}


def test_a_server_that_may_evict_is_warned_of(server: Server) -> None:
    """Another policy than noeviction loses histories when memory runs out."""

    async def act() -> None:
        async with opened(server.url):
            pass

    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with capture_logs() as logged:
        asyncio.run(act())
    assert [entry["event"] for entry in logged] == ["store_may_evict"]


@pytest.mark.parametrize("overwritten", ["archive", "decisions"])
def test_entries_trimmed_before_they_were_collected_are_counted(server: Server, overwritten: str) -> None:
    """What a group has read may go; what nobody has read is missed."""
    stream = {"archive": archive_stream(0), "decisions": decisions_stream(0)}[overwritten]

    def overflow(status: StoreStatus) -> int:
        return status.archive_overflow if overwritten == "archive" else status.decisions_overflow

    def add(count: int) -> None:
        for _ in range(count):
            server.ask("XADD", stream, "*", "f", "v")

    async def act() -> None:
        async with opened(server.url) as store:
            look = store._watch.look
            add(10)
            await look()
            assert overflow(store.status()) == 0
            server.ask("XTRIM", stream, "MAXLEN", 7)
            await look()
            assert overflow(store.status()) == 3
            server.ask("XGROUP", "CREATE", stream, "collect", "0")
            server.ask("XREADGROUP", "GROUP", "collect", "me", "COUNT", 4, "STREAMS", stream, ">")
            server.ask("XTRIM", stream, "MAXLEN", 3)
            await look()
            assert overflow(store.status()) == 3
            server.ask("XTRIM", stream, "MAXLEN", 1)
            await look()
            await look()
            assert overflow(store.status()) == 5

    asyncio.run(act())


def test_scripts_are_loaded_again_where_the_server_forgot_them(server: Server) -> None:
    """SCRIPT FLUSH costs one more trip and nothing else."""

    async def act() -> None:
        async with opened(server.url) as store:
            server.ask("SCRIPT", "FLUSH")
            standing = await asyncio.gather(*(store.put_decisions([decision("one")]) for _ in range(3)))
            assert None not in [record for (record,) in standing]
            server.ask("SCRIPT", "FLUSH")
            assert await store.exchange_outcomes("one", None, b"1", news=None)
        assert len(entries(server, decisions_stream(0))) == 1

    asyncio.run(act())


def test_a_full_server_takes_nothing_and_says_so(server: Server) -> None:
    """Out of memory, what is read is answered and what is written is not; nothing is half done."""

    async def act() -> None:
        async with opened(server.url) as store:
            await visit(store, b"a", b"1", time_ms=5)
            await store.put_decisions([decision("one", b"kept")])
            server.ask("CONFIG", "SET", "maxmemory", "1")
            found = await store.visit(["one", "two"], Appends.of([Append(b"a", b"2"), Append(b"b", b"2")]), time_ms=9)
            assert (found.logs.strings(), found.births_ms) == ([None, None], [5, 5])
            record, none = found.records
            assert isinstance(record, DecisionRecord)
            assert record.response.body == b"kept"
            assert none is None
            assert await store.append([Append(b"a", b"2")]) == [False]
            assert await store.put_decisions([decision("two")]) == [None]
            assert not await replace_one(store, b"a", compaction(b"B", b"1"), audited=False)
            with pytest.raises(StoreUnavailable, match="OOM"):
                await store.exchange_outcomes("one", None, b"1", news=b"news")
            server.ask("CONFIG", "SET", "maxmemory", "0")
            assert await store.find_record("two") is None
            assert (await visit(store, b"a", b"3"))[0] == b"13"
            await asyncio.sleep(1.5)  # the next look

        assert [len(entries(server, stream)) for stream in (decisions_stream(0), outcomes_stream(0))] == [1, 0]

    with capture_logs() as logged:
        asyncio.run(act())
    assert logged
    assert all((entry["event"], set(entry["reasons"])) == ("store_refused", {"OOM"}) for entry in logged)


def test_a_replica_is_given_up_for_who_is_the_server_now(server: Server) -> None:
    """A server that turned into a replica refuses to write; the name may stand for another one by then."""

    async def act() -> None:
        async with opened(server.url) as store:
            server.ask("REPLICAOF", "127.0.0.1", free_port())
            server.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")
            try:
                assert (await visit(store, b"a", b"1"))[0] is None
            finally:
                server.ask("REPLICAOF", "NO", "ONE")
            assert await until_answered(store, b"a") == b"."
            assert store._nodes.counts.reconnects == 1

    asyncio.run(act())


def test_lost_replies_leave_it_open_whether_it_was_done(server: Server) -> None:
    """No answer is told as such, in time, and nothing is done twice."""

    async def act() -> None:
        async with proxy(server.port) as between, opened(between.url, QUICK) as store:
            between.swallowing = True
            found = await store.visit(["one"], Appends.of([Append(b"a", b"1")]), time_ms=5)
            assert (found.logs.strings(), found.births_ms, found.records) == ([None], [5], [NO_ANSWER])
            assert await store.put_decisions([decision("one")]) == [None]
            between.swallowing = False
            between.cut()  # else the replies that come would not be those that are waited for
            assert (await until_answered(store, b"a")).strip(b".") == b"1"
            assert await store.find_record("one") is not None
        assert len(entries(server, decisions_stream(0))) == 1

    asyncio.run(act())


def test_without_an_answer_nothing_is_claimed(server: Server) -> None:
    """While the server is away every call ends in time with what stands for no answer, and raises where it may."""

    async def act() -> None:
        async with proxy(server.port) as between, opened(between.url, QUICK) as store:
            between.open.clear()
            for _ in range(2):  # waiting at first, at once later
                assert (await store.visit(["one"], Appends.of([Append(b"a", b"1")]), time_ms=5)).records == [NO_ANSWER]
                assert await store.append([Append(b"a", b"1")]) == [False]
                assert await store.put_decisions([decision("one")]) == [None]
                assert not await replace_one(store, b"a", compaction(b"B", b"1"), audited=False)
                for asked in (
                    store.find_record("one"),
                    store.find_snapshot("one", structs.replace(decision("one").record, position="1-1")),
                    store.find_outcomes("one"),
                    store.exchange_outcomes("one", None, b"1", news=None),
                ):
                    with pytest.raises(StoreUnavailable):
                        await asked
            status = store.status()
            assert (status.links, status.links_up) == (1, 0)
            assert status.timeouts >= 3
            assert status.unsent >= 8

    asyncio.run(act())


def test_a_server_that_hangs_costs_its_timeout_and_then_nothing() -> None:
    """Stopped by a signal it is given up, and used again when it goes on; what was sent stands once at most."""

    async def act(server: Server) -> None:
        async with opened(server.url, QUICK) as store:
            await visit(store, b"a", b"1")
            server.pause()
            silent = [(await visit(store, b"a", b"x"))[0] for _ in range(50)]
            assert silent == [None] * 50
            server.resume()
            log = await until_answered(store, b"a")
            assert log.startswith(b"1")
            assert log.count(b"x") <= 3

    with running(redis_binary()) as server:
        asyncio.run(act(server))


def test_what_was_acknowledged_outlives_a_crash_of_a_server_with_aof() -> None:
    """Killed and started again, the server has every log, decision and birth that it had acknowledged."""

    async def act(server: Server) -> None:
        async with opened(server.url, PATIENT) as store:
            await visit(store, b"a", b"1", time_ms=100)
            await store.put_decisions([decision("one", b"kept")])
            server.kill()
            assert (await visit(store, b"a", b"2", time_ms=200))[0] is None
            server.start()
            assert (await until_answered(store, b"a")).startswith(b"1")
            assert (await visit(store, b"a", b"3", time_ms=300))[1] == 100
            found = await store.find_record("one")
            assert found is not None
            assert found.response.body == b"kept"

    with running(redis_binary(), "--appendonly", "yes", "--appendfsync", "always") as server:
        asyncio.run(act(server))


def test_a_server_without_persistence_is_newborn_after_a_crash() -> None:
    """What it forgot is unknown, not new."""

    async def act(server: Server) -> None:
        async with opened(server.url, PATIENT) as store:
            await visit(store, b"a", b"1", time_ms=100)
            server.kill()
            server.start()
            await until_answered(store, b"b")  # an event from long before, which does not make the server older
            assert (await visit(store, b"a", b"2", time_ms=300)) == (b"2", 100)

    with running(redis_binary()) as server:
        asyncio.run(act(server))


def test_records_of_another_format_are_no_answer(server: Server) -> None:
    """Where we cannot read what is remembered, we do not say that nothing is."""

    async def act() -> None:
        async with opened(server.url) as store:
            server.ask("SET", record_key(0, b"one"), b"\x01\x00\x63")
            assert (await store.visit(["one"], Appends.of([]), time_ms=1)).records == [NO_ANSWER]
            assert await store.put_decisions([decision("one")]) == [None]
            with pytest.raises(StoreUnavailable, match="another version"):
                await store.find_record("one")

    asyncio.run(act())


def test_a_user_with_few_rights_is_enough(server: Server) -> None:
    """Without the right to INFO nothing is watched, and everything else works."""
    rights = ["+@read", "+@write", "+@scripting", "+@connection", "-info"]
    server.ask("ACL", "SETUSER", "few", "reset", "on", ">pass", "~*", *rights)

    async def act() -> None:
        async with opened(server.url.replace("//", "//few:pass@")) as store:
            assert await visit(store, b"a", b"1") == (b"1", 1)
            assert (await store.put_decisions([decision("one")]))[0] is not None
            assert await replace_one(store, b"a", compaction(b"B", b"1"), audited=False)
            await store._watch.look()

    asyncio.run(act())


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_server_that_is_away_at_the_start_is_done_without(scheme: str) -> None:
    """Nothing has an answer, the log names the server, and shows no password."""

    async def act() -> None:
        place = f"127.0.0.1:{free_port()}"
        with capture_logs() as logged:
            async with opened(f"{scheme}://:s3cret@{place}", PATIENT) as store:
                assert await store.append([Append(b"a", b"1")]) == [False]
                assert store.status().links_up == 0
                with pytest.raises(StoreUnavailable, match="did not answer"):
                    await store.find_record("one")
        assert place in str(logged)
        assert "s3cret" not in str(logged)

    asyncio.run(act())


def test_a_server_that_comes_after_the_start_is_used() -> None:
    """Nobody has to start anything again."""

    async def act() -> None:
        with running(redis_binary()) as server:
            server.kill()
            async with opened(server.url, PATIENT) as store:
                server.start()
                await until(store, lambda status: status.links_up == 1)
                assert await store.append([Append(b"a", b"1")]) == [True]

    asyncio.run(act())


def test_a_node_of_a_cluster_is_not_taken_for_a_server() -> None:
    """The message says what to write instead."""
    with (
        running(redis_binary(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server,
        pytest.raises(StoreUnavailable, match=r"redis\+cluster://"),
    ):
        asyncio.run(open_redis_store(server.url, PATIENT))
