"""The footprint: what the shipped model's histories and decisions take of a Redis server's time and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.ours import Batch, Reader
from benchmarks.features.payments import HISTORY_DAYS, Payments, score_requests, transactions
from benchmarks.features.server import Server, Work
from benchmarks.features.timing import time_waiting
from benchmarks.measure import RequestRefused
from service.batching import Batcher
from service.features.entry import Column
from service.features.spec import DAY_MS, KEY_FIELDS
from service.scorer import Answer, Scorer, ScoreRequest
from service.stores.keys import ONE_SERVER_PARTITIONS, decisions_stream, record_key

COUNTED = 2_000  # requests of each kind
TRANSACTIONS = 3 * COUNTED  # that are needed after the history
LONG = 300_000  # events of a long history
APPENDED_AT_ONCE = 100
ID_BITS = 47
SEED = 1

# The commands that are sent for an entity; those within the script that compacts count as its own.
APPEND_AND_READ = ("rpush", "lrange")
NOW_AND_THEN = ("evalsha", "xadd", "set")


@dataclass(frozen=True, slots=True)
class EntityCost:
    """The server's time for one entity of one request, in microseconds.

    Attributes:
        read_us: to append an entry and read the log.
        all_us: with what is needed now and then: compaction, its archive, the birth marker.
        commands: by name, how many there are for an entity and the time of one.
    """

    read_us: float
    all_us: float
    commands: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, work: Work) -> "EntityCost":
        """What reading made the server do, per log that was appended to."""
        entities = work.commands["rpush"].calls
        commands = {
            name: (done.calls / entities, done.microseconds / done.calls)
            for name in (*APPEND_AND_READ, *NOW_AND_THEN)
            if (done := work.commands.get(name)) is not None and done.calls
        }
        read_us = sum(each * us for name, (each, us) in commands.items() if name in APPEND_AND_READ)
        return cls(read_us, sum(each * us for each, us in commands.values()), commands)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What was found.

    Attributes:
        cards: how many were looked at, and
        card_bytes: what the history of one takes, which paid about thirty times in a month.
        month: cost of an entity with about thirty events.
        long: cost of one with `LONG` of them.
        alone_us: processor time of the server for one decision about four entities, and
        waiting_us: where several wait at once.
        records: how many were looked at, and
        record_bytes: what the record of a decision takes.
        entry_bytes: what a decision takes in the stream, until it is collected.
    """

    cards: int
    card_bytes: float
    month: EntityCost
    long: EntityCost
    alone_us: float
    waiting_us: float
    records: int
    record_bytes: float
    entry_bytes: float


async def measure_footprint(
    server: Server, reader: Reader, scorer: Scorer, payments: Payments, *, waiting: int
) -> Footprint:
    """Fill an empty server and look at what it does and holds.

    Args:
        server: which the others use.
        reader: of the shipped model's features.
        scorer: of the shipped model.
        payments: at least `TRANSACTIONS` after the history.
        waiting: decisions at once, where they are not alone.

    Raises:
        RequestRefused: the store did not answer in time.
    """
    await reader.fill(transactions(payments.history))
    cards, card_bytes = server.mean_bytes(f"{reader.layout.spec}:card:*")
    requests = score_requests(payments.later)
    batches = [reader.prepared([request.transaction]) for request in islice(requests, COUNTED)]
    month = await _entity_cost(server, reader, batches)
    alone_us = await _decision_cost(server, scorer, list(islice(requests, COUNTED)), waiting=1)
    waiting_us = await _decision_cost(server, scorer, list(islice(requests, COUNTED)), waiting=waiting)
    assert ONE_SERVER_PARTITIONS == 1, "records and their stream are all in partition 0"
    records, record_bytes = server.mean_bytes(record_key(0, b"*").decode())
    entry_bytes = server.entry_bytes(decisions_stream(0).decode())
    long = await _entity_cost(server, reader, await _after_long_history(reader, batches))
    return Footprint(
        cards, card_bytes, month, long, alone_us, waiting_us, records, record_bytes, entry_bytes
    )  # fmt: skip


async def _entity_cost(server: Server, reader: Reader, batches: Sequence[Batch]) -> EntityCost:
    before = server.work()
    for batch in batches:
        await reader.read(batch)
    await reader.settle()
    return EntityCost.of(server.work().since(before))


async def _decision_cost(server: Server, scorer: Scorer, requests: Sequence[ScoreRequest], *, waiting: int) -> float:
    """The server's processor time for one decision, in microseconds."""
    together = Batcher(scorer.score, overflow=scorer.decide_at_once, most_waiting=len(requests))

    async def score(request: ScoreRequest) -> None:
        answer = await together.submit(request)
        if not isinstance(answer, Answer) or b'"idempotency"' in answer.body:
            raise RequestRefused(f"no decision that the store remembers: {answer}")

    before_s = server.cpu_s()
    await time_waiting(score, requests, waiting=waiting)
    await together.close()
    return (server.cpu_s() - before_s) / len(requests) * 1e6


async def _after_long_history(reader: Reader, batches: Sequence[Batch]) -> list[Batch]:
    """Give four entities a history of `LONG` events in a month, all kinds of transactions.

    Returns:
        The transactions that come after it, as many as were given.
    """
    rows = np.resize(np.concatenate([batch.rows for batch in batches]), (LONG + len(batches), len(Column)))
    rows[:, Column.ID] = np.random.default_rng(SEED).integers(1, 1 << ID_BITS, len(rows))
    rows[:, Column.TIME] = rows[0, Column.TIME] + np.arange(len(rows)) * (HISTORY_DAYS * DAY_MS) // LONG
    rows[:, Column.ORIGIN] = rows[:, Column.TIME]
    for first in range(0, LONG, APPENDED_AT_ONCE):
        part = rows[first : first + APPENDED_AT_ONCE]
        await reader.append(_of_the_same(part[:-1]))
        await reader.read(_of_the_same(part[-1:]))
        await reader.settle()
    return [_of_the_same(rows[index : index + 1]) for index in range(LONG, len(rows))]


def _of_the_same(rows: NDArray[np.int64]) -> Batch:
    """Transactions that all name the same entities."""
    return Batch(rows, [("long",) * len(KEY_FIELDS)] * len(rows))
