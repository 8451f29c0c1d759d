"""`make bench-features`: one page about features in Redis, ours read beside Feast's, and what ours take there."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.features import contest, footprint
from benchmarks.features.contest import (
    ROUNDS,
    Manner,
    Results,
    feast_contestants,
    hold_contest,
    lead,
    our_contestants,
)
from benchmarks.features.cores import Cores, choose_cores, pinned
from benchmarks.features.footprint import LONG, Footprint, measure_footprint
from benchmarks.features.ours import Reader
from benchmarks.features.payments import Payments, transactions
from benchmarks.features.peer import running_peer
from benchmarks.features.rounds import Spread
from benchmarks.features.server import Server, running_server
from benchmarks.features.timing import CROWD, settle_memory
from benchmarks.machine import describe_machine
from service.api.running import Running
from service.app import open_running, open_store
from service.features.plan import Plan, compile_plan
from service.features.spec import parse_spec
from service.settings import SHIPPED_MODELS, Settings
from service.stores.base import Store
from service.telemetry import Telemetry

SPECS = {2: "two_entities.yaml", 4: "four_entities.yaml"}
PATIENCE_MS = 1_000  # for one trip: what a busy machine delays shall be measured, not given up

# Times as fast as Feast, by number of entities; of a goal that is not there nothing is promised.
GOALS: Mapping[Manner, Mapping[int, float]] = {
    Manner.ALONE: {2: 4.0, 4: 1.0},
    Manner.AT_ONCE: {2: 6.0},
    Manner.GATHERED: {},
}
# At most.
ENTITY_US, DECISION_US, LONG_RATIO = 5.0, 50.0, 1.5
CARD_BYTES, RECORD_BYTES = 1_300, 600


def bench_features(console: Console, *, feast_python: Path, model_dir: Path | None) -> None:
    """Measure and print.

    Args:
        console: where the page goes.
        feast_python: the interpreter of the environment that Feast is installed in.
        model_dir: the bundle whose footprint is measured, or a directory of versions; None for the shipped one.

    Raises:
        ServiceFailed: there is no Redis or no Feast, or one of them ended.
        RequestRefused: the store did not answer.
    """
    console.print(describe_machine())
    cores = choose_cores()
    with pinned(cores.client):
        with running_server(core=cores.server) as server:
            uvloop.run(_contest(console, server, cores, feast_python))
        with running_server(core=cores.server) as server:
            uvloop.run(_footprint(console, server, model_dir or SHIPPED_MODELS))


async def _contest(console: Console, server: Server, cores: Cores, feast_python: Path) -> None:
    """Ours beside Feast's."""
    payments = Payments.simulate(later=contest.TRANSACTIONS)
    async with (
        _opened(server, SHIPPED_MODELS) as (running, store),
        running_peer(feast_python, port=server.port, core=cores.client) as peer,
    ):
        contestants = feast_contestants(peer)
        for spec in SPECS.values():
            reader = Reader(read_plan(spec), running.bundle.currencies, store)
            await reader.fill(transactions(payments.history))
            contestants += our_contestants(reader, transactions(payments.later))
        settle_memory()
        results = await hold_contest(server, contestants)
    console.print(
        f"{server.name}{'' if cores.client is None else ', on a core of its own'}; beside us {peer.versions}\n"
    )
    console.print(
        f"{ROUNDS} rounds in turn: the middle one and the range. We add a transaction to its entities' histories and\n"
        "read 30 features; Feast reads 10 values of two entities, which somebody else keeps up to date."
    )
    for manner in Manner:
        _print_table(console, results, manner)
    _print_leads(console, results)


async def _footprint(console: Console, server: Server, model_dir: Path) -> None:
    """What a model's histories and decisions take."""
    payments = Payments.simulate(later=footprint.TRANSACTIONS)
    async with _opened(server, model_dir) as (running, store):
        reader = Reader(running.bundle.plan, running.bundle.currencies, store)
        settle_memory()
        found = await measure_footprint(server, reader, running.scorer, payments, waiting=CROWD)
        name = f"{running.bundle.manifest.name} {running.bundle.manifest.version}"
    _print_footprint(console, name, found)


