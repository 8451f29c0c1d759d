"""The watch: looks whether servers threw away what the store counts on."""

from collections.abc import Callable

import structlog

from service.stores.keys import archive_stream, decisions_stream, outcomes_stream
from service.stores.link import Link
from service.stores.nodes import Node, Nodes, fields_of
from service.stores.wire import Reply, command

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Watch:
    """Counts what was lost, and makes a server that lost histories a newborn.

    Each process that watches counts everything: the numbers of several processes are not to be added.

    Attributes:
        evictions: keys thrown away for want of memory since we began to look.
        archive_overflow: entries of the archive trimmed before a group had read them, or at all where there is none.
        decisions_overflow: entries of the stream of decisions, the same.
        outcomes_overflow: entries of the stream of outcomes, the same.
    """

    def __init__(self, nodes: Nodes, latest_ms: Callable[[], int | None]) -> None:
        """Begin to count with the first `look`.

        Args:
            nodes: whom to look after.
            latest_ms: the latest effective time seen; a birth that is not before any history we could have lost.
        """
        self.evictions = self.archive_overflow = self.decisions_overflow = self.outcomes_overflow = 0
        self._nodes = nodes
        self._latest_ms = latest_ms
        self._evicted: dict[Link, int] = {}
        self._trimmed: dict[bytes, int] = {}
        self._partition = 0

    async def look(self) -> None:
        """Look at every node, and at one partition after the other: a cluster has many, and nothing is urgent."""
        for node in self._nodes.every():
            await self._look_for_evictions(node)
        partition, self._partition = self._partition, (self._partition + 1) % self._nodes.partitions
        self.archive_overflow += await self._look_for_overflow(archive_stream(partition))
        self.decisions_overflow += await self._look_for_overflow(decisions_stream(partition))
        self.outcomes_overflow += await self._look_for_overflow(outcomes_stream(partition))

    async def _look_for_evictions(self, node: Node) -> None:
        replies = await node.link.send(command("INFO", "stats"), 1)
        facts = fields_of(replies[0]) if replies else {}
        if "evicted_keys" not in facts:
            return
        evicted = int(facts["evicted_keys"])
        before = self._evicted.setdefault(node.link, evicted)
        lost = evicted - before if evicted >= before else evicted  # fewer than before: the server was restarted
        born_ms = self._latest_ms()
        if lost and born_ms is not None:
            if await node.link.send(command("SET", node.marker, born_ms), 1) != [b"OK"]:
                return  # a server that is full may refuse even this; it is tried again
            self.evictions += lost
            _log.warning("store_evicted", server=node.link.name, keys=lost)
        if not lost or born_ms is not None:
            self._evicted[node.link] = evicted

    async def _look_for_overflow(self, stream: bytes) -> int:
        """How many entries were trimmed unread since we last looked."""
        node = self._nodes.node_of(stream)
        if node is None:
            return 0
        replies = await node.link.send(command("XINFO", "STREAM", stream) + command("XINFO", "GROUPS", stream), 2)
        if replies is None or not isinstance(replies[0], list) or not isinstance(replies[1], list):
            return 0  # among others: there is no such stream yet
        facts = _pairs(replies[0])
        trimmed = _number(facts[b"entries-added"]) - _number(facts[b"length"])
        before = min(self._trimmed.get(stream, trimmed), trimmed)  # it starts again at 0 when a server loses all
        self._trimmed[stream] = trimmed
        read = min(map(_entries_read, replies[1]), default=0)
        return max(0, trimmed - max(before, read))


def _entries_read(group: Reply) -> int:
    """How far a group has read, as a number of entries from the first ever."""
    facts = _pairs(group)
    read = facts[b"entries-read"]
    if read is None and facts[b"last-delivered-id"] != b"0-0":
        return 1 << 62  # Redis cannot tell where it stands, so neither can we what it missed
    return _number(read or 0)


def _pairs(reply: Reply) -> dict[Reply, Reply]:
    assert isinstance(reply, list), reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _number(reply: Reply) -> int:
    assert isinstance(reply, int), reply
    return reply
