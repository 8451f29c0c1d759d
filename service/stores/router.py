"""The router: brings commands to whoever has their key, follows redirections, and never does anything twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from service.errors import StoreUnavailable
from service.stores.link import Link
from service.stores.nodes import Node, Nodes
from service.stores.wire import RawReplies, Refusal, Reply, command, parse_replies

DETOURS = 2  # a command may be told to go elsewhere, and to load its script there
SILENCE = Refusal("NOANSWER the server did not answer in time")  # or nobody has the key

_ASKING = command("ASKING")


class Trip(NamedTuple):
    """Commands on their way: to whom, about which places of what was asked, and what awaits the replies."""

    node: Node
    places: Sequence[int]
    replies: Awaitable[list[Reply] | None]


class RawTrip(NamedTuple):
    """The same, where the replies may be read elsewhere."""

    node: Node
    places: Sequence[int]
    replies: RawReplies

    def parsed(self) -> "Trip":
        """With replies that are read here after all."""
        return Trip(self.node, self.places, _parsed(self.replies))


class Router:
    """Commands go in, replies come out in the same order; where there is none there is a refusal.

    Attributes:
        nodes: who has what.
        refusals: how often servers refused something, by the first word of the reason; whoever reads it may clear it.
    """

    def __init__(self, nodes: Nodes, scripts: Sequence[bytes]) -> None:
        """`scripts` are the commands that load the scripts a server may have forgotten."""
        self.nodes = nodes
        self.refusals: Counter[str] = Counter()
        self._scripts = scripts

    async def ask(self, key: bytes, asked: bytes) -> Reply:
        """The reply to one command about one key."""
        node = self.nodes.node_of(key)
        return SILENCE if node is None else await self._settle(node.link, await _reply(node.link, asked), asked)

    async def demand(self, key: bytes, asked: bytes) -> Reply:
        """The reply to one command about one key.

        Raises:
            StoreUnavailable: there is none.
        """
        return demanded(await self.ask(key, asked))

    async def ask_all(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> list[Reply]:
        """The replies to commands with one key each, all sent in this turn of the loop."""
        return await self.receive(self.send(keys, commands, 1), 1, len(commands), commands.__getitem__)

    def send(self, keys: Sequence[bytes], commands: Sequence[bytes], each: int) -> list[Trip]:
        """Send commands that have `each` replies; those of one node, and of others who send now, leave in one write."""
        return [
            Trip(node, places, node.link.send(b"".join([commands[place] for place in places]), each * len(places)))
            for node, places in self.nodes.share(keys)
        ]

    def send_raw(
        self, keys: Sequence[bytes], commands_of: Callable[[Sequence[int]], bytes], each: int, *, many: bool
    ) -> list[RawTrip]:
        """The same with commands that are written for some places at once, and replies that may be read elsewhere."""
        return [
            RawTrip(node, places, node.link.send_raw(commands_of(places), each * len(places), many=many))
            for node, places in self.nodes.share(keys)
        ]

    async def receive(
        self, trips: Iterable[Trip], each: int, expected: int, command_of: Callable[[int], bytes]
    ) -> list[Reply]:
        """What comes of trips.

        Args:
            trips: what was sent.
            each: replies per place of a trip.
            expected: replies in all.
            command_of: the command behind a reply, to be sent once more where a server says that it belongs elsewhere.
        """
        received: list[Reply] = [SILENCE] * expected
        refused: list[tuple[int, Link]] = []
        for node, places, awaited in trips:
            replies = await awaited
            if replies is None:
                continue
            if len(replies) == expected:
                received = replies
            else:
                for index, place in enumerate(places):
                    received[each * place : each * (place + 1)] = replies[each * index : each * (index + 1)]
            if Refusal in map(type, replies):
                at = (each * place + offset for place in places for offset in range(each))
                refused += [(index, node.link) for index in at if isinstance(received[index], Refusal)]
        if refused:
            # All of them leave in one turn of the loop, so that those to one log stay in order.
            settled = [self._settle(link, received[index], command_of(index)) for index, link in refused]
            for (index, _), reply in zip(refused, await asyncio.gather(*settled), strict=True):
                received[index] = reply
        return received

    async def _settle(self, link: Link, reply: Reply, asked: bytes) -> Reply:
        """What comes of a command in the end, after at most two detours; refused as it was, it was never executed."""
        for _ in range(DETOURS):
            if not isinstance(reply, Refusal):
                return reply
            if reply.reason.startswith("NOSCRIPT"):
                reply = await _reply(link, *self._scripts, asked)
            elif (target := self.nodes.redirected(link, reply)) is not None:
                link, must_ask = target
                reply = await _reply(link, *([_ASKING] if must_ask else []), asked)
            else:
                break
        if isinstance(reply, Refusal) and reply is not SILENCE:
            self.refusals[reply.reason.partition(" ")[0]] += 1
            if reply.reason.startswith("READONLY"):
                link.drop(reply.reason)  # it is a replica by now; whoever has its name is the server
        return reply


def demanded(reply: Reply) -> Reply:
    """A reply that is none of no answer.

    Raises:
        StoreUnavailable: it is.
    """
    if reply is SILENCE:
        raise StoreUnavailable("the store did not answer in time")
    if isinstance(reply, Refusal):
        raise StoreUnavailable(f"the store refused: {reply.reason}")
    return reply


async def _reply(link: Link, *commands: bytes) -> Reply:
    """The last reply to some commands."""
    replies = await link.send(b"".join(commands), len(commands))
    return SILENCE if replies is None else replies[-1]


async def _parsed(replies: RawReplies) -> list[Reply] | None:
    """Replies of hiredis' making; none where it cannot read them."""
    given = await replies
    try:
        return parse_replies(given) if isinstance(given, bytes) else given
    except ValueError:
        return None
