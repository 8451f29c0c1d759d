"""The lookback: what left the logs since an outage began, to find what was done although nobody was told."""

from collections import defaultdict
from collections.abc import Mapping

from service.stores.base import Append


class Lookback:
    """Reads the archive once from some time on, then only what is new.

    Attributes:
        since_ms: from when on, by the wall clock.
    """

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self._positions: dict[bytes, bytes] = {}
        self._entries: defaultdict[bytes, bytes] = defaultdict(bytes)

    def position(self, stream: bytes) -> bytes:
        """From where on a stream is still to be read."""
        return self._positions.get(stream, b"%d" % self.since_ms)

    def read(self, stream: bytes, position: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Take note of one archived message."""
        self._positions[stream] = b"(" + position
        self._entries[fields[b"k"]] += fields.get(b"e", b"")

    def holds(self, append: Append) -> bool:
        """Whether exactly this entry left its log since then; it has an id of its own, so it cannot be another."""
        return append.entry in self._entries.get(append.key, b"")
