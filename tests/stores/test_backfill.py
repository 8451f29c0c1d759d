"""A past that is brought into a store is what the service would know, had it been told everything live."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from service.__main__ import main
from service.app import epoch_ms
from service.backfill import Backfilled, backfill, read_history
from service.bundle import Bundle
from service.errors import DataInvalid
from service.features.entry import Column, Kind
from service.scorer import ScoreRequest
from service.stores.fallback import FallbackStore
from service.stores.memory import MemoryStore
from service.stores.redis import RedisStore, open_redis_store
from service.transaction import write_instant
from tests.scoring import START_MS, Scoring, outcome, request, scoring
from tests.stores.conftest import PATIENT
from tests.stores.servers import Server

COUNT = 60  # past payments, one each minute: more than a log holds before it is compacted
PROBES = [
    {"card_id": "card-0", "terminal_id": "t0"},
    {"card_id": "card-1", "terminal_id": "t1"},
    {"card_id": "card-2", "terminal_id": "t0"},
    {"card_id": "new", "terminal_id": "t1"},
]


@pytest.fixture
def server(redis_server: Server) -> Server:
    """The session's Redis, emptied."""
    redis_server.ask("FLUSHALL")
    return redis_server


def payments(first: int = 0, last: int = COUNT) -> list[ScoreRequest]:
    """Of three cards at two terminals."""
    return [
        request(f"p{index}", seconds=60 * index, card_id=f"card-{index % 3}", terminal_id=f"t{index % 2}")
        for index in range(first, last)
    ]


def fraud() -> bytes:
    """What became known about the first of them, at the end."""
    instant = write_instant(START_MS + 60_000 * COUNT)
    report = {"transaction_id": "p0", "type": "confirmed_fraud", "occurred_at": instant, "reported_at": instant}
    return orjson.dumps(report)


def lines() -> list[bytes]:
    """All of it as a file has it."""
    return [*[payment.body for payment in payments()], fraud()]


async def probed(one: Scoring) -> list[dict[str, float | None]]:
    """What is known of each card and terminal afterwards."""
    seen = []
    for index, fields in enumerate(PROBES):
        probe = request(f"probe-{index}", seconds=60 * COUNT + 1 + index, **fields)
        await one.score(probe)
        seen.append(await one.features(f"probe-{index}"))
    return seen


async def told_live(one: Scoring) -> list[dict[str, float | None]]:
    for payment in payments():
        await one.score(payment)
    await one.reporter.report([outcome("p0", seconds=60 * COUNT)], arrival_ms=START_MS + 60_000 * COUNT)
    return await probed(one)


@pytest.fixture(scope="module")
def live(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float | None]]:
    """What a service knows that saw everything happen, a month after its store was born."""

    async def told() -> list[dict[str, float | None]]:
        store = MemoryStore(max_entities=1000, max_decisions=1000)
        one = scoring(small_bundle, store, tmp_path_factory.mktemp("state"))
        await one.score(request("birth", card_id="other"))
        return await told_live(one)

    return asyncio.run(told())


@asynccontextmanager
async def opened(server: Server, bundle: Path, state: Path) -> AsyncIterator[tuple[RedisStore, Scoring]]:
    store = await open_redis_store(server.url, PATIENT)
    one = scoring(bundle, FallbackStore(store, now_ms=epoch_ms), state)
    try:
        yield store, one
    finally:
        await one.scorer.close()
        await store.close()
    assert one.metric("fraud_feature_parity_mismatch_total") == 0


async def bring(store: RedisStore, one: Scoring, past: list[bytes]) -> Backfilled:
    history = read_history(past, one.bundle.currencies, now_ms=START_MS + 10**10)
    return await backfill(store, one.layout, history)


@pytest.mark.parametrize("already", [0, 1, 20, COUNT])
def test_a_past_is_as_good_as_having_been_there(
    server: Server, small_bundle: Path, tmp_path: Path, live: list[dict[str, float | None]], already: int
) -> None:
    """Also where the service saw the last part of it live, whether or not that was compacted since."""

    async def told() -> None:
        async with opened(server, small_bundle, tmp_path) as (store, one):
            for payment in payments(COUNT - already):
                await one.score(payment)
                await asyncio.sleep(0.001)
            done = await bring(store, one, lines())
            assert done.unjoined == 0
            assert done.events == COUNT + 1
            assert known(await probed(one)) == known(live)

    asyncio.run(told())


