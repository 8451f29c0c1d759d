"""One process of several that score payments over the same store; told by its command line what to send.

    python -m tests.torture.process URL BUNDLE STATE NAME COUNT

Each payment it was answered for is written to standard output, one id per line, after the answer.
"""

import asyncio
import sys
from pathlib import Path

from service.app import epoch_ms
from service.errors import IdempotencyConflict
from service.logs import configure_logging
from service.stores.fallback import FallbackStore
from service.stores.redis import StoreLimits, open_redis_store
from tests.scoring import request, scoring

AT_ONCE = 8
LIMITS = StoreLimits(timeout_ms=200, record_ttl_s=10**7, max_stream_decisions=10**6, max_stream_archive=10**6)


async def send(url: str, bundle: Path, state: Path, name: str, count: int) -> None:
    """Payments of five cards at one merchant, several at a time, every tenth sent twice."""
    store = FallbackStore(await open_redis_store(url, LIMITS), now_ms=epoch_ms)
    one = scoring(bundle, store, state, parity_share=0.5)
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            payment = request(
                f"{name}-{number}",
                seconds=number / 10,
                card_id=f"card-{number % 5}",
                merchant_id="hot",
                terminal_id=f"terminal-{number % 2}",
            )
            for _ in range(2 if number % 10 == 0 else 1):
                [answer] = await one.scorer.score([payment])
                assert not isinstance(answer, IdempotencyConflict)
            sys.stdout.write(f"{name}-{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*[work() for _ in range(AT_ONCE)])
    await one.scorer.close()
    for _ in range(600):  # half a minute, if need be
        await asyncio.sleep(0.05 if store.status().deferred else 0)
    await store.close()
    assert one.metric("fraud_feature_parity_mismatch_total") == 0


if __name__ == "__main__":
    configure_logging("error", sys.stderr)  # what happens to the store is the point; standard output is for answers
    asyncio.run(send(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
