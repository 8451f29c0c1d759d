"""The smallest store there is: logs as bytes in a dictionary, read and folded one transaction at a time."""

from collections.abc import Callable, Iterable

import numpy as np

from service.features.compaction import compact
from service.features.encoding import encode
from service.features.entry import Column
from service.features.joined import Joined
from service.features.online import Histories, fold
from service.features.plan import Plan
from tests.features.oracle import Kind
from tests.features.streams import Rows

Compaction = Callable[[int], int | None]
"""From the entries appended to a log since its base: how many to keep behind a new base, or None to leave the log."""


class ByteStore:
    """Logs by kind of entity and key."""

    def __init__(self, plan: Plan, bases: Iterable[tuple[int, int, bytes]] = ()) -> None:
        self.plan = plan
        self.logs = {(k, key): base for k, key, base in bases}
        self.lengths: dict[tuple[int, int], int] = {}

    def append(self, row: Rows) -> None:
        """Add a row to the log of each entity that it names."""
        for log in self.named(row):
            self.logs[log] = self.logs.get(log, b"") + encode(self.plan, row, log[0])
            self.lengths[log] = self.lengths.get(log, 0) + 1

    def read(self, row: Rows) -> list[bytes]:
        """The log of each kind of entity, empty where the row does not name one."""
        keys = [int(row[column]) for column in self.plan.key_columns]
        return [self.logs[k, key] if key else b"" for k, key in enumerate(keys)]

    def compact(self, row: Rows, compaction: Compaction) -> None:
        """Replace the beginning of the logs that the row names by bases, where `compaction` says so."""
        for log in self.named(row):
            keep = compaction(self.lengths[log])
            if keep is not None:
                done = compact(self.plan, self.logs[log], log[0], keep=keep)
                if done is not None:
                    self.logs[log] = done.base + self.logs[log][len(done.prefix) :]
                self.lengths[log] = min(keep, self.lengths[log])

    def named(self, row: Rows) -> list[tuple[int, int]]:
        """The logs of the entities that a row names."""
        keys = [int(row[column]) for column in self.plan.key_columns]
        return [(k, key) for k, key in enumerate(keys) if key]


def serve(store: ByteStore, rows: Rows, *, born_at_ms: int, compaction: Compaction) -> Histories:
    """Let the rows arrive one by one: append, read back, fold, and compact behind the answer.

    Returns:
        What the engine says of each row; rows that are not transactions are missing everywhere, with rev -1.
    """
    served, kinds = nothing(store.plan, len(rows)), len(store.plan.entities)
    for index, row in enumerate(rows):
        store.append(row)
        if row[Column.KIND] in {Kind.ATTEMPT, Kind.FOLLOW_UP}:
            write(
                served,
                index,
                fold(store.plan, row[np.newaxis], Joined.of(store.read(row)), births_ms=[born_at_ms] * kinds),
            )
        store.compact(row, compaction)
    return served


def nothing(plan: Plan, size: int) -> Histories:
    """Histories in which everything is missing."""
    kinds = len(plan.entities)
    return Histories(
        numeric=np.full((size, len(plan.numeric)), np.nan, np.float32),
        categorical=np.full((size, len(plan.categorical)), -1, np.int64),
        revs=np.full((size, kinds), -1, np.int64),
        lateness_ms=np.zeros((size, kinds), np.int64),
        findings=np.zeros((size, kinds), np.int64),
    )


def write(histories: Histories, index: int, one: Histories) -> None:
    """Put the histories of one transaction in their place."""
    histories.numeric[index] = one.numeric[0]
    histories.categorical[index] = one.categorical[0]
    histories.revs[index] = one.revs[0]
    histories.lateness_ms[index] = one.lateness_ms[0]
    histories.findings[index] = one.findings[0]
