"""The nodes of a Redis Cluster: who has which slot, learnt from the cluster itself and from its redirections."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias
from urllib.parse import urlsplit

import structlog

from service.background import repeat, run_behind
from service.errors import StoreUnavailable, StoreUnreachable
from service.stores.keys import CLUSTER_PARTITIONS, SLOTS, born_key, slot_of
from service.stores.link import CONNECT_TIMEOUT_S, Link, LinkCounts, LinkState, dialler, server_name
from service.stores.nodes import Node, inspect
from service.stores.wire import Refusal, Reply, command

REFRESH_S = 1.0  # one short question; a replica that took over is found soon after the cluster made it a master
MOST_NODES = 1000  # what a cluster can have; redirections cannot make us connect to more

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Address: TypeAlias = tuple[str, int]


class ClusterNodes:
    """See `Nodes`. A node that is away takes along the keys it has, and no others."""

    partitions = CLUSTER_PARTITIONS

    def __init__(self, url: str, *, timeout_ms: int, greeting: Sequence[bytes]) -> None:
        """See `open`."""
        self.counts = LinkCounts()
        self._url = url.replace("+cluster://", "://", 1)
        self._timeout_ms = timeout_ms
        self._greeting = greeting
        self._nodes: dict[Address, Node] = {}
        self._by_slot: list[Node | None] = [None] * SLOTS
        self._tags = _tags()
        self._wanted: set[Address] = set()  # who was redirected to since the last refresh
        self._shares: list[Reply] = []  # who has what, as it was said last
        self._refreshing: asyncio.Task[None] | None = None
        self._turn = 0

    @classmethod
    async def open(cls, url: str, *, timeout_ms: int, greeting: Sequence[bytes]) -> Self:
        """Connect to all nodes that can be reached; where none can, it is tried again in the background.

        Args:
            url: redis+cluster:// or rediss+cluster://, naming any node of the cluster.
            timeout_ms: how long an answer may take.
            greeting: commands sent on each new connection before any other.

        Raises:
            SettingsInvalid: the URL is not one.
            StoreUnavailable: the node turns us away, is in no cluster, or knows of nobody who has any slots.
        """
        nodes = cls(url, timeout_ms=timeout_ms, greeting=greeting)
        try:
            await nodes._learn_from_seed()
            await asyncio.gather(*(node.link.settle(CONNECT_TIMEOUT_S) for node in nodes.every()))
        except StoreUnreachable as error:
            _log.warning("store_unreachable", reason=str(error))
        except BaseException:
            await nodes.close()
            raise
        nodes._refreshing = run_behind(repeat(nodes._refresh, pause_s=REFRESH_S))
        return nodes

    def every(self) -> Sequence[Node]:
        """See `Nodes`."""
        return list(self._nodes.values())

    def node_of(self, key: bytes) -> Node | None:
        """See `Nodes`."""
        return self._by_slot[slot_of(key)]

    def share(self, keys: Sequence[bytes]) -> Iterable[tuple[Node, Sequence[int]]]:
        """See `Nodes`."""
        shares: dict[Node, list[int]] = {}
        for place, key in enumerate(keys):
            node = self._by_slot[slot_of(key)]
            if node is not None:
                shares.setdefault(node, []).append(place)
        return shares.items()

    def redirected(self, link: Link, refusal: Refusal) -> tuple[Link, bool] | None:
        """See `Nodes`. MOVED is for good, ASK for this one command while a slot is on its way.

        https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
        """
        word, *rest = refusal.reason.split()
        if word not in {"MOVED", "ASK"} or len(rest) != 2:  # noqa: PLR2004 - slot and address
            return None
        slot, (host, _, port) = int(rest[0]), rest[1].rpartition(":")
        address = (host.strip("?") or self._host_of(link), int(port))
        if address not in self._nodes and len(self._nodes) >= MOST_NODES:
            return None
        self._wanted.add(address)
        node = self._nodes.get(address) or self._node_at(address, born_key(self._tags[slot]))
        if word == "MOVED":
            self._by_slot[slot] = node
        return node.link, word == "ASK"

    async def close(self) -> None:
        """See `Nodes`."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for node in self._nodes.values():
            await node.link.close()

    async def _refresh(self) -> None:
        """Ask who has what, each time the next node."""
        self._turn += 1
        up = [place for place, node in self._nodes.items() if node.link.state is LinkState.UP]
        if up:
            host, port = up[self._turn % len(up)]
            self._learn(host, await self._nodes[host, port].link.send(command("CLUSTER", "SLOTS"), 1))
        else:
            with suppress(StoreUnavailable):
                await self._learn_from_seed()
        await self._retire()

    async def _learn_from_seed(self) -> None:
        """Ask the node that the URL names, which may be another one by now.

        Raises:
            StoreUnavailable: it cannot be reached, is in no cluster, or knows of nobody who has any slots.
        """
        seed = Link(dialler(self._url), name=server_name(self._url), timeout_ms=self._timeout_ms)
        try:
            await seed.open()
            await inspect(seed, in_cluster=True)
            replies = await seed.send(command("CLUSTER", "SLOTS"), 1)
            known = self._learn(urlsplit(self._url).hostname or "localhost", replies)
        finally:
            await seed.close()
        if not known:
            raise StoreUnavailable(f"{seed.name} knows of no node that has any slots")

    def _learn(self, host: str, replies: list[Reply] | None) -> bool:
        """Take over what a node says about who has what.

        Args:
            host: of the node, which stands for itself where it does not know its own address.
            replies: to CLUSTER SLOTS: first slot, last slot, master (host, port, …), replicas.

        Returns:
            Whether it said anything.
        """
        if replies is None or not isinstance(replies[0], list) or not replies[0]:
            return False
        if replies[0] == self._shares:
            return True  # and whatever redirections taught us since is newer
        lowest: dict[Address, int] = {}
        owners: list[tuple[int, int, Address]] = []
        for share in replies[0]:
            match share:
                case [int(first), int(last), [bytes() | None as named, int(port), *_], *_]:
                    address = ((named or b"").decode().strip("?") or host, port)
                    owners.append((first, last, address))
                    lowest[address] = min(first, lowest.get(address, first))
                case _:
                    return False
        nodes = {address: self._node_at(address, born_key(self._tags[slot])) for address, slot in lowest.items()}
        self._by_slot = [None] * SLOTS
        for first, last, address in owners:
            self._by_slot[first : last + 1] = [nodes[address]] * (last + 1 - first)
        self._shares = replies[0]
        return True

    def _node_at(self, address: Address, marker: bytes) -> Node:
        """The node at an address, with the marker it should have; a new one begins to connect.

        A marker that is new while others are known came with slots from other nodes, and so did their histories: it
        inherits the earliest birth. One that was there before and is gone was lost, whoever has its slot now.
        """
        node = self._nodes.get(address)
        if node is not None and node.marker == marker:
            return node
        births = {known.marker: known.born_ms for known in self._nodes.values() if known.born_ms is not None}
        link = self._link_to(address) if node is None else node.link
        replacement = Node(link, marker, None if marker in births else min(births.values(), default=None))
        replacement.born_ms = births.get(marker)
        self._nodes[address] = replacement
        return replacement

    def _link_to(self, address: Address) -> Link:
        host, port = address
        name = f"{urlsplit(self._url).scheme}://{host}:{port}"
        link = Link(
            dialler(self._url, address=address),
            name=name,
            timeout_ms=self._timeout_ms,
            greeting=self._greeting,
            counts=self.counts,
        )
        link.heal()
        return link

    def _host_of(self, link: Link) -> str:
        return next(host for (host, _), node in self._nodes.items() if node.link is link)

    async def _retire(self) -> None:
        """Take leave of nodes that have no slots any more and that nobody was redirected to of late."""
        wanted, self._wanted = self._wanted, set()
        owners = {node.link for node in set(self._by_slot) if node is not None}
        for address, node in list(self._nodes.items()):
            if node.link not in owners and address not in wanted:
                del self._nodes[address]
                await node.link.close()


def _tags() -> list[bytes]:
    """For each slot a tag that belongs there: how to name a key of a node's own."""
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SLOTS:
        tag = b"%d" % number
        tags.setdefault(slot_of(tag), tag)
        number += 1
    return [tags[slot] for slot in range(SLOTS)]
