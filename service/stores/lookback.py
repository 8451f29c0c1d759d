"""The lookback: what left the logs since an outage began, to find what was done although nobody was told."""

from collections import defaultdict
from collections.abc import Mapping

from service.stores.base import Append

IDLE_S = 10.0  # after this long without a question the outage is over, and what was read is let go


class Lookback:
    """Reads the archive once from some time on, then only what is new.

    Attributes:
        since_ms: from when on, by the wall clock.
        read_to_its_end: the partitions of which everything is noted that was archived before the last `begin`.
    """

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.read_to_its_end: set[int] = set()
        self._positions: dict[int, bytes] = {}
        self._entries: defaultdict[bytes, bytes] = defaultdict(bytes)
        self._asked_s = 0.0

    def begin(self, now_s: float) -> None:
        """Somebody asks, at a time of the event loop's clock: everything is to be read up to now."""
        self._asked_s = now_s
        self.read_to_its_end.clear()

    def is_idle(self, now_s: float) -> bool:
        """Whether nobody has asked for long."""
        return now_s - self._asked_s > IDLE_S

    def position(self, partition: int) -> bytes:
        """From where on a partition of the archive is still to be read."""
        return self._positions.get(partition, b"%d" % self.since_ms)

    def note(self, partition: int, position: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Take note of one archived message."""
        self._positions[partition] = b"(" + position
        self._entries[fields[b"k"]] += fields.get(b"e", b"")

    def holds(self, append: Append) -> bool:
        """Whether exactly this entry left its log since then; it has an id of its own, so it cannot be another."""
        return append.entry in self._entries.get(append.key, b"")
