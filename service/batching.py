"""Batching: what waits together is done together; what is alone waits for nobody."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_ITEMS = 256  # in a batch: some 20 ms of work, in which nobody else is answered
MOST_BATCHES = 2  # under way: while one waits for the store another is computed, and the rest grows into a third
LATE = 2.0  # times as long as the last one took: such a batch is stuck, and nobody waits behind it


_Waiting: TypeAlias = tuple[Item, Callable[[Result | Exception], None]]  # what waits, and who is told


class Batcher(Generic[Item, Result]):
    """Hands over what comes in one turn of the event loop as one batch. It has no timer: one alone leaves at once.

    A further batch leaves once as many items wait as left last, or nothing is under way any more: else under load many
    small ones would leave as single answers trickle in, and most of what a batch costs does not depend on its size.
    Nor does one that comes wait any longer once the one under way is late. Leaving after some turns of the loop instead
    made a third more batches of 8 clients, and half as many again where the store took 5 ms.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        overflow: Callable[[Item], Result | Exception],
        most_waiting: int,
        most_items: int = MOST_ITEMS,
        most_batches: int = MOST_BATCHES,
        turns_for_others: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Do nothing yet.

        Args:
            handle: gives a result for each item, in order; what it raises everybody in the batch is told.
            overflow: gives the result of an item for which there is no room.
            most_waiting: how many items there is room for, besides those under way.
            most_items: how many make a batch.
            most_batches: how many batches may be under way.
            turns_for_others: turns of the event loop in which others get ahead of each batch.
            clock: seconds that never run backwards; tells when a batch is late.
        """
        self._handle = handle
        self._overflow = overflow
        self._most_waiting = most_waiting
        self._most_items = most_items
        self._most_batches = most_batches
        self._turns_for_others = turns_for_others
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._scheduled = False
        self._clock = clock
        self._latest_size = 1
        self._left_s = 0.0  # when the latest one left
        self._took_s = math.inf  # how long the last one took that has ended
        self._under_way: set[asyncio.Task[None]] = set()

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The item's result, once its batch is done; or what was raised, or stands where its result would.

        For a task of its own, which runs a turn after its item was read: those that were read meanwhile come along.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def deliver(result: Result | Exception) -> None:
            if answer.done():
                return  # whoever waited has given up
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self._add(item, deliver, self._flush_next_turn)
        return answer

    def enqueue(self, item: Item, deliver: Callable[[Result | Exception], None]) -> None:
        """Deliver the item's result, or what was raised, once its batch is done; at once if there is no room for it."""
        self._add(item, deliver, self._flush)

    def _add(self, item: Item, deliver: Callable[[Result | Exception], None], flush: Callable[[], None]) -> None:
        if len(self._queue) >= self._room():
            deliver(self._result_of_overflow(item))
            return
        self._queue.append((item, deliver))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(flush)

    async def close(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way or self._queue:
            await (asyncio.wait(self._under_way) if self._under_way else asyncio.sleep(0))

    def _flush_next_turn(self) -> None:
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while len(self._queue) >= self._worth_leaving() and len(self._under_way) < self._most_batches:
            batch = [self._queue.popleft() for _ in range(min(self._most_items, len(self._queue)))]
            self._latest_size, self._left_s = len(batch), self._clock()
            task = asyncio.get_running_loop().create_task(self._run(batch, self._left_s))
            self._under_way.add(task)
            task.add_done_callback(self._done)

    def _room(self) -> int:
        """How many may be queued: those that wait, and those that leave in this turn."""
        return self._most_waiting + (self._most_batches - len(self._under_way)) * self._most_items

    def _result_of_overflow(self, item: Item) -> Result | Exception:
        try:
            return self._overflow(item)
        except Exception as error:  # noqa: BLE001 - told like one that was raised in a batch
            return error

    def _worth_leaving(self) -> int:
        is_late = self._clock() - self._left_s > LATE * self._took_s
        return self._latest_size if self._under_way and not is_late else 1

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._flush()

    async def _run(self, batch: Sequence[_Waiting[Item, Result]], left_s: float) -> None:
        try:
            for _ in range(self._turns_for_others):
                await asyncio.sleep(0)
            results = await self._handle([item for item, _ in batch])
            assert len(results) == len(batch), (len(results), len(batch))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, and nobody waits for ever
            results = [error] * len(batch)
        self._took_s = self._clock() - left_s
        for (_, deliver), result in zip(batch, results, strict=True):
            try:
                deliver(result)
            except Exception as error:  # noqa: BLE001 - the others are told all the same
                what = {"message": "a result could not be delivered", "exception": error}
                asyncio.get_running_loop().call_exception_handler(what)
