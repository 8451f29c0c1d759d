"""The embedded store: one process's memory, bounded, with the same bytes that any other store holds."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from service.stores.base import Append, DecisionRecord

Value = TypeVar("Value")


class MemoryStore:
    """Keeps histories in this process. Nothing survives it, and no other process sees it.

    Its methods never yield to the event loop, so what one request appends and reads no other request can interleave.
    """

    def __init__(self, *, max_entities: int, max_decisions: int) -> None:
        self._logs: _Bounded[bytes, bytes] = _Bounded(max_entities)
        self._records: _Bounded[str, DecisionRecord] = _Bounded(max_decisions)
        self._labels: _Bounded[str, int] = _Bounded(max_decisions)
        self._born_at_ms: int | None = None

    @property
    def entities(self) -> int:
        """Logs held now."""
        return len(self._logs)

    @property
    def evictions(self) -> int:
        """Logs forgotten since the start because there was no room."""
        return self._logs.evictions

    async def born_at(self, first_time_ms: int) -> int:
        """See `Store`."""
        if self._born_at_ms is None:
            self._born_at_ms = first_time_ms
        return self._born_at_ms

    async def append_and_read(self, appends: Sequence[Append]) -> list[bytes | None]:
        """See `Store`; always answers."""
        values: list[bytes | None] = []
        for key, entry in appends:
            value = self._logs.get(key, b"") + entry
            self._logs.put(key, value)
            values.append(value)
        return values

    async def replace(self, key: bytes, prefix: bytes, base: bytes) -> bool:
        """See `Store`."""
        value = self._logs.get(key, b"")
        if not prefix or not value.startswith(prefix):
            return False
        self._logs.put(key, base + value[len(prefix) :])
        return True

    async def find_records(self, transaction_ids: Sequence[str]) -> list[DecisionRecord | None]:
        """See `Store`."""
        return [self._records.peek(transaction_id) for transaction_id in transaction_ids]

    async def put_record(self, transaction_id: str, record: DecisionRecord) -> None:
        """See `Store`."""
        self._records.put(transaction_id, record)

    async def exchange_label(self, transaction_id: str, label: int) -> int:
        """See `Store`."""
        before = self._labels.get(transaction_id, 0)
        self._labels.put(transaction_id, label)
        return before


Key = TypeVar("Key")


class _Bounded(Generic[Key, Value]):
    """A mapping that forgets what was longest unused when it is full."""

    def __init__(self, limit: int) -> None:
        assert limit > 0, limit
        self.evictions = 0
        self._limit = limit
        self._items: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key, default: Value) -> Value:
        return self._items.get(key, default)

    def peek(self, key: Key) -> Value | None:
        return self._items.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Set a value and make it the most recently used."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._limit:
            self._items.popitem(last=False)
            self.evictions += 1
