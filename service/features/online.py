"""The engine over the bytes a store returns: what serving sees, computed by the code that trains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.features.entry import MISSING, Column
from service.features.kernel import compact_log, encode_entry, fold_histories
from service.features.plan import KEEP, STATE_SIZE, Plan
from service.features.state import BASE_HEADER

MAX_ENTRY = 256  # bytes; the widest entry a spec can ask for has 1 + 27 columns of at most 6


@dataclass(frozen=True, slots=True)
class Histories:
    """What the kernel made of the logs of a batch of n transactions.

    Attributes:
        numeric: float32 (n, features), NaN where missing.
        categorical: int64 (n, categories), raw codes.
        revs: int64 (n, entities), entries accepted before mine; -1 where unknown.
        lateness_ms: int64 (n, entities), as_of − event time.
        outcomes: int64 (n, entities), the kernel's bits, FOLDED to COMPACTABLE.
    """

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    revs: NDArray[np.int64]
    lateness_ms: NDArray[np.int64]
    outcomes: NDArray[np.int64]


def encode(plan: Plan, row: NDArray[np.int64], k: int) -> bytes:
    """The bytes that an event (int64, one row) adds to the log of its entity of kind k."""
    out = np.empty(MAX_ENTRY, np.uint8)
    length = encode_entry(row, k, plan.tables.entities, plan.tables.layout, out)
    return out[:length].tobytes()


def fold(plan: Plan, rows: NDArray[np.int64], values: Sequence[bytes | None], *, born_at_ms: int) -> Histories:
    """Features of a batch of transactions.

    Args:
        plan: the compiled spec.
        rows: int64 (n, columns).
        values: n · entities logs, transaction by transaction, each holding the transaction's own entry; b"" where
            the transaction does not name the entity, None where the store did not answer.
        born_at_ms: effective time of the first entry the store ever accepted.
    """
    count, kinds = len(rows), len(plan.entities)
    assert len(values) == count * kinds, (len(values), count, kinds)
    starts = np.zeros(len(values) + 1, np.int64)
    np.cumsum([0 if value is None else len(value) for value in values], out=starts[1:])
    reachable = np.array([value is not None for value in values], np.bool_).reshape(count, kinds)
    buffer = np.frombuffer(b"".join([value or b"" for value in values]), np.uint8)
    histories = Histories(
        np.empty((count, len(plan.numeric)), np.float32),
        np.ascontiguousarray(rows[:, list(plan.categorical_columns)]),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
        np.empty((count, kinds), np.int64),
    )
    fold_histories(
        buffer, starts, reachable, rows, born_at_ms, *plan.tables,
        histories.numeric, histories.revs, histories.lateness_ms, histories.outcomes,
    )  # fmt: skip
    return histories


def compact(plan: Plan, value: bytes, k: int, *, keep: int | None = None) -> tuple[bytes, int]:
    """The base that can stand for the beginning of a log.

    Args:
        plan: the compiled spec.
        value: the log of an entity of kind k.
        k: which entity.
        keep: entries that stay behind the base; by default what the spec says.

    Returns:
        (base, length of the prefix of `value` that it replaces); (b"", 0) where there is nothing to do.
    """
    tables = plan.tables
    kept = int(tables.entities[k, KEEP]) if keep is None else keep
    out = np.empty(10 * int(tables.entities[k, STATE_SIZE]) + BASE_HEADER, np.uint8)
    length, prefix = compact_log(np.frombuffer(value, np.uint8), k, kept, *tables[:5], tables.layout, out)
    return out[:length].tobytes(), int(prefix)


def warm_up(plan: Plan) -> None:
    """Compile, or load from the cache, everything the online path calls."""
    row = MISSING.copy()
    row[[Column.KIND, Column.ID, *plan.key_columns]] = 1
    values = [encode(plan, row, k) for k in range(len(plan.entities))]
    fold(plan, row[np.newaxis], values, born_at_ms=0)
    for k, value in enumerate(values):
        compact(plan, value, k, keep=0)
