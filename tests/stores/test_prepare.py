"""A feature spec that is to be served later gathers its history while another one is served."""

import asyncio
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from service.app import epoch_ms
from service.backfill import backfill, read_history
from service.errors import IdempotencyConflict
from service.features.entry import Column, transaction_row
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from service.layout import Layout, Logs, tokens_of
from service.stores.base import Remote
from service.stores.fallback import FallbackStore
from service.stores.redis import open_redis_store
from tests.scoring import START_MS, Scoring, outcome, request, scoring
from tests.small_bundle import SPEC
from tests.stores.conftest import PATIENT, Opener
from tests.stores.servers import Server

PAST = 45  # payments, one each minute: more than a log holds before it is compacted


@pytest.fixture
def later() -> Layout:
    """The small bundle's spec with the hour's window cut into other tiles, so that its logs are others."""
    spec = deepcopy(SPEC)
    spec["entities"]["card"]["windows"]["h1"]["hop"] = "15m"  # type: ignore[index]
    return Layout(compile_plan(parse_spec(spec)))


async def seen(store: Remote, layout: Layout, seconds: float, card_id: str = "card") -> list[float]:
    """What the next payment of the card would see under a layout: count of the hour, frauds, issuer declines."""
    probe = request(f"probe-{card_id}", seconds=seconds, card_id=card_id).transaction
    rows = np.array([transaction_row(probe, arrival_ms=probe.event_time_ms, amount_minor=2_000)], np.int64)
    keys = layout.keys([tokens_of(probe)])
    visit = await store.visit([], layout.appends(rows, keys), time_ms=int(rows[0, Column.TIME]))
    logs = Logs.arrange(layout, keys, visit.logs, visit.births_ms)
    features: list[float] = logs.fold(rows).numeric[0, layout.plan.entity_features[0]].tolist()
    return features


async def pay(one: Scoring, first: int, last: int) -> None:
    for index in range(first, last):
        await one.score(request(f"p{index}", seconds=60 * index))
        await asyncio.sleep(0.001)


def test_what_is_served_and_what_is_prepared_have_the_same_past(
    open_store: Opener, small_bundle: Path, tmp_path: Path, later: Layout
) -> None:
    """Payments, outcomes and what is taken back reach the logs of both, which are compacted alike."""

    async def told() -> None:
        async with open_store() as store:
            one = scoring(small_bundle, FallbackStore(store, now_ms=epoch_ms), tmp_path, prepared=later)
            await pay(one, 0, PAST)
            [refused] = await one.scorer.score([request("p0", card_id="else", seconds=60 * PAST)])
            assert isinstance(refused, IdempotencyConflict)
            await one.reporter.report([outcome("p0", seconds=60 * PAST)], arrival_ms=START_MS + 60_000 * PAST)
            await one.scorer.close()
            assert await seen(store, later, 60 * PAST + 1) == [PAST, 1, 0]
            assert await seen(store, later, 60 * PAST + 1, card_id="else") == [0, 0, 0]

    asyncio.run(told())


def test_what_is_prepared_gets_the_past_it_did_not_see(
    redis_server: Server, small_bundle: Path, tmp_path: Path, later: Layout
) -> None:
    """Of the payments that came after the preparation began none is counted twice."""
    redis_server.ask("FLUSHALL")

    async def told() -> None:
        store = await open_redis_store(redis_server.url, PATIENT)
        try:
            stand_in = FallbackStore(store, now_ms=epoch_ms)
            before = scoring(small_bundle, stand_in, tmp_path / "before")
            await pay(before, 0, 20)
            await before.scorer.close()
            one = scoring(small_bundle, stand_in, tmp_path / "since", prepared=later)
            await pay(one, 20, PAST)
            await one.scorer.close()
            past = [request(f"p{index}", seconds=60 * index).body for index in range(PAST)]
            history = read_history(past, one.bundle.currencies, now_ms=START_MS + 10**10)
            await backfill(store, later, history)
            assert await seen(store, later, 60 * PAST + 1) == [PAST, 0, 0]
        finally:
            await store.close()

    asyncio.run(told())
