"""Many workers on one store compute what training computes from the archive, whatever happens to the payments."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app import bundle_directory, epoch_ms
from service.bundle import Bundle
from service.scorer import Answer
from service.settings import SHIPPED_MODELS
from service.stores.fallback import FallbackStore
from service.stores.redis import StoreLimits, open_redis_store
from tests.scoring import Scoring, scoring
from tests.stores.servers import Server, redis_binary, running
from tests.torture.collecting import parity
from tests.torture.payments import Payment, Told, stream

WORKERS = 32
REPLICAS = 4
PATIENT = StoreLimits(timeout_ms=10_000, record_ttl_s=10**7, max_stream_decisions=10**6, max_stream_archive=10**6)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(redis_binary()) as started:
        yield started


async def work(replicas: list[Scoring], steps: Iterator[Payment | Told]) -> int:
    """One worker: takes the next step, and sends it through one replica or another. Returns how many it decided."""
    decided = 0
    for step in steps:
        one, other = replicas[decided % REPLICAS], replicas[(decided + 1) % REPLICAS]
        if isinstance(step, Told):
            await one.reporter.report([step.outcome], arrival_ms=step.arrival_ms)
            continue
        decided += 1
        tries = [replica.scorer.score([step.request]) for replica in (one, other)]
        if step.at_once:
            answers = [answer for [answer] in await asyncio.gather(*tries)]
        else:
            answers = [answer for [answer] in [await tries[0]]]
            if step.retried:
                answers += await tries[1]
            else:
                tries[1].close()
        bodies = {answer.body for answer in answers if isinstance(answer, Answer)}
        assert len(bodies) == 1, answers
    return decided


async def serve(url: str, bundle: Path, state: Path, count: int) -> None:
    stores = [FallbackStore(await open_redis_store(url, PATIENT), now_ms=epoch_ms) for _ in range(REPLICAS)]
    replicas = [scoring(bundle, store, state / str(number), parity_share=0.02) for number, store in enumerate(stores)]
    steps = stream(count, seed=11)
    assert sum(await asyncio.gather(*[work(replicas, steps) for _ in range(WORKERS)])) == count
    for replica, store in zip(replicas, stores, strict=True):
        await replica.scorer.close()
        await store.close()
        assert replica.metric("fraud_feature_parity_mismatch_total") == 0
        assert replica.metric("fraud_feature_parity_cells_total") > 0


@pytest.mark.parametrize("count", [3_000, pytest.param(75_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_no_cell_differs_between_what_was_served_and_what_the_archive_gives(
    server: Server, tmp_path: Path, count: int
) -> None:
    """Through 32 workers on four replicas: every feature of every decision, and every place in every log."""
    path = bundle_directory(SHIPPED_MODELS)
    bundle = Bundle.load(path)
    asyncio.run(serve(server.url, path, tmp_path, count))
    found = parity(server.url, bundle, tmp_path / "collected")
    assert (found.decisions, found.cells_differing, found.revs_differing) == (count, 0, 0)
    assert (found.gaps, found.left_out) == (0, 0)
    assert found.cells > 0.5 * count * len(bundle.plan.numeric)
