"""What must not grow with the data: the cost of a request with long histories and many keys, and a worker's memory."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import redis

from benchmarks.features.cores import pinned
from benchmarks.features.rounds import Spread
from benchmarks.features.server import PATIENCE_S, Server
from benchmarks.load.contender import Contender, Payment
from benchmarks.load.contenders import touchstone
from benchmarks.load.contest import Turn, check_answers, take_turn
from benchmarks.load.page import Goal
from benchmarks.load.places import Places
from benchmarks.load.prepared import Supply
from benchmarks.load.processes import pss_mb
from benchmarks.load.running import Started, running_contender
from benchmarks.load.workload import with_all_entities, with_distant_past
from benchmarks.payments import request_bodies
from benchmarks.serving import PROJECT, ServiceFailed, clean_environment
from training.simulate import SimulationConfig, simulate

CLIENTS = 32
ENTITIES = ("card", "merchant", "terminal", "device")
HISTORY_DAYS = 30
NOW = datetime(2025, 6, 1, tzinfo=UTC)  # histories end here, payments that are timed come after it
TEMPLATE = "template"  # the name of the entities whose histories are copied
SEED = 1
COPIED_AT_ONCE = 10_000
NO_AUDITS = {"TOUCHSTONE_PARITY_SHARE": "0"}  # a copied history has no archive of its own to be computed again from

_COPIES = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('COPY', KEYS[1], ARGV[3] .. number)
end
"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: of a turn each for those that are compared.
        seconds: of a turn; whole ones.
        groups: a group is a card, a merchant, a terminal and a device that always come together; so many are active.
        short, long: events in the history of each entity, where histories are compared.
        few, many: keys in Redis, where these are compared.
        cards: that are active, where a worker's memory is looked at.
        transactions: payments that are simulated; what is not sent is not prepared.
    """

    rounds: int = 5
    seconds: float = 2.0
    groups: int = 2_000
    short: int = 30
    long: int = 300_000
    few: int = 1_000
    many: int = 1_000_000
    cards: int = 100_000
    transactions: int = 500_000


def scale_goals(settings: Mapping[str, str], places: Places, extent: Extent, *, directory: Path) -> Iterator[Goal]:
    """Measure one after the other.

    Args:
        settings: of the service.
        places: who runs where; this process moves to the generator's core meanwhile.
        extent: how much.
        directory: an empty one, for requests, histories and logs.

    Raises:
        ServiceFailed, RequestRefused, PaymentsUsedUp: as for the contest.
    """
    bench = _Bench({**settings, **NO_AUDITS}, places, extent, directory)
    with pinned(places.generator):
        yield from long_histories(bench)
        yield from many_keys(bench)
        yield from memory_of_a_worker(bench)


def long_histories(bench: "_Bench") -> Iterator[Goal]:
    """Entities with many events beside such with a month's."""
    extent = bench.extent

    def fill(server: Server, events: int) -> None:
        bench.backfill(server, events)
        for entity in ENTITIES:
            copy(server, entity, range(extent.groups))

    names = {f"{extent.short:,} events": extent.short, f"{extent.long:,} events": extent.long}
    with bench.running(list(names), groups=extent.groups) as both:
        for one, events in zip(both, names.values(), strict=True):
            fill(_redis(one), events)
            check_answers(one)
        short, long = bench.turns(both)
    what = f"of entities with {extent.long:,} events, of those with {extent.short:,}"
    yield Goal(f"CPU {what}", _ratio(long, short, "server_us"), 1.2)
    yield Goal(f"Redis CPU {what}", _ratio(long, short, "redis_us"), 1.2)


def many_keys(bench: "_Bench") -> Iterator[Goal]:
    """The same load on few keys, beside many others that nobody uses now."""
    extent = bench.extent
    groups = extent.few // len(ENTITIES)
    names = [f"{extent.few:,} keys", f"{extent.many:,} keys"]
    with bench.running(names, groups=groups) as both:
        for one in both:
            bench.backfill(_redis(one), extent.short)
            for entity in ENTITIES:
                copy(_redis(one), entity, range(groups))
            check_answers(one)
        others = (extent.many - extent.few) // len(ENTITIES)
        bench.backfill(_redis(both[1]), 1, name="once")  # a history of one event, so that Redis need not be large
        for entity in ENTITIES:
            copy(_redis(both[1]), entity, range(groups, groups + others), template="once")
        few, many = bench.turns(both)
    what = f"beside {extent.many:,} keys in Redis, beside {extent.few:,}"
    yield Goal(f"CPU {what}", _ratio(many, few, "server_us"), 1.1)
    yield Goal(f"Redis CPU {what}", _ratio(many, few, "redis_us"), 1.1)


