"""What the scorer asks of a store: histories that grow, decisions that are remembered, labels that change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Append(NamedTuple):
    """One entry for one entity's log."""

    key: bytes
    entry: bytes


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What is kept of a decision: enough to repeat the answer, to explain it, and to place its outcomes.

    Attributes:
        digest: of the request, to tell a retry from another use of the same id.
        response: the body that was sent, byte for byte.
        event_time_ms: the transaction's effective event time.
        keys: by entity, the key of its log; None where the transaction does not name it.
        numeric: float32 (features,), what the model saw.
        categorical: int64 (categories,), the same.
        revs: int64 (entities,), where the transaction stands in each log; -1 where unknown.
    """

    digest: bytes
    response: bytes
    event_time_ms: int
    keys: tuple[bytes | None, ...]
    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    revs: NDArray[np.int64]


class Store(Protocol):
    """Histories, decisions and labels. Every method keeps to its bounds; none of them knows what an entry means."""

    async def born_at(self, first_time_ms: int) -> int:
        """Effective time of the first entry ever accepted; the first caller's, if there was none."""
        ...

    async def append_and_read(self, appends: Sequence[Append]) -> list[bytes | None]:
        """Append each entry to its log and return the whole log behind it, in order. None: no answer in time."""
        ...

    async def replace(self, key: bytes, prefix: bytes, base: bytes) -> bool:
        """Put `base` in place of `prefix` at the beginning of a log; False where it no longer begins so."""
        ...

    async def find_records(self, transaction_ids: Sequence[str]) -> list[DecisionRecord | None]:
        """The decisions held under these ids."""
        ...

    async def put_record(self, transaction_id: str, record: DecisionRecord) -> None:
        """Remember a decision."""
        ...

    async def exchange_label(self, transaction_id: str, label: int) -> int:
        """Set a transaction's label to 0 or 1; return the label it had (0 where none was set)."""
        ...