def known(seen: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Of the cards and terminals that have a past: whether a new card is known to be new depends on the store's age."""
    return seen[: len(PROBES) - 1]


def test_a_retry_after_a_past_was_brought_in_changes_nothing(
    server: Server, small_bundle: Path, tmp_path: Path
) -> None:
    """Every place in the log has moved; what the log remembers was counted once, and stays so."""

    async def told() -> None:
        async with opened(server, small_bundle, tmp_path) as (store, one):
            live = payments(COUNT - 15)
            for payment in live:
                await one.score(payment)
            await bring(store, one, [payment.body for payment in payments(0, COUNT - 15)])
            for payment in live[-9:]:
                assert (await one.score(payment)).replayed
            assert (await probed(one))[0]["card_count_1h"] == COUNT / 3

    asyncio.run(told())


def test_bringing_the_same_past_again_changes_nothing(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    """Every log has it already, or cannot be joined any more; no count moves."""

    async def told() -> None:
        async with opened(server, small_bundle, tmp_path) as (store, one):
            first = await bring(store, one, lines())
            again = await bring(store, one, lines())
            assert (first.seeded, again.seeded) == (5, 0)
            assert (await probed(one))[0]["card_count_1h"] == COUNT / 3

    asyncio.run(told())


def test_a_past_ends_the_time_in_which_everybody_is_unknown(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    """The store is as old as the past that was brought into it."""

    async def told() -> None:
        async with opened(server, small_bundle, tmp_path) as (store, one):
            old = request("old", seconds=-40 * 24 * 3600, card_id="somebody").body
            await bring(store, one, [old, *lines()])
            answer = await one.score(request("a", seconds=60 * COUNT, card_id="never-seen"))
            assert orjson.loads(answer.body)["degraded"] == []

    asyncio.run(told())


def test_a_label_of_the_past_can_be_taken_back(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    """What was known of outcomes is remembered, so that a withdrawal finds what it withdraws."""

    async def told() -> None:
        async with opened(server, small_bundle, tmp_path) as (store, one):
            await bring(store, one, lines())
            withdrawn = outcome("p0", "withdrawn", seconds=60 * COUNT + 1)
            await one.reporter.report([withdrawn], arrival_ms=withdrawn.reported_at_ms)
            await one.score(request("a", seconds=60 * COUNT + 2, card_id="card-0"))
            assert (await one.features("a"))["card_frauds"] == 0

    asyncio.run(told())


@pytest.mark.parametrize(
    ("earlier", "said", "amount_minor"),
    [
        (request("p"), {}, 2_000),
        (request("p", amount=3_000, currency="USD"), {}, 1_500),
        (request("p"), {"amount": 7, "currency": "EUR"}, 2_000),
        (None, {"amount": 3_000, "currency": "USD"}, 1_500),
        (None, {"amount": 3_000, "currency": "CHF"}, 0),
        (None, {}, 0),
    ],
)
def test_a_label_of_the_past_knows_its_amount(
    small_bundle: Path, earlier: ScoreRequest | None, said: dict[str, object], amount_minor: int
) -> None:
    """That of the transaction where it stands before it, else what the outcome says; what takes it back, the same."""
    told: dict[str, object] = {"transaction_id": "p", "timestamp": write_instant(START_MS)}
    told |= {"card_id": "card", "merchant_id": "merchant"} | said
    events = [
        orjson.dumps(told | {"type": kind, "occurred_at": write_instant(at), "reported_at": write_instant(at)})
        for kind, at in (("confirmed_fraud", START_MS + 1), ("withdrawn", START_MS + 2))
    ]
    past = [] if earlier is None else [earlier.body]
    history = read_history([*past, *events], Bundle.load(small_bundle).currencies, now_ms=START_MS + 10**10)
    labels = history.events[history.events[:, Column.KIND] == Kind.FRAUD_LABEL]
    assert labels[:, [Column.DELTA, Column.AMOUNT]].tolist() == [[1, amount_minor], [-1, amount_minor]]
    assert history.dossiers["p"].amount_minor == amount_minor


@pytest.mark.parametrize(
    ("line", "fault"),
    [(b"{", "line 2: body: JSON"), (b'{"transaction_id":"a"}', "line 2: "), (fraud(), "line 2: the outcome of")],
)
def test_a_line_that_cannot_be_read_is_named(small_bundle: Path, tmp_path: Path, line: bytes, fault: str) -> None:
    """Nothing is brought in then."""
    one = scoring(small_bundle, MemoryStore(max_entities=1000, max_decisions=1000), tmp_path)
    with pytest.raises(DataInvalid, match=fault):
        read_history([request("first").body, line], one.bundle.currencies, now_ms=START_MS + 10**10)


def test_the_command_says_what_it_did(
    server: Server, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And refuses a store that nobody else sees, or a call without a file."""
    path = tmp_path / "past.ndjson"
    path.write_bytes(b"\n".join(lines()))
    settings = ["--model-dir", str(small_bundle), "--store-url", server.url]
    assert main(["backfill", "--history", str(path), *settings]) == 0
    assert "61 events: 5 logs begin with their past now" in capsys.readouterr().out
    assert main(["backfill", *settings]) == 1
    assert main(["backfill", "--history", str(path), "--model-dir", str(small_bundle)]) == 1
    assert "memory://" in capsys.readouterr().err