def memory_of_a_worker(bench: "_Bench") -> Iterator[Goal]:
    """One worker, after each of many cards has paid, and after each has paid twice."""
    extent = bench.extent
    with bench.running([f"{extent.cards:,} cards"], groups=extent.cards) as (one,):
        check_answers(one)
        bench.send_until(one, extent.cards)
        once_mb = pss_mb(one.pid)
        bench.send_until(one, 2 * extent.cards)
        twice_mb = pss_mb(one.pid)
    yield Goal(f"PSS in MB after {extent.cards:,} cards paid twice", twice_mb, 300)
    yield Goal("of which since each had paid once", twice_mb - once_mb, 10)


def copy(server: Server, entity: str, numbers: range, *, template: str = TEMPLATE) -> None:
    """Give other entities of a kind the history of one, on the server itself."""
    with redis.Redis(port=server.port, protocol=2, socket_timeout=PATIENCE_S) as client:
        (source,) = client.scan_iter(match=f"*:{entity}:{template}", count=100_000)
        target = source.removesuffix(template.encode()) + b"g-"
        script = client.register_script(_COPIES)
        for first in range(numbers.start, numbers.stop, COPIED_AT_ONCE):
            script(keys=[source], args=[first, min(first + COPIED_AT_ONCE, numbers.stop) - 1, target])


def grouped(frame: pl.DataFrame, groups: int) -> pl.DataFrame:
    """The same payments, made by one group after the other."""
    name = pl.format("g-{}", pl.int_range(pl.len()) % groups)
    return frame.with_columns(*(name.alias(f"{entity}_id") for entity in ENTITIES))


def history(events: int, *, name: str = TEMPLATE) -> pl.DataFrame:
    """The past of one group: so many payments, evenly spread over a month."""
    frame = with_all_entities(simulate(SimulationConfig(transactions=events, days=HISTORY_DAYS, seed=SEED)))
    ago = pl.duration(milliseconds=(pl.len() - pl.int_range(pl.len())) * (HISTORY_DAYS * 86_400_000 // events))
    return frame.with_columns(
        (pl.lit(NOW).cast(pl.Datetime("ms", "UTC")) - ago).alias("timestamp"),
        pl.format("past-{}-{}", pl.lit(name), pl.int_range(pl.len())).alias("transaction_id"),
        *(pl.lit(name).alias(f"{entity}_id") for entity in ENTITIES),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all of these measurements need."""

    settings: Mapping[str, str]
    places: Places
    extent: Extent
    directory: Path

    @contextmanager
    def running(self, names: Sequence[str], *, groups: int) -> Iterator[list[Started]]:
        """Services, each with a Redis of its own, that can be sent payments of so many groups."""
        config = SimulationConfig(transactions=self.extent.transactions, days=HISTORY_DAYS, seed=SEED, start=NOW)
        frame = with_distant_past(grouped(with_all_entities(simulate(config)), groups))
        with ExitStack() as closing:
            contenders = [touchstone(name, self.directory, self.settings) for name in names]
            yield [
                closing.enter_context(
                    running_contender(one, self._supply(one, frame), self.places, directory=self.directory)
                )
                for one in contenders
            ]

    def turns(self, started: Sequence[Started]) -> list[list[Turn]]:
        """Rounds in turn, after one that is not counted; by contender."""
        rounds = [
            [take_turn(one, clients=CLIENTS, seconds=self.extent.seconds) for one in started]
            for _ in range(self.extent.rounds + 1)
        ]
        return [list(turns) for turns in zip(*rounds[1:], strict=True)]

    def send_until(self, one: Started, count: int) -> None:
        """Load it until it has been sent so many payments."""
        while one.next < count:
            take_turn(one, clients=CLIENTS, seconds=self.extent.seconds)

    def backfill(self, server: Server, events: int, *, name: str = TEMPLATE) -> None:
        """Bring the history of one group into a store, as an operator would.

        Raises:
            ServiceFailed: it was not taken.
        """
        path = self.directory / f"{name}-{events}.jsonl"
        with path.open("wb") as file:
            file.writelines(body + b"\n" for body in request_bodies(history(events, name=name)))
        command = [sys.executable, "-m", "service", "backfill", "--history", str(path), "--store-url", server.url]
        done = subprocess.run(  # noqa: S603 - our own interpreter and words
            command,
            cwd=PROJECT,
            env={**clean_environment(), **self.settings},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceFailed(f"backfill ended with {done.returncode}:\n{done.stderr}")

    def _supply(self, contender: Contender, frame: pl.DataFrame) -> Supply:
        requests = (contender.request(Payment(body)) for body in request_bodies(frame))
        return Supply(self.directory / f"{contender.name}.requests", requests)


def _redis(one: Started) -> Server:
    assert one.redis is not None, one.contender.name
    return one.redis


def _ratio(over: Sequence[Turn], under: Sequence[Turn], figure: str) -> Spread:
    return Spread.of_ratios([getattr(turn, figure) for turn in over], [getattr(turn, figure) for turn in under])
