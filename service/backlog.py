"""The backlog: decisions that were made at once, for want of room, until the store has them too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching import Batcher
from service.features.kernel import ABSENT, UNAVAILABLE
from service.layout import Layout, Tokens
from service.ledger import Ledger
from service.stores.base import APPENDED_LATER, NOWHERE, DecisionRecord, NewDecision, Store
from service.stores.snapshot import Snapshot
from service.telemetry import Telemetry

WRITTEN_AT_ONCE = 16  # so little at a time: requests that can still be scored come first
MOST_WAITING = 10_000  # decisions: 30 MB

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Backlog:
    """What is in it is known to this process alone, and lost with it."""

    def __init__(self, store: Store, ledger: Ledger, telemetry: Telemetry, *, most_waiting: int = MOST_WAITING) -> None:
        """Nothing waits yet.

        Args:
            store: where decisions are to be kept.
            ledger: where transactions are to be entered.
            telemetry: is told of what could not be written.
            most_waiting: decisions; what comes beyond them is left to the store, which has bounds of its own.
        """
        self._store = store
        self._ledger = ledger
        self._telemetry = telemetry
        self._records: dict[str, DecisionRecord] = {}  # by transaction id
        self._waiting: Batcher[_Unwritten, None] = Batcher(
            self._write,
            overflow=self._leave_to_the_store,
            most_waiting=most_waiting,
            most_items=WRITTEN_AT_ONCE,
            most_batches=1,
        )

    def __len__(self) -> int:
        """How many decisions are not written down yet."""
        return len(self._records)

    def find(self, transaction_id: str) -> DecisionRecord | None:
        """The decision that waits under an id."""
        return self._records.get(transaction_id)

    def add(self, row: tuple[int, ...], decision: NewDecision) -> None:
        """Have a decision kept and its transaction (by `Column`) entered, when their turn has come."""
        self._records[decision.transaction_id] = decision.record
        self._waiting.enqueue(_Unwritten(row, decision), _nobody_waits)

    async def close(self) -> None:
        """Wait until nothing waits."""
        await self._waiting.close()

    async def _write(self, unwritten: Sequence["_Unwritten"]) -> list[None]:
        with self._settling(unwritten):
            await self._write_down(unwritten)
        return [None] * len(unwritten)

    def _leave_to_the_store(self, unwritten: "_Unwritten") -> None:
        with self._settling([unwritten]):
            record = unwritten.decision.record
            self._ledger.enter_later([record.tokens], np.array([unwritten.row], np.int64))
            self._store.keep([unwritten.decision])

    @contextmanager
    def _settling(self, unwritten: Sequence["_Unwritten"]) -> Iterator[None]:
        """They wait no longer, whatever becomes of them; a defect is told here, for nobody waits for the result."""
        try:
            yield
        except Exception:  # noqa: BLE001 - it is told, and those that come later are written
            _log.exception("backlog_not_written", decisions=len(unwritten))
            self._telemetry.observe_unwritten(times=len(unwritten))
        finally:
            for _, decision in unwritten:
                del self._records[decision.transaction_id]

    async def _write_down(self, unwritten: Sequence["_Unwritten"]) -> None:
        """Do what the hot path does in the store; an earlier decision stands, and what was entered is taken back."""
        decisions = [decision for _, decision in unwritten]
        rows = np.array([row for row, _ in unwritten], np.int64)
        ids, tokens = [decision.transaction_id for decision in decisions], [it.record.tokens for it in decisions]
        found, logs = await self._ledger.enter(ids, tokens, rows)
        earlier = {place: record for place, record in enumerate(found) if isinstance(record, DecisionRecord)}
        fresh = [place for place in range(len(decisions)) if place not in earlier]
        standing = await self._store.put_decisions([decisions[place] for place in fresh])
        for place, record in zip(fresh, standing, strict=True):
            if record is None:
                self._store.keep([decisions[place]])
            elif record.response != decisions[place].record.response:
                earlier[place] = record
        if earlier:
            await self._ledger.take_back(rows, earlier, [(each, each.fold(rows)) for each in logs])


class _Unwritten(NamedTuple):
    """A decision that waits, with its transaction by `Column`."""

    row: tuple[int, ...]
    decision: NewDecision


def nothing_read(
    layout: Layout, tokens: Tokens, row: NDArray[np.int64], request: bytes
) -> tuple[tuple[int, ...], Snapshot]:
    """What stands in a decision that was made without history: where its entries will be, and what the model saw.

    Args:
        layout: of the spec that is served.
        tokens: what names the transaction's entities.
        row: int64 (columns,), the transaction.
        request: the body it was read from.
    """
    plan = layout.plan
    named = [token is not None for token in layout.named(tokens)]
    [snapshot] = Snapshot.of_batch(
        [request],
        np.full((1, len(plan.numeric)), np.nan, np.float32),
        row[np.newaxis, list(plan.categorical_columns)],
        np.array([[UNAVAILABLE if there else ABSENT for there in named]], np.int64),
    )
    return tuple(APPENDED_LATER if there else NOWHERE for there in named), snapshot


def _nobody_waits(_: object) -> None:
    """For what is done behind the answers."""
