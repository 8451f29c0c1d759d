"""`make bench` and `make bench-peers`: pages of figures about this machine."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.load.closed_loop import why_no_load
from benchmarks.load.cold_start import CLIENTS as COLD_CLIENTS
from benchmarks.load.cold_start import Met, cold_start
from benchmarks.load.contender import Contender
from benchmarks.load.contenders import ASGI, REDIS, our_settings, own_contenders, touchstone
from benchmarks.load.contest import Course, Results, hold_contest
from benchmarks.load.page import CLIENTS as CPU_CLIENTS
from benchmarks.load.page import Goal, contest_goals, peer_goals, print_contest
from benchmarks.load.places import Places, choose_places
from benchmarks.load.scale import Extent, scale_goals
from benchmarks.load.workload import Workload
from benchmarks.machine import describe_machine
from benchmarks.measure import Latency, folding, lone_latency
from benchmarks.serving import ServiceFailed, running_service
from service.app import bundle_directory
from service.bundle import MODEL, Bundle
from service.settings import SHIPPED_MODELS
from training.simulate import SimulationConfig, simulate

GOAL_MS = 2.0  # median of a lone request
WARM_UP, LONE = 1_000, 5_000  # requests: before the clock starts, and one at a time
FOLDED = 200_000  # rows of the offline table; the requests are the first of them
DAYS = 60
SEED = 1
SHORT = Course()  # with all that is printed before, some two and a half minutes
LONG = replace(SHORT, rounds=5, warm_up_s=2.0, open_s=5.0)  # ten minutes with four peers


def bench(console: Console, *, port: int, model_dir: Path | None, course: Course = SHORT) -> None:
    """Measure a service alone, then it and others in turn under load, and print.

    Args:
        console: where the page goes.
        port: a free one, for the service that is measured alone.
        model_dir: a bundle or a directory of versions, or None for the shipped one.
        course: how long the load lasts.

    Raises:
        ServiceFailed: a server did not start.
        RequestRefused: one did not score a transaction.
        PaymentsUsedUp: there were fewer payments than one could score.
    """
    bundle = _introduce(console, model_dir)
    _bench_alone(console, bundle, port=port, model_dir=model_dir)
    missing = why_no_load()
    if missing is not None:
        console.print(f"\nUnder load nothing was measured: {missing}")
        return
    _contest(console, bundle, [], course, open_for=[REDIS])


def bench_peers(console: Console, *, model_dir: Path | None, course: Course = LONG) -> None:
    """The same under load, with servers in turn that others wrote and that only run the model.

    Args:
        console: where the page goes.
        model_dir: a bundle or a directory of versions, or None for the shipped one.
        course: how long the load lasts.

    Raises:
        ServiceFailed: there is no wrk or no Redis, or a server did not start.
        RequestRefused: one did not score a transaction.
        PaymentsUsedUp: there were fewer payments than one could score.
    """
    from benchmarks.peers import contenders  # noqa: PLC0415 - nothing else needs them

    bundle = _introduce(console, model_dir)
    _require_load()
    results = _contest(console, bundle, contenders(bundle.path / MODEL), course, open_for=[REDIS, ASGI])
    _print_goals(console, peer_goals(results))


def bench_scale(console: Console, *, model_dir: Path | None, extent: Extent | None = None) -> None:
    """What must not grow with the data, and a start while clients wait for it.

    Args:
        console: where the page goes.
        model_dir: a bundle or a directory of versions, or None for the shipped one.
        extent: how much data there is.

    Raises:
        ServiceFailed: there is no wrk or no Redis, or a server did not start.
        RequestRefused: one did not score a transaction.
        PaymentsUsedUp: there were fewer payments than one could score.
    """
    bundle = _introduce(console, model_dir)
    _require_load()
    places = choose_places()
    with TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        settings = our_settings(directory, model_dir=bundle.path)
        _print_goals(console, scale_goals(settings, places, extent or Extent(), directory=directory))
        met = _start_cold(bundle, settings, places, directory)
    _print_goals(console, [Goal(f"payments lost or stuck, {COLD_CLIENTS} clients at a cold start", met.lost, 0)])
    console.print(f"  of {met.decided + met.lost:,} there; the slowest was answered in {met.slowest_ms:,.0f} ms")


def _introduce(console: Console, model_dir: Path | None) -> Bundle:
    bundle = Bundle.load(bundle_directory(model_dir or SHIPPED_MODELS))
    console.print(f"{describe_machine()}\nmodel {bundle.manifest.name} {bundle.manifest.version}\n")
    return bundle


def _require_load() -> None:
    missing = why_no_load()
    if missing is not None:
        raise ServiceFailed(missing)


def _bench_alone(console: Console, bundle: Bundle, *, port: int, model_dir: Path | None) -> None:
    """One client and the embedded store; then the fold."""
    gc.disable()  # a collection in this process would show up as one slow request of the service
    try:
        frame = simulate(SimulationConfig(transactions=FOLDED, days=DAYS, seed=SEED))
        with running_service(port=port, model_dir=model_dir) as address:
            lone, stages = lone_latency(address, frame[: WARM_UP + LONE], warm_up=WARM_UP)
        console.print(f"One client, one request after the other, {lone.requests:,} requests; time at the client")
        console.print(f"  {_times(lone)}")
        console.print(f"  goal: a median of at most {GOAL_MS} ms: {'met' if lone.median_ms <= GOAL_MS else 'MISSED'}")
        console.print(f"  mean µs in the service: {', '.join(f'{stage} {us:.0f}' for stage, us in stages.items())}")
        console.print(f"  of which for the record and metrics: {recording_share(stages):.0%}")
        folded = folding(bundle, frame)
    finally:
        gc.enable()
    console.print(f"Offline fold, {folded.rows:,} events, {folded.features} features, one core")
    console.print(f"  {folded.rows_per_second:,.0f} events/s")


def recording_share(stages: Mapping[str, float]) -> float:
    """The share of a decision's time that goes into its record, into metrics and into what no stage counts."""
    elsewhere = sum(us for stage, us in stages.items() if stage not in {"total", "record"})
    return 1 - elsewhere / stages["total"]


def _contest(
    console: Console, bundle: Bundle, peers: Sequence[Contender], course: Course, *, open_for: Sequence[str]
) -> Results:
    """All under load, in turn."""
    places = choose_places()
    workload = Workload.simulate(bundle, transactions=course.transactions)
    with TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        settings = our_settings(directory, model_dir=bundle.path)
        contenders = [*own_contenders(directory, settings, server_cores=len(places.servers)), *peers]
        results = hold_contest(contenders, workload, places, course, directory=directory, open_for=open_for)
    console.print(
        f"\nUnder load: {course.rounds} rounds in turn, {course.seconds:g} s each; the middle one and the range\n"
        f"{places.describe()}; {results.redis}\n"
    )
    print_contest(console, results)
    console.print(f"\nGoals; processor time is that of a request, {CPU_CLIENTS} clients")
    _print_goals(console, contest_goals(results))
    return results


def _start_cold(bundle: Bundle, settings: Mapping[str, str], places: Places, directory: Path) -> Met:
    contender = touchstone("cold start", directory, settings)
    workload = Workload.simulate(bundle, transactions=FOLDED, vectors=0)
    return cold_start(contender, workload.supply(contender, directory), places, directory=directory)


def _print_goals(console: Console, goals: Iterable[Goal]) -> None:
    for goal in goals:
        console.print(str(goal))


def _times(latency: Latency) -> str:
    return (
        f"median {latency.median_ms:.2f} ms, p90 {latency.p90_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms, "
        f"slowest {latency.max_ms:.2f} ms"
    )
