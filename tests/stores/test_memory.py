"""The embedded store, in what only it can do wrong."""

import asyncio
import gc

from service.stores.memory import MemoryStore
from tests.stores.examples import decision

COUNT = 1_000


def test_what_is_held_is_nothing_to_the_garbage_collector() -> None:
    """Else it walks all of it again and again, for tens of milliseconds in which nobody is answered."""

    async def act() -> None:
        store = MemoryStore(max_entities=COUNT, max_decisions=COUNT)
        before = len(gc.get_objects())
        for number in range(COUNT):
            await store.put_decisions([decision(f"tx-{number}")])
        assert store._records.peek(f"tx-{COUNT - 1}") is not None
        assert len(gc.get_objects()) - before < COUNT // 10

    asyncio.run(act())
