"""Nodes: the servers behind a store, and who of them keeps which key."""

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import structlog

from service.errors import StoreUnavailable, StoreUnreachable
from service.stores.keys import ONE_SERVER_PARTITIONS, born_key
from service.stores.link import Link, LinkCounts, dialler, server_name
from service.stores.wire import Refusal, command

OLDEST_VERSION = (7, 0)  # the first with SET … NX GET

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Node:
    """One server that keeps histories.

    Attributes:
        link: to it.
        marker: the key that says when it was born; it is gone when the histories are.
        born_ms: what the marker said last; None before it was read.
        inherited_ms: the birth to claim where there is no marker yet, because its histories came from other nodes.
    """

    __slots__ = ("born_ms", "inherited_ms", "link", "marker")

    def __init__(self, link: Link, marker: bytes, inherited_ms: int | None = None) -> None:
        self.link = link
        self.marker = marker
        self.born_ms: int | None = None
        self.inherited_ms = inherited_ms


class Nodes(Protocol):
    """The difference between one server and a cluster."""

    partitions: int
    counts: LinkCounts  # of all links there are and were

    def every(self) -> Sequence[Node]:
        """All nodes, up or down."""
        ...

    def node_of(self, key: bytes) -> Node | None:
        """Who has a key; None: nobody, at the moment."""
        ...

    def share(self, keys: Sequence[bytes]) -> Iterable[tuple[Node, Sequence[int]]]:
        """The places in `keys` of those that each node has; none for a node that has none of them."""
        ...

    def redirected(self, link: Link, refusal: Refusal) -> tuple[Link, bool] | None:
        """Where a command that was refused over a link belongs, and whether it must ask to be let in there.

        None: nowhere else; the refusal stands.
        """
        ...

    async def close(self) -> None:
        """Close all links."""
        ...


class OneServer:
    """See `Nodes`: a single server that keeps everything."""

    partitions = ONE_SERVER_PARTITIONS

    def __init__(self, link: Link) -> None:
        self.counts = link.counts
        self._node = Node(link, born_key(b"0"))

    @classmethod
    async def open(cls, url: str, *, timeout_ms: int, greeting: Sequence[bytes]) -> Self:
        """Connect.

        Args:
            url: redis://, rediss:// or unix://.
            timeout_ms: how long an answer may take.
            greeting: commands sent on each new connection before any other.

        Where nobody answers it is tried again in the background, and everything goes without answer until then.

        Raises:
            SettingsInvalid: the URL is not one.
            StoreUnavailable: the server turns us away, or is not one that can be used.
        """
        link = Link(dialler(url), name=server_name(url), timeout_ms=timeout_ms, greeting=greeting)
        try:
            await link.open()
            await inspect(link, in_cluster=False)
        except StoreUnreachable as error:
            _log.warning("store_unreachable", reason=str(error))
            link.heal()
        except BaseException:
            await link.close()
            raise
        return cls(link)

    def every(self) -> Sequence[Node]:
        """See `Nodes`."""
        return [self._node]

    def node_of(self, key: bytes) -> Node:  # noqa: ARG002 - there is only one
        """See `Nodes`."""
        return self._node

    def share(self, keys: Sequence[bytes]) -> Iterable[tuple[Node, Sequence[int]]]:
        """See `Nodes`."""
        return [(self._node, range(len(keys)))] if keys else []

    def redirected(self, link: Link, refusal: Refusal) -> None:
        """See `Nodes`."""

    async def close(self) -> None:
        """See `Nodes`."""
        await self._node.link.close()


async def inspect(link: Link, *, in_cluster: bool) -> None:
    """Look whether a server can be used, as far as we are allowed to.

    Args:
        link: to it.
        in_cluster: whether the URL says that it is a node of a cluster.

    Raises:
        StoreUnavailable: it is too old, does not answer, or is (or is not) a node of a cluster against the URL.
    """
    replies = await link.send(command("INFO"), 1)
    if replies is None:
        raise StoreUnreachable(f"{link.name} did not answer in time")
    facts = fields_of(replies[0])
    version = facts.get("redis_version", "7.0.0")
    if tuple(map(int, version.split(".")[:2])) < OLDEST_VERSION:
        raise StoreUnavailable(f"{link.name} is Redis {version}; the store needs 7.0 or newer, or Valkey")
    if facts.get("cluster_enabled", str(int(in_cluster))) != str(int(in_cluster)):
        what, scheme = ("no node", "redis://") if in_cluster else ("a node", "redis+cluster://")
        raise StoreUnavailable(f"{link.name} is {what} of a cluster; begin the store's URL with {scheme}")
    if facts.get("maxmemory_policy", "noeviction") != "noeviction":
        _log.warning("store_may_evict", server=link.name, maxmemory_policy=facts["maxmemory_policy"], want="noeviction")


def fields_of(reply: object) -> dict[str, str]:
    """The fields of a reply to INFO; none where it was refused."""
    if not isinstance(reply, bytes):
        return {}
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
