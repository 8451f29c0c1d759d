"""The stopwatch of both sides: needs nothing but Python, for Feast lives in an environment of its own."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

CROWD = 32  # requests at once, where they are not alone

Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True)
class Timed:
    """Calls that were timed: the seconds of each, and of all together."""

    latencies_s: list[float]
    elapsed_s: float


def time_calls(call: Callable[[Asked], object], asked: Iterable[Asked]) -> Timed:
    """Call one after the other."""
    latencies_s = []
    start = time.perf_counter()
    for item in asked:
        begin = time.perf_counter()
        call(item)
        latencies_s.append(time.perf_counter() - begin)
    return Timed(latencies_s, time.perf_counter() - start)


async def time_waiting(call: Callable[[Asked], Awaitable[object]], asked: Iterable[Asked], *, waiting: int) -> Timed:
    """Keep as many calls waiting at once as told: each that is answered makes room for the next."""
    items = iter(asked)
    latencies_s: list[float] = []

    async def client() -> None:
        for item in items:
            begin = time.perf_counter()
            await call(item)
            latencies_s.append(time.perf_counter() - begin)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(waiting)))
    return Timed(latencies_s, time.perf_counter() - start)


def settle_memory() -> None:
    """Take what was made for the start out of Python's collections, as the service does."""
    gc.collect()
    gc.freeze()
