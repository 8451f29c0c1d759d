"""While a store gives no answer every transaction is decided, marked, and nothing of it is lost or counted twice."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from service.app import epoch_ms
from service.errors import StoreUnavailable
from service.stores import fallback
from service.stores.base import Append
from service.stores.fallback import FallbackStore
from service.stores.memory import MemoryStore
from service.stores.redis import StoreLimits, open_redis_store
from tests.scoring import START_MS, Scoring, outcome, request, scoring
from tests.stores.proxy import Proxy, proxy
from tests.stores.servers import Server, redis_binary, running

PATIENCE_S = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own for each test, which keeps what it acknowledged."""
    with running(redis_binary(), "--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path)) as started:
        yield started


@pytest.fixture
def tell(server: Server, small_bundle: Path, tmp_path: Path) -> Callable[..., None]:
    """Runs a story with a scorer over a store that gives up soon, through a proxy."""

    def run(story: Callable[[Scoring, FallbackStore, Proxy], Awaitable[None]]) -> None:
        async def told() -> None:
            async with proxy(server.port) as between:
                remote = await open_redis_store(between.url, StoreLimits(timeout_ms=50))
                store = FallbackStore(remote, now_ms=epoch_ms)
                one = scoring(small_bundle, store, tmp_path)
                await story(one, store, between)
                await one.scorer.close()
                await store.close()
                assert one.metric("fraud_feature_parity_mismatch_total") == 0

        asyncio.run(told())

    return run


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what happens behind the answers."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def body_of(one: Scoring, transaction_id: str, seconds: float = 0) -> dict[str, object]:
    answer = await one.score(request(transaction_id, seconds=seconds))
    body: dict[str, object] = orjson.loads(answer.body)
    return body


def test_an_outage_is_answered_marked_and_made_up_for(tell: Callable[..., None], server: Server) -> None:
    """Without the server every answer names what it lacked; once it is back every transaction is counted, once."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        assert (await body_of(one, "before"))["degraded"] == ["card"]  # the store is young: unknown, not new
        server.kill()
        for index in range(20):
            body = await body_of(one, f"during-{index}", seconds=1 + index)
            assert body["degraded"] == ["card", "idempotency"]
            assert body["decision"] == "approve"
        assert store.status().deferred == 40
        server.start()
        await until(lambda: store.status().deferred == 0)
        assert (await body_of(one, "after", seconds=30))["degraded"] == []
        assert (await one.features("after"))["card_count_1h"] == 21

    tell(story)


def test_a_retry_during_an_outage_gets_the_same_bytes_from_the_same_process(
    tell: Callable[..., None], server: Server
) -> None:
    """Also once the server is back, whichever process asks then."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        await one.score(request("before"))
        server.kill()
        first = await one.score(request("a", seconds=1))
        again = await one.score(request("a", seconds=1))
        assert (again.body, again.replayed) == (first.body, True)
        server.start()
        await until(lambda: store.status().deferred == 0)
        later = await one.score(request("a", seconds=1))
        assert (later.body, later.replayed) == (first.body, True)

    tell(story)


def test_a_retry_beyond_the_ring_of_a_decision_made_in_an_outage_counts_once(
    tell: Callable[..., None], server: Server
) -> None:
    """Its record knows no place in the log, but that its entry is there by now."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        await one.score(request("before"))
        server.kill()
        first = await one.score(request("a", seconds=1))
        server.start()
        await until(lambda: store.status().deferred == 0)
        for round_ in range(2):
            for index in range(100):
                await one.score(request(f"{round_}-{index}", seconds=2 + index))
            assert (await one.score(request("a", seconds=1))).body == first.body
        await one.score(request("last", seconds=300))
        assert (await one.features("last"))["card_count_1h"] == 202

    tell(story)


def test_what_waits_is_handed_over_at_an_orderly_end(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    """However much it is, if the store is back by then."""

    async def told() -> None:
        store = FallbackStore(await open_redis_store(server.url, StoreLimits(timeout_ms=50)), now_ms=epoch_ms)
        one = scoring(small_bundle, store, tmp_path)
        await one.score(request("before"))
        server.kill()
        for index in range(400):
            await one.score(request(f"during-{index}", seconds=1 + index / 10))
        assert store.status().deferred == 800
        server.start()
        await until(lambda: store.status().links_up == 1)
        await one.scorer.close()
        await store.close()
        assert store.status().deferred == 0

    asyncio.run(told())


def test_a_store_that_takes_little_at_a_time_is_handed_everything(
    server: Server, small_bundle: Path, tmp_path: Path
) -> None:
    """Less than it is first asked to take, and for longer than one that is away is waited for; each counts once."""

    async def told() -> None:
        async with proxy(server.port) as between:
            remote = await open_redis_store(between.url, StoreLimits(timeout_ms=100))
            store = FallbackStore(remote, now_ms=epoch_ms)
            one = scoring(small_bundle, store, tmp_path)
            await one.score(request("before"))
            server.kill()
            for index in range(200):
                await one.score(request(f"during-{index}", seconds=1 + index / 10))
            assert store.status().deferred == 400
            between.requests_per_s = 100_000
            server.start()
            await one.scorer.close()
            await store.close()
            assert store.status().deferred == 0
        fresh = FallbackStore(await open_redis_store(server.url, StoreLimits(timeout_ms=5000)), now_ms=epoch_ms)
        other = scoring(small_bundle, fresh, tmp_path)
        await other.score(request("after", seconds=30))
        assert (await other.features("after"))["card_count_1h"] == 201
        await other.scorer.close()
        await fresh.close()

    asyncio.run(told())


class Reluctant(MemoryStore):
    """Takes one of what it is given, once in twenty attempts."""

    attempts = 0

    async def append_missing(self, appends: Sequence[Append], *, since_ms: int) -> list[bool]:
        """See `Remote`."""
        self.attempts += 1
        taken = [] if self.attempts % 20 else await super().append_missing(appends[:1], since_ms=since_ms)
        return taken + [False] * (len(appends) - len(taken))


def test_attempts_in_vain_count_only_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes a little now and then is handed everything, after any number of them."""
    monkeypatch.setattr(fallback, "HAND_OVER_SECONDS", 0.001)

    async def told() -> None:
        remote = Reluctant(max_entities=10, max_decisions=10)
        store = FallbackStore(remote, now_ms=epoch_ms)
        store.defer([Append(b"key", b"%d" % number) for number in range(3)])
        await store.close()
        assert (store.status().deferred, remote.attempts) == (0, 60)

    asyncio.run(told())


def test_a_store_that_is_away_at_the_end_is_not_waited_for_long(tell: Callable[..., None], server: Server) -> None:
    """The process ends all the same, and says what is lost with it."""

    async def story(one: Scoring, _store: FallbackStore, _: Proxy) -> None:
        server.kill()
        for index in range(3):
            await one.score(request(f"lost-{index}"))

    with capture_logs() as logged:
        tell(story)
    assert {"event": "store_hand_over_given_up", "log_level": "error", "appends": 3, "decisions": 3} in logged


def test_what_was_done_but_not_acknowledged_is_not_done_twice(tell: Callable[..., None]) -> None:
    """Replies are lost, not requests: the entries are there, are appended again, and count once."""

    async def story(one: Scoring, store: FallbackStore, between: Proxy) -> None:
        await one.score(request("before"))
        between.swallowing = True
        for index in range(8):
            await one.score(request(f"during-{index}", seconds=1 + index))
        between.swallowing = False
        between.cut()
        await until(lambda: store.status().deferred == 0)
        await one.score(request("after", seconds=30))
        assert (await one.features("after"))["card_count_1h"] == 9

    tell(story)


def test_a_server_that_hangs_is_given_up_on_soon(tell: Callable[..., None], server: Server) -> None:
    """A paused server costs its budget a few times, then nothing; afterwards all is as before, within seconds."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        await one.score(request("before"))
        server.pause()
        for index in range(50):
            assert "idempotency" in str((await body_of(one, f"during-{index}", seconds=1 + index))["degraded"])
        assert store.status().links_up == 0
        server.resume()
        await until(lambda: store.status().deferred == 0)
        await one.score(request("after", seconds=100))
        assert (await one.features("after"))["card_count_1h"] == 51

    tell(story)


def test_outcomes_are_refused_without_a_server_and_lost_never(tell: Callable[..., None], server: Server) -> None:
    """Who reports is told to do it again; then it counts once."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        await one.score(request("a"))
        server.kill()
        [refused] = await one.reporter.report([outcome("a", seconds=1)], arrival_ms=START_MS)
        assert isinstance(refused, StoreUnavailable)
        server.start()
        await until(lambda: store.status().links_up == 1)
        for _again in range(2):
            [taken] = await one.reporter.report([outcome("a", seconds=1)], arrival_ms=START_MS)
            assert not isinstance(taken, StoreUnavailable)
        await one.score(request("b", seconds=2))
        assert (await one.features("b"))["card_frauds"] == 1

    tell(story)


def test_an_outcome_that_was_interrupted_is_finished_by_the_next_one(tell: Callable[..., None]) -> None:
    """The dossier was written, the entries were not: whoever comes next appends them."""

    async def story(one: Scoring, store: FallbackStore, _: Proxy) -> None:
        await one.score(request("a"))
        fraud = outcome("a", seconds=1)
        dossier = (await one.reporter._begin(fraud, START_MS)).take(fraud, arrival_ms=START_MS)
        assert await store.exchange_outcomes("a", None, dossier.to_json(), news=dossier.news("a"))
        [again] = await one.reporter.report([fraud], arrival_ms=START_MS)
        assert not isinstance(again, StoreUnavailable)
        await one.score(request("b", seconds=2))
        assert (await one.features("b"))["card_frauds"] == 1

    tell(story)


def test_flushed_histories_are_unknown_not_new(tell: Callable[..., None], server: Server) -> None:
    """A store that lost everything cannot tell a new card from an old one, and says so at once."""

    async def story(one: Scoring, _store: FallbackStore, _: Proxy) -> None:
        month = 31 * 24 * 3600
        await one.score(request("before"))
        assert (await body_of(one, "old", seconds=month))["degraded"] == []
        server.ask("FLUSHALL")
        assert (await body_of(one, "after", seconds=month + 1))["degraded"] == ["card"]

    tell(story)
