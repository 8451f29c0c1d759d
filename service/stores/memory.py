"""The embedded store: one process's memory, bounded, with the same bytes that any other store holds."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec import structs

from service.features.compaction import Compaction, split_base
from service.features.joined import Joined
from service.stores.base import (
    MAX_CHUNKS,
    Append,
    Appends,
    Chunk,
    DecisionRecord,
    NewDecision,
    Past,
    Replacement,
    StoreStatus,
    Unanswered,
    Visit,
)
from service.stores.codec import decode_record, encode_record
from service.stores.snapshot import Snapshot

Key = TypeVar("Key")
Value = TypeVar("Value")


class MemoryStore:
    """Keeps histories in this process. Nothing survives it, and no other process sees it.

    Its methods never yield to the event loop, so what one request appends and reads no other request can interleave.
    It archives nothing: there is nobody to collect it. Decisions are held as bytes: as tuples and arrays they took
    2 KB more each, and every 8,000 of them Python's garbage collector took 10 to 40 ms to find nothing among them.
    """

    def __init__(self, *, max_entities: int, max_decisions: int) -> None:
        self._logs: _Bounded[bytes, bytes] = _Bounded(max_entities)
        self._records: _Bounded[str, bytes] = _Bounded(max_decisions)
        self._snapshots: _Bounded[str, bytes] = _Bounded(max_decisions)
        self._pasts: _Bounded[bytes, tuple[bytes, list[Chunk]]] = _Bounded(max_entities)
        self._outcomes: _Bounded[str, bytes] = _Bounded(max_decisions)
        self._born_at_ms: int | None = None

    async def visit(self, transaction_ids: Sequence[str], appends: Appends, *, time_ms: int) -> Visit:
        """See `Remote`; always answers."""
        if self._born_at_ms is None:
            self._born_at_ms = time_ms
        records: list[DecisionRecord | Unanswered | None] = [await self.find_record(name) for name in transaction_ids]
        return Visit(
            logs=Joined.of([self._append(append) for append in appends.each()]),
            births_ms=[self._born_at_ms] * len(appends.keys),
            records=records,
        )

    async def append(self, appends: Sequence[Append]) -> list[bool]:
        """See `Remote`; always acknowledges."""
        for append in appends:
            self._append(append)
        return [True] * len(appends)

    async def append_missing(self, appends: Sequence[Append], *, since_ms: int) -> list[bool]:  # noqa: ARG002 - nothing is doubtful here
        """See `Remote`; always knows."""
        for append in appends:
            if append.entry not in (self._logs.peek(append.key) or b""):
                self._append(append)
        return [True] * len(appends)

    async def replace(self, replacements: Sequence[Replacement]) -> list[bool]:
        """See `Remote`."""
        return [self._replace(*replacement) for replacement in replacements]

    async def find_past(self, key: bytes) -> Past | None:
        """See `Remote`."""
        log = self._logs.peek(key)
        return None if log is None else Past(*(self._pasts.peek(key) or (b"", [])), log)

    async def put_decisions(self, decisions: Sequence[NewDecision]) -> list[DecisionRecord | None]:
        """See `Remote`; always answers."""
        return self._put_decisions(decisions)

    async def find_record(self, transaction_id: str) -> DecisionRecord | None:
        """See `Remote`."""
        held = self._records.peek(transaction_id)
        return None if held is None else structs.replace(decode_record(held), position=transaction_id)

    async def find_snapshot(self, transaction_id: str, record: DecisionRecord) -> Snapshot | None:  # noqa: ARG002 - a store that keeps them apart needs the position
        """See `Remote`."""
        held = self._snapshots.peek(transaction_id)
        return None if held is None else Snapshot.decode(held)

    async def find_outcomes(self, transaction_id: str) -> bytes | None:
        """See `Remote`."""
        return self._outcomes.peek(transaction_id)

    async def exchange_outcomes(
        self,
        transaction_id: str,
        before: bytes | None,
        after: bytes,
        *,
        news: bytes | None,  # noqa: ARG002 - nobody collects from this store
    ) -> bool:
        """See `Remote`."""
        if self._outcomes.peek(transaction_id) != before:
            return False
        self._outcomes.put(transaction_id, after)
        return True

    def defer(self, appends: Sequence[Append]) -> None:
        """See `Store`; what nobody had time to append is appended at once."""
        for append in appends:
            self._append(append)

    def keep(self, decisions: Sequence[NewDecision]) -> None:
        """See `Store`; decisions that nobody had time to remember are remembered at once."""
        self._put_decisions(decisions)

    def status(self) -> StoreStatus:
        """See `Remote`."""
        return StoreStatus(entities=len(self._logs), evictions=self._logs.evictions)

    async def close(self) -> None:
        """See `Remote`; nothing is open."""

    def _append(self, append: Append) -> bytes:
        value = (self._logs.peek(append.key) or b"") + append.entry
        self._logs.put(append.key, value)
        return value

    def _replace(self, key: bytes, compaction: Compaction, audited: bool) -> bool:  # noqa: FBT001 - as `Replacement` has it
        value = self._logs.peek(key) or b""
        if not value.startswith(compaction.prefix):
            return False
        self._logs.put(key, compaction.base + value.removeprefix(compaction.prefix))
        if audited:
            seed, chunks = self._pasts.peek(key) or (split_base(compaction.prefix)[0], [])
            chunk = Chunk(compaction.generation, compaction.first_rev, compaction.entries)
            self._pasts.put(key, (seed, [*chunks, chunk]) if len(chunks) < MAX_CHUNKS else (compaction.base, []))
        return True

    def _put_decisions(self, decisions: Sequence[NewDecision]) -> list[DecisionRecord | None]:
        return list(map(self._put_decision, decisions))

    def _put_decision(self, decision: NewDecision) -> DecisionRecord:
        held = self._records.peek(decision.transaction_id)
        if held is not None:
            return decode_record(held)
        self._records.put(decision.transaction_id, encode_record(decision.record))
        self._snapshots.put(decision.transaction_id, decision.snapshot.encoded)
        return decision.record


class _Bounded(Generic[Key, Value]):
    """A mapping that forgets what was longest not written when it is full."""

    def __init__(self, limit: int) -> None:
        assert limit > 0, limit
        self.evictions = 0
        self._limit = limit
        self._items: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def peek(self, key: Key) -> Value | None:
        return self._items.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Set a value and make it the most recently written."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._limit:
            self._items.popitem(last=False)
            self.evictions += 1
