"""`make bench`: one page of figures about this machine."""

import gc
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.measure import Latency, folding, lone_latency, throughput
from benchmarks.serving import running_service
from service.app import bundle_directory
from service.bundle import Bundle
from service.settings import SHIPPED_MODELS
from training.simulate import SimulationConfig, simulate

GOAL_MS = 2.0  # median of a lone request
CLIENTS = 8
WARM_UP, LONE, SHARED = 1_000, 5_000, 20_000  # requests: before the clock starts, one at a time, eight at a time
FOLDED = 200_000  # rows of the offline table; the requests are the first of them
DAYS = 60
SEED = 1


def bench(console: Console, *, port: int, model_dir: Path | None) -> None:
    """Measure and print.

    Args:
        console: where the page goes.
        port: a free one, for the service that is measured.
        model_dir: a bundle or a directory of versions, or None for the shipped one.

    Raises:
        ServiceFailed: the service did not start.
        RequestRefused: it did not score a transaction.
    """
    bundle = Bundle.load(bundle_directory(model_dir or SHIPPED_MODELS))
    console.print(f"{describe_machine()}\nmodel {bundle.manifest.name} {bundle.manifest.version}\n")
    gc.disable()  # a collection in this process would show up as one slow request of the service
    frame = simulate(SimulationConfig(transactions=FOLDED, days=DAYS, seed=SEED))

    with running_service(port=port, model_dir=model_dir) as address:
        lone, stages = lone_latency(address, frame[: WARM_UP + LONE], warm_up=WARM_UP)
        console.print(f"One client, one request after the other, {lone.requests:,} requests; time at the client")
        console.print(f"  {_times(lone)}")
        console.print(f"  goal: a median of at most {GOAL_MS} ms: {'met' if lone.median_ms <= GOAL_MS else 'MISSED'}")
        console.print(f"  mean µs in the service: {', '.join(f'{stage} {us:.0f}' for stage, us in stages.items())}")
        shared = throughput(address, frame[WARM_UP + LONE :][:SHARED], clients=CLIENTS)
        console.print(
            f"{shared.clients} clients, one request after the other each, {shared.latency.requests:,} requests"
        )
        console.print(f"  {shared.requests_per_second:,.0f} requests/s, {_times(shared.latency)}")

    folded = folding(bundle, frame)
    console.print(f"Offline fold, {folded.rows:,} events, {folded.features} features, one core")
    console.print(f"  {folded.rows_per_second:,.0f} events/s")


def _times(latency: Latency) -> str:
    return (
        f"median {latency.median_ms:.2f} ms, p90 {latency.p90_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms, "
        f"slowest {latency.max_ms:.2f} ms"
    )
