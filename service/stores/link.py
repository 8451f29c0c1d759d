"""A link: one pipelined connection to one Redis server, which mends itself and never keeps anybody waiting."""

import asyncio
import re
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import redis
import structlog
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from service.background import run_behind
from service.errors import SettingsInvalid, StoreUnavailable, StoreUnreachable
from service.stores.wire import Opened, RawReplies, Refusal, Replies, Waiter, Wire, command

CONNECT_TIMEOUT_S = 1.0  # with the longest pause after it, a server that is back is found within 2 s
FIRST_PAUSE_S = 0.05  # between attempts to connect; doubles
LONGEST_PAUSE_S = 0.5
MOST_IN_FLIGHT = 8 << 20  # bytes; some 10,000 visits, which no server answers in time, so one more would wait in vain

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LinkState(Enum):
    """Whether a link takes commands."""

    UP = "up"
    DOWN = "down"  # and trying to connect
    CLOSED = "closed"


@dataclass(slots=True)
class LinkCounts:
    """How links fared; none of it ever falls.

    Attributes:
        timeouts: how often something was not answered in time.
        unsent: how often something was not even sent.
        reconnects: how often a lost connection was made again.
    """

    timeouts: int = 0
    unsent: int = 0
    reconnects: int = 0


class Link:
    """One connection to one server. What is sent in one turn of the event loop leaves in one write.

    Nothing sent is ever sent again. While the server cannot be reached, or too much is in flight, the answer is None
    at once; where it does not answer in time the answer is None then, and whether it did what it was told is unknown.

    Attributes:
        name: of the server, for people.
        counts: how it fared.
    """

    def __init__(
        self,
        dial: Callable[[], Opened],
        *,
        name: str,
        timeout_ms: int,
        greeting: Sequence[bytes] = (),
        counts: LinkCounts | None = None,
    ) -> None:
        """Describe a link; `open` or `heal` makes it.

        Args:
            dial: gives a connection that is yet to connect.
            name: of the server, for people.
            timeout_ms: how long an answer may take.
            greeting: commands sent on each new connection before anybody else's, such as SCRIPT LOAD.
            counts: shared with other links; by default its own.
        """
        self.name = name
        self.counts = LinkCounts() if counts is None else counts
        self._dial = dial
        self._timeout_s = timeout_ms / 1000
        self._greeting = greeting
        self._wire: Wire | None = None
        self._healing: asyncio.Task[None] | None = None
        self._was_up = False
        self._closed = False

    @property
    def state(self) -> LinkState:
        """Whether it takes commands now."""
        if self._closed:
            return LinkState.CLOSED
        return LinkState.DOWN if self._wire is None else LinkState.UP

    def send(self, commands: bytes, replies: int) -> Replies:
        """Send one or more commands in this turn's write.

        Args:
            commands: in the protocol's encoding, see `command`.
            replies: how many replies they will have.

        Returns:
            What awaits the replies in order, or None.
        """
        return self._send(commands, Waiter(replies, len(commands)))

    def send_raw(self, commands: bytes, replies: int, *, many: bool) -> RawReplies:
        """The same, for replies that may stay as the server wrote them.

        Whether they do is for the whole connection, and changes here only, when no reply is under way: where they are
        `many` to come they do, and else not. A few are read sooner by hiredis.
        """
        if self._wire is not None:
            self._wire.count_only(many)
        return self._send(commands, Waiter(replies, len(commands), takes_written=True))

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            StoreUnreachable: nobody answers there.
            StoreUnavailable: somebody does, and turns us away.
        """
        self._wire = await self._connect()
        self._was_up = True

    def heal(self) -> None:
        """Connect in the background, trying until it succeeds."""
        if self._wire is None and self._healing is None and not self._closed:
            self._healing = run_behind(self._heal())

    async def settle(self, timeout_s: float) -> None:
        """Wait until the link is up, but not for long."""
        if self._healing is not None:
            await asyncio.wait([self._healing], timeout=timeout_s)

    def drop(self, reason: str) -> None:
        """Give the connection up and make a new one."""
        if self._wire is not None:
            self._wire.drop(reason)

    async def close(self) -> None:
        """End the connection, answering None to all who wait."""
        self._closed = True
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.wait([self._healing])
        if self._wire is not None:
            await self._wire.close()
            self._wire = None

    def _send(self, commands: bytes, waiter: Waiter) -> "asyncio.Future[Any]":
        wire = self._wire
        if wire is None or wire.in_flight + len(commands) > MOST_IN_FLIGHT:
            self.counts.unsent += 1
            waiter.answer(None)
        else:
            wire.send(commands, waiter)
        return waiter.future

    async def _heal(self) -> None:
        pause_s = FIRST_PAUSE_S if self._was_up else 0.0
        try:
            while self._wire is None:
                await asyncio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                with suppress(StoreUnavailable):
                    self._wire = await self._connect()
        finally:
            self._healing = None
        if self._was_up:
            self.counts.reconnects += 1
            _log.info("store_link_restored", server=self.name)
        self._was_up = True

    async def _connect(self) -> Wire:
        opened = self._dial()
        try:
            await opened.connect()
            wire = Wire(opened, CONNECT_TIMEOUT_S, self._missed, self._lost)
        except BaseException as error:
            await opened.disconnect(nowait=True)
            if isinstance(error, Exception):
                kind = StoreUnreachable if _may_pass(error) else StoreUnavailable
                raise kind(f"{self.name}: {error}") from error
            raise
        try:
            for greeting in self._greeting:
                await self._greet(wire, greeting)
            wire.timeout_s = self._timeout_s
            await self._greet(wire, command("PING"))  # who cannot answer this in time is not back yet
        except BaseException as error:
            wire.drop(str(error))
            raise
        return wire

    async def _greet(self, wire: Wire, greeting: bytes) -> None:
        waiter = Waiter(1, len(greeting))
        wire.send(greeting, waiter)
        replies = await waiter.future
        if wire.ended:
            raise StoreUnreachable(f"{self.name}: the connection ended while it was made")
        if replies is None:
            raise StoreUnreachable(f"{self.name}: no answer within {wire.timeout_s * 1000:.0f} ms")
        if isinstance(replies[0], Refusal):
            raise StoreUnavailable(f"{self.name}: {replies[0].reason}")

    def _missed(self, wire: Wire, count: int) -> None:
        if wire is self._wire:  # else it is our own greeting that had no answer
            self.counts.timeouts += count

    def _lost(self, wire: Wire, reason: str) -> None:
        if wire is self._wire and not self._closed:
            self._wire = None
            _log.warning("store_link_lost", server=self.name, reason=reason)
            self.heal()


def _may_pass(error: Exception) -> bool:
    """Whether waiting can help against what kept us from connecting; a wrong password or certificate stays wrong."""
    if isinstance(error, AuthenticationError | AuthorizationError) or isinstance(error.__cause__, ssl.SSLError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)


def dialler(url: str, *, address: tuple[str, int] | None = None) -> Callable[[], Opened]:
    """What makes connections to the server that a URL names.

    Args:
        url: redis://, rediss:// or unix://, with redis-py's query parameters (such as ssl_ca_certs).
        address: host and port to go to instead, with the same credentials.

    Raises:
        SettingsInvalid: the URL is not one, or has a parameter that does not exist.
    """
    try:
        options = dict(parse_url(url))
        options.pop("max_connections", None)
        kind = options.pop("connection_class", Connection)
        assert isinstance(kind, type), kind
        if address is not None:
            options["host"], options["port"] = address
        options |= {
            "protocol": 2,
            "retry": None,  # with no errors to retry on, it means never
            "client_name": "touchstone",
            "driver_info": None,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": CONNECT_TIMEOUT_S,  # for the replies while logging in
            "maint_notifications_config": None,
        }
        dial: Callable[[], Opened] = partial(kind, **options)
        dial()
    except (TypeError, ValueError, RedisError) as error:
        # The error's text may hold a part of the password, where it was not percent-encoded.
        raise SettingsInvalid(f"{server_name(url)}: not a store URL that redis-py understands") from error
    return dial


def server_name(url: str) -> str:
    """A URL without user, password and parameters, even where these were not percent-encoded as they should be."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[?&#]', rest.rpartition('@')[2])[0]}"
