"""Traffic that was really served: simulated payments, their retries and what became of them, scored over a Redis."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import orjson
import polars as pl

from service.app import epoch_ms
from service.features.spec import DAY_MS
from service.scorer import Answer, ScoreRequest
from service.stores.fallback import FallbackStore
from service.stores.redis import StoreLimits, open_redis_store
from service.transaction import Outcome, read_outcome, write_instant
from tests.scoring import Scoring, scoring
from training.examples import arrivals, declare_reports
from training.requests import Bodies
from training.simulate import SimulationConfig, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 30
LIMITS = StoreLimits(timeout_ms=5000)  # nothing here is about time
MAX_WAITING = 8


@dataclass(frozen=True)
class Arrival:
    """One thing that a client says: when, in which words, and as it was read."""

    time_ms: int
    body: bytes
    told: ScoreRequest | Outcome

    @property
    def is_request(self) -> bool:
        """Whether it is to be scored; else it is an outcome."""
        return isinstance(self.told, ScoreRequest)

    @property
    def name(self) -> str:
        """The id of the transaction it is about."""
        told = self.told
        return told.transaction.transaction_id if isinstance(told, ScoreRequest) else told.transaction_id


def payments(count: int) -> pl.DataFrame:
    """Simulated payments of a month, an unusual share of them fraud, so that there is much to report."""
    config = SimulationConfig(transactions=count, seed=5, start=START, days=DAYS, prevalence=0.05)
    return declare_reports(simulate(config), 2)


def traffic(frame: pl.DataFrame, *, seed: int = 9) -> list[Arrival]:
    """A table as it arrives: some are sent twice, some declined by their issuer, and some reports withdrawn."""
    rng = np.random.default_rng(seed)
    bodies, order = Bodies(frame), arrivals(frame)
    made: list[Arrival] = []
    for row, time_ms, is_report in zip(order.source, order.time_ms.tolist(), order.is_report, strict=True):
        if is_report:
            body = bodies.reported_fraud(int(row), time_ms)
            made.append(outcome_of(body, time_ms))
            if rng.random() < 1 / 3:
                later_ms = time_ms + int(rng.integers(1, 3 * DAY_MS))
                made.append(outcome_of(body | told("withdrawn", later_ms), later_ms))
            continue
        body = bodies.transaction(int(row))
        made.append(request_of(body, time_ms))
        if rng.random() < 1 / 20:
            made.append(request_of(body, time_ms + int(rng.integers(0, 2000))))
        if rng.random() < 1 / 30:
            keys = {"transaction_id": body["transaction_id"]}
            made.append(outcome_of(keys | told("issuer_declined", time_ms), time_ms + 3000))
    return sorted(made, key=lambda arrival: arrival.time_ms)


def told(outcome_type: str, time_ms: int) -> dict[str, object]:
    """The part of an outcome's body that is not about the transaction."""
    return {"type": outcome_type, "occurred_at": write_instant(time_ms), "reported_at": write_instant(time_ms)}


def request_of(body: dict[str, object], time_ms: int) -> Arrival:
    """A transaction as the scorer takes it."""
    written = orjson.dumps(body)
    return Arrival(time_ms, written, ScoreRequest.read(written, arrival_ms=time_ms, allow_card_numbers=False))


def outcome_of(body: dict[str, object], time_ms: int) -> Arrival:
    """An outcome as the reporter takes it."""
    written = orjson.dumps(body)
    return Arrival(time_ms, written, read_outcome(written, arrival_ms=time_ms, allow_card_numbers=False))


def serve(
    url: str, bundle: Path, state_dir: Path, said: Sequence[Arrival], *, together: int = MAX_WAITING
) -> dict[str, bytes]:
    """Let all of it arrive at one process over the store at `url`, up to so many together.

    Returns:
        By transaction id, the body of the answer.
    """
    return asyncio.run(_serve(url, bundle, state_dir, said, together))


async def _serve(url: str, bundle: Path, state_dir: Path, said: Sequence[Arrival], together: int) -> dict[str, bytes]:
    store = FallbackStore(await open_redis_store(url, LIMITS), now_ms=epoch_ms)
    answered: dict[str, bytes] = {}
    try:
        process = scoring(bundle, store, state_dir, parity_share=0)
        for group in _groups(said, together):
            answered |= await _tell(process, group)
        await process.scorer.close()
    finally:
        await store.close()
    return answered


async def _tell(process: Scoring, group: Sequence[Arrival]) -> dict[str, bytes]:
    arrival_ms = group[-1].time_ms
    requests = [arrival.told for arrival in group if isinstance(arrival.told, ScoreRequest)]
    outcomes = [arrival.told for arrival in group if isinstance(arrival.told, Outcome)]
    if outcomes:
        reported = await process.reporter.report(outcomes, arrival_ms=arrival_ms)
        assert not [result for result in reported if isinstance(result, Exception)], reported
    answers = await process.scorer.score(requests) if requests else []
    return {
        request.transaction.transaction_id: answer.body
        for request, answer in zip(requests, answers, strict=True)
        if isinstance(answer, Answer)
    }


def _groups(said: Sequence[Arrival], together: int) -> Iterator[list[Arrival]]:
    """Runs of requests, or of outcomes, of bounded length."""
    for _, run in groupby(enumerate(said), key=lambda item: (item[1].is_request, item[0] // together)):
        yield [arrival for _, arrival in run]
