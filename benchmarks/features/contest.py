"""The contest: features that we read and update beside features that Feast reads, in turn, from one Redis."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.ours import Batch, Reader
from benchmarks.features.peer import Peer
from benchmarks.features.rounds import Round, Spread
from benchmarks.features.server import Server
from benchmarks.features.timing import CROWD, Timed, time_waiting
from service.batching import Batcher
from service.transaction import Transaction

ROUNDS = 7
FEAST = "Feast"


class Manner(Enum):
    """How requests come."""

    ALONE = "one at a time"
    AT_ONCE = f"{CROWD} at once, each a call of its own"
    GATHERED = f"{CROWD} at once, gathered into one call"


CALLS = {Manner.ALONE: 1_000, Manner.AT_ONCE: 4_000, Manner.GATHERED: 100}  # in a round
SIZE = {Manner.ALONE: 1, Manner.AT_ONCE: 1, Manner.GATHERED: CROWD}  # requests in a call
TRANSACTIONS = ROUNDS * sum(CALLS[manner] * SIZE[manner] for manner in Manner)  # that one of us needs


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who reads features in one manner, in as many calls as told."""

    name: str
    manner: Manner
    play: Callable[[int], Awaitable[Timed]]


Results = Mapping[tuple[Manner, str], Sequence[Round]]


async def hold_contest(server: Server, contestants: Sequence[Contestant]) -> Results:
    """Let everybody play all rounds in turn; another one begins each.

    Returns:
        The rounds by manner and name.
    """
    results: dict[tuple[Manner, str], list[Round]] = {(one.manner, one.name): [] for one in contestants}
    for number in range(ROUNDS):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            calls, size = CALLS[contestant.manner], SIZE[contestant.manner]
            before_s = server.cpu_s()
            timed = await contestant.play(calls)
            found = Round.of(timed, requests=calls * size, server_s=server.cpu_s() - before_s)
            results[contestant.manner, contestant.name].append(found)
    return results


def lead(results: Results, manner: Manner, entities: int) -> Spread:
    """How many times as fast as the better way to call Feast we are: alone by the median, else by the throughput."""

    def paces(name: str) -> list[float]:
        rounds = results[manner, name]
        return [1 / one.median_us if manner is Manner.ALONE else one.per_second for one in rounds]

    ways = [name for played, name in results if played is manner and name.startswith(FEAST)]
    leads = [Spread.of_ratios(paces(our_name(entities)), paces(way)) for way in ways]
    return min(leads, key=lambda spread: spread.middle)


def our_name(entities: int) -> str:
    """Who of us reads a transaction with so many entities."""
    return f"Touchstone, {entities} entities"


def feast_contestants(peer: Peer) -> list[Contestant]:
    """Feast, called synchronously, where those who wait stand in line, and asynchronously."""

    def plays(way: str) -> Callable[[int], Awaitable[Timed]]:
        return lambda calls: peer.time(way, calls)

    return [
        Contestant(f"{FEAST}, sync", Manner.ALONE, plays("sync")),
        Contestant(f"{FEAST}, async", Manner.ALONE, plays("async")),
        Contestant(f"{FEAST}, sync", Manner.AT_ONCE, plays("sync")),
        Contestant(f"{FEAST}, async", Manner.AT_ONCE, plays("waiting")),
        Contestant(f"{FEAST}, sync", Manner.GATHERED, plays("gathered")),
    ]


def our_contestants(reader: Reader, transactions: Iterator[Transaction]) -> list[Contestant]:
    """Us, whose histories are there already; the transactions come after these."""
    # As the service does it; but nobody is turned away.
    together = Batcher(reader.read_together, overflow=_turned_away, most_waiting=CROWD)

    def plays(manner: Manner, waiting: int) -> Callable[[int], Awaitable[Timed]]:
        async def play(calls: int) -> Timed:
            batches = [reader.prepared(list(islice(transactions, SIZE[manner]))) for _ in range(calls)]
            return await time_waiting(together.submit if waiting > 1 else reader.read, batches, waiting=waiting)

        return play

    name = our_name(reader.layout.kinds)
    return [
        Contestant(name, Manner.ALONE, plays(Manner.ALONE, 1)),
        Contestant(name, Manner.AT_ONCE, plays(Manner.AT_ONCE, CROWD)),
        Contestant(name, Manner.GATHERED, plays(Manner.GATHERED, 1)),
    ]


def _turned_away(batch: Batch) -> NDArray[np.float32]:
    raise AssertionError(f"no room for {len(batch.rows)} payments")
