"""Decisions and compactions for tests of stores."""

import numpy as np

from service.features.compaction import Compaction
from service.features.spec import KEY_FIELDS
from service.response import Response
from service.stores.base import DecisionRecord, NewDecision, Remote, Replacement
from service.stores.snapshot import Snapshot


def decision(transaction_id: str, response: bytes = b"{}") -> NewDecision:
    """A decision that differs from others in its response."""
    tokens = ("tok-1", *(None,) * (len(KEY_FIELDS) - 1))
    answer = Response.of(response)
    record = DecisionRecord(b"sixteen bytes ok", answer, 1_700_000_000_000, 1_250, tokens, "3f2a91bc", (0, -1))
    [snapshot] = Snapshot.of_batch(
        [b'{"amount":1}'],
        np.array([[1.5, np.nan]], np.float32),
        np.array([[3, 0]], np.int64),
        np.array([[1, 5]], np.int64),
    )
    return NewDecision(transaction_id, record, snapshot)


def compaction(base: bytes, *elements: bytes, first_rev: int = 0) -> Compaction:
    """A base for the elements that a log begins with, all of them accepted entries of the log's first life."""
    entries = b"".join(elements)
    return Compaction(base, entries, len(elements), elements[0], elements[-1], 7, first_rev, entries)


async def replace_one(store: Remote, key: bytes, done: Compaction, *, audited: bool) -> bool:
    """Put one base in its place."""
    [replaced] = await store.replace([Replacement(key, done, audited)])
    return replaced