@asynccontextmanager
async def _opened(server: Server, model_dir: Path) -> AsyncIterator[tuple[Running, Store]]:
    """The parts of a service with default settings on this server, and a store of its own for whoever only reads."""
    with TemporaryDirectory() as state:
        settings = Settings(
            store_url=server.url, store_timeout_ms=PATIENCE_MS, model_dir=model_dir, state_dir=Path(state)
        )
        async with open_running(settings, Telemetry(CollectorRegistry())) as running:
            store = await open_store(settings, running.bundle)
            try:
                yield running, store
            finally:
                await store.close()


def read_plan(name: str) -> Plan:
    """The plan of a spec that stands beside this module."""
    return compile_plan(parse_spec(yaml.safe_load((Path(__file__).parent / name).read_bytes())))


def _print_table(console: Console, results: Results, manner: Manner) -> None:
    """Who played in one manner; the columns hold the middle round and, where there is room, the range."""
    console.print(f"\n{manner.value:36} {'median µs':>24} {'p99 µs':>8} {'requests/s':>24} {'Redis CPU µs':>13}")
    for (played, name), rounds in results.items():
        if played is manner:
            median = Spread.of([one.median_us for one in rounds])
            slow = Spread.of([one.p99_us for one in rounds])
            rate = Spread.of([one.per_second for one in rounds])
            cpu = Spread.of([one.server_us for one in rounds])
            console.print(f"  {name:34} {_range(median):>24} {slow.middle:8,.0f} {_range(rate):>24} {cpu.middle:13.0f}")


def _range(spread: Spread) -> str:
    return f"{spread.middle:,.0f} ({spread.low:,.0f} – {spread.high:,.0f})"


def _print_leads(console: Console, results: Results) -> None:
    """Us beside the better way to call Feast, round by round."""
    console.print("\nTimes as fast as the better way to call Feast, by the median where alone, else by requests/s")
    for manner, goals in GOALS.items():
        for entities in SPECS:
            found = lead(results, manner, entities)
            line = f"  {manner.value}, {entities} entities: {found.middle:.1f} ({found.low:.1f} – {found.high:.1f})"
            goal = goals.get(entities)
            console.print(line if goal is None else f"{line}; goal {goal:g}: {_verdict(met=found.middle >= goal)}")


def _print_footprint(console: Console, model: str, found: Footprint) -> None:
    """Each figure, and beside it what was promised."""
    console.print(f"\nWhat {model} takes of Redis; {found.cards:,} cards that paid 25 to 35 times in a month")
    for what, value, unit, most in (
        ("time to append and read, by entity", found.month.read_us, "µs", ENTITY_US),
        ("the same with compaction and archive", found.month.all_us, "µs", None),
        (f"time to append and read, {LONG:,} events", found.long.read_us, "µs", None),
        ("that is, of what a month's take", found.long.read_us / found.month.read_us, "times", LONG_RATIO),
        ("CPU of a decision, one at a time", found.alone_us, "µs", DECISION_US),
        (f"CPU of a decision, {CROWD} at once", found.waiting_us, "µs", DECISION_US),
        ("memory of a card's history", found.card_bytes, "bytes", CARD_BYTES),
        (f"memory of a record, mean of {found.records:,}", found.record_bytes, "bytes", RECORD_BYTES),
        ("memory of a decision in the stream", found.entry_bytes, "bytes", None),
    ):
        line = f"  {what:40} {value:8,.1f} {unit}"
        console.print(line if most is None else f"{line}; promised {most:,g}: {_verdict(met=value <= most)}")
    commands = ", ".join(f"{each:.2f} {name} of {us:.1f}" for name, (each, us) in found.month.commands.items())
    console.print(f"  commands for an entity, in µs: {commands}")


def _verdict(*, met: bool) -> str:
    return "met" if met else "MISSED"
