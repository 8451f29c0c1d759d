"""The measurements of one service alone: a lone request, and the fold of a table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.connection import Connection
from benchmarks.payments import request_bodies
from benchmarks.serving import Address
from service.bundle import Bundle
from service.features.offline import fold_events
from training.examples import timeline

OK = 200


class RequestRefused(Exception):
    """A request that should have been scored was not, so its time says nothing."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took at the client, in milliseconds."""

    requests: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """Summarise the times of single requests."""
        median, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1e3
        return cls(len(seconds), float(median), float(p90), float(p99), max(seconds) * 1e3)


@dataclass(frozen=True, slots=True)
class Folding:
    """How fast the kernel goes over a table, offline, on one core."""

    rows: int
    features: int
    rows_per_second: float


def lone_latency(address: Address, frame: pl.DataFrame, *, warm_up: int) -> tuple[Latency, Mapping[str, float]]:
    """One client, one connection, one request after the other.

    Args:
        address: of a service that has not seen these transactions.
        frame: canonical transactions; each is sent once.
        warm_up: how many of them are sent before the clock starts.

    Returns:
        The latency, and the mean microseconds of each stage as the service itself counted them meanwhile.

    Raises:
        RequestRefused: a transaction was not scored.
    """
    bodies = list(request_bodies(frame))
    with Connection(address) as connection:
        _timed(connection, bodies[:warm_up])
        before = _stage_totals(connection)
        seconds = _timed(connection, bodies[warm_up:])
        after = _stage_totals(connection)
    calls = len(bodies) - warm_up
    return Latency.of(seconds), {stage: (after[stage] - before[stage]) / calls * 1e6 for stage in after}


def folding(bundle: Bundle, frame: pl.DataFrame) -> Folding:
    """Fold a whole table with the bundle's plan; the kernel is compiled before the clock starts.

    Args:
        bundle: whose features are computed.
        frame: canonical transactions, sorted by timestamp.
    """
    events = timeline(frame, bundle.currencies).events
    fold_events(bundle.plan, events[:100])
    begin = time.perf_counter()
    fold_events(bundle.plan, events)
    elapsed = time.perf_counter() - begin
    return Folding(len(events), len(bundle.plan.numeric), len(events) / elapsed)


def _timed(connection: Connection, bodies: Sequence[bytes]) -> list[float]:
    """Seconds of each request, sent one after the other."""
    seconds = []
    for body in bodies:
        begin = time.perf_counter()
        reply = connection.post("/score", body)
        seconds.append(time.perf_counter() - begin)
        if reply.status != OK:
            raise RequestRefused(f"{reply.status}: {reply.body.decode()}")
    return seconds


def _stage_totals(connection: Connection) -> dict[str, float]:
    """Seconds spent in each stage since the service started."""
    families = text_string_to_metric_families(connection.get("/metrics").body.decode())
    return {
        sample.labels["stage"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "fraud_stage_seconds_sum"
    }
