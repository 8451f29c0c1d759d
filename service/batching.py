"""Batching: what waits together is done together; what is alone waits for nobody."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_ITEMS = 256  # in a batch: some 20 ms of work, in which nobody else is answered
MOST_BATCHES = 2  # under way: while one waits for the store another is computed, and the rest grows into a third


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    answer: "asyncio.Future[Result]"


class Batcher(Generic[Item, Result]):
    """Hands over what comes in one turn of the event loop as one batch. It has no timer: one alone leaves at once."""

    def __init__(self, handle: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        """`handle` gives a result for each item, in order; what it raises everybody in the batch is told."""
        self._handle = handle
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._scheduled = False
        self._under_way: set[asyncio.Task[None]] = set()

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The result, or what was raised, once the item's batch is done."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_Waiting(item, answer))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return answer

    async def close(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and len(self._under_way) < MOST_BATCHES:
            batch = [self._queue.popleft() for _ in range(min(MOST_ITEMS, len(self._queue)))]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._under_way.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._flush()

    async def _run(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._handle([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits is told, and nobody waits for ever
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():  # it is where its request was given up
                waiting.answer.set_result(result)
