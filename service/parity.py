"""The parity meter: computes a sample of live decisions again, the way training does, and counts what differs."""

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from service.background import run_behind
from service.features.compaction import base_head, split_base
from service.features.encoding import read_entries
from service.features.entry import Column
from service.features.kernel import ABSENT, DUPLICATE, UNAVAILABLE, UNKNOWN
from service.features.offline import differing, fold_logs
from service.features.online import Histories
from service.features.plan import Plan
from service.layout import Logs
from service.stores.base import Past, Remote
from service.telemetry import Telemetry

INCOMPARABLE = ABSENT | UNAVAILABLE | UNKNOWN | DUPLICATE  # nothing was computed, or not as of the entry's place
MAX_WAITING = 8  # checks; while so many wait the next ones are left out
SAMPLES = 1 << 16


@dataclass(frozen=True, slots=True)
class Served:
    """What was computed for one entity of one live decision.

    Attributes:
        plan: the compiled spec.
        k: which entity.
        row: int64 (columns,), the transaction.
        features: float32, the entity's own.
        rev: where the transaction stands in the entity's log.
        life: the generation of that log.
    """

    plan: Plan
    k: int
    row: NDArray[np.int64]
    features: NDArray[np.float32]
    rev: int
    life: int


class ParityMeter:
    """Checks entities of a fixed sample, chosen by their keys, so that every process keeps the past of the same ones.

    For these the store keeps beside the log what compaction took out of it. All of it is folded by the executor that
    training uses, from the beginning and without the bases that serving computed; it must come out as it was served.
    """

    def __init__(self, store: Remote, telemetry: Telemetry, *, share: float, rest: float) -> None:
        """Check nothing yet.

        Args:
            store: keeps the pasts.
            telemetry: is told.
            share: of all entities, from 0 to 1.
            rest: after a check, how many times as long as it took there is none. Entities are not equally busy: a
                merchant of the sample may be in every batch, and its past is the longest.
        """
        self._store = store
        self._telemetry = telemetry
        self._limit = round(share * SAMPLES)
        self._rest = rest
        self._rests_until = 0.0  # by the event loop's clock
        self._waiting: set[asyncio.Task[None]] = set()

    def audits(self, key: bytes) -> bool:
        """Whether an entity belongs to the sample."""
        return crc32(key) % SAMPLES < self._limit

    def observe(self, rows: NDArray[np.int64], logs: Logs, histories: Histories) -> None:
        """Check later what was just served, where it belongs to the sample and no check was made a moment ago."""
        loop, limit = asyncio.get_running_loop(), self._limit
        if loop.time() < self._rests_until or len(self._waiting) >= MAX_WAITING:
            return
        for index in [at for at, key in enumerate(logs.keys) if key is not None and crc32(key) % SAMPLES < limit]:
            i, k = divmod(index, logs.layout.kinds)
            key, [value] = logs.keys[index], logs.values.at([index])
            if key and value and not histories.findings[i, k] & INCOMPARABLE:
                plan = logs.layout.plan
                features, rev = histories.numeric[i, plan.entity_features[k]], int(histories.revs[i, k])
                served = Served(plan, k, rows[i].copy(), features, rev, _life(plan, k, value))
                self._begin(self._check(key, served))
                if self._rest or len(self._waiting) >= MAX_WAITING:
                    return

    def _begin(self, check: Coroutine[None, None, None]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def end(task: asyncio.Task[None]) -> None:
            self._waiting.discard(task)
            self._rests_until = loop.time() + self._rest * (loop.time() - began)

        task = run_behind(check)
        self._waiting.add(task)
        task.add_done_callback(end)
        if self._rest:
            self._rests_until = math.inf

    async def close(self) -> None:
        """Let the checks that are under way finish."""
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _check(self, key: bytes, served: Served) -> None:
        past = await self._store.find_past(key)
        if past is None:
            return
        wrong = await asyncio.to_thread(differing_cells, served, past)
        if wrong is None:
            self._telemetry.observe_parity_unknown()
        else:
            self._telemetry.observe_parity(len(served.features), wrong)


def differing_cells(served: Served, past: Past) -> int | None:
    """How many features come out otherwise than they were served; all of them where the place in the log differs.

    Returns:
        None where the past has a gap, or does not reach the transaction.
    """
    plan, k, row = served.plan, served.k, served.row
    base, tail = split_base(past.log)
    if _life(plan, k, past.log) != served.life:
        return None  # it was given a past, or began anew, since then
    life, start = base_head(plan, k, base) if base else (None, 0)
    seed, entries = (past.seed, _entries(plan, k, past, life)) if past.chunks else (base, _NOTHING)
    if entries is None:
        return None
    reached = (base_head(plan, k, seed)[1] if seed else 0) + len(entries)
    if reached != start:  # taken out while we read; or the log was thrown back behind what was taken out of it
        return None if reached < start else len(served.features)
    events = np.concatenate([entries, read_entries(plan, k, tail)])
    mine = np.flatnonzero(events[:, Column.ID] == row[Column.ID])
    if not len(mine):
        return None
    times = events[mine, Column.TIME]
    events[mine] = row
    events[mine, Column.TIME] = events[mine, Column.ORIGIN] = times
    folded = fold_logs(plan, k, events, np.array([0, len(events)]), [seed])
    places = mine[folded.revs[mine, 0] == served.rev]
    if not len(places):
        return len(served.features)
    return int(differing(folded.numeric[places[0]], served.features).sum())


def _life(plan: Plan, k: int, log: bytes) -> int:
    """The generation of a log: what its base says, or the id of its first entry."""
    base, tail = split_base(log)
    return base_head(plan, k, base)[0] if base else int(read_entries(plan, k, tail)[0, Column.ID])


_NOTHING = np.empty((0, len(Column)), np.int64)


def _entries(plan: Plan, k: int, past: Past, life: int | None) -> NDArray[np.int64] | None:
    """The rows of all chunks; None where they do not continue each other, or are of another life than the log."""
    generation, rev = base_head(plan, k, past.seed) if past.seed else (past.chunks[0].generation, 0)
    if life not in {None, generation}:
        return None
    rows = _NOTHING
    for chunk in past.chunks:
        if (chunk.generation, chunk.first_rev) != (generation, rev):
            return None
        entries = read_entries(plan, k, chunk.entries)
        rows, rev = np.concatenate([rows, entries]), rev + len(entries)
    return rows
