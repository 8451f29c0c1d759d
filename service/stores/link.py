"""A link: one pipelined connection to one Redis server, which mends itself and never keeps anybody waiting."""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeAlias, Union

import hiredis
import redis
import structlog
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from service.background import run_behind
from service.errors import SettingsInvalid, StoreUnavailable, StoreUnreachable
from service.stores.resp import reply_ends

CONNECT_TIMEOUT_S = 1.0  # with the longest pause after it, a server that is back is found within 2 s
FIRST_PAUSE_S = 0.05  # between attempts to connect; doubles
LONGEST_PAUSE_S = 0.5
MOST_IN_FLIGHT = 8 << 20  # bytes; some 10,000 visits, which no server answers in time, so one more would wait in vain
MISSES = 3  # one late flush is a hiccup, three in a row are a server that hangs
GRACE_S = 0.001  # after a stall of our own the replies lie in the socket; they are read before anything is late

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply: the server did not do it, for a reason that begins with a word in capitals."""

    reason: str


Reply: TypeAlias = Union[bytes, int, Refusal, list["Reply"], None]  # noqa: UP007 - a recursive alias needs it in 3.11
Replies: TypeAlias = "asyncio.Future[list[Reply] | None]"
RawReplies: TypeAlias = "asyncio.Future[bytes | list[Reply] | None]"  # as the server wrote them, or the same


class LinkState(Enum):
    """Whether a link takes commands."""

    UP = "up"
    DOWN = "down"  # and trying to connect
    CLOSED = "closed"


class Opened(Protocol):
    """What is used of redis-py's connections: they connect, with TLS and authentication; the rest is done here."""

    async def connect(self) -> None:
        """Connect and log in, or raise a RedisError."""

    async def disconnect(self, nowait: bool = False) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Close, wherever it stands."""

    def _close(self) -> None: ...


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
        self._wire: _Wire | None = None
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
        return self._send(commands, _Waiter(replies, len(commands)))

    def send_raw(self, commands: bytes, replies: int, *, many: bool) -> RawReplies:
        """The same, for replies that may stay as the server wrote them.

        Whether they do is for the whole connection, and changes here only, when no reply is under way: where they are
        `many` to come they do, and else not. A few are read sooner by hiredis.
        """
        if self._wire is not None:
            self._wire.count_only(many)
        return self._send(commands, _Waiter(replies, len(commands), takes_written=True))

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

    def _send(self, commands: bytes, waiter: "_Waiter") -> "asyncio.Future[Any]":
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

    async def _connect(self) -> "_Wire":
        opened = self._dial()
        try:
            await opened.connect()
            wire = _Wire(opened, CONNECT_TIMEOUT_S, self._missed, self._lost)
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

    async def _greet(self, wire: "_Wire", greeting: bytes) -> None:
        waiter = _Waiter(1, len(greeting))
        wire.send(greeting, waiter)
        replies = await waiter.future
        if wire.ended:
            raise StoreUnreachable(f"{self.name}: the connection ended while it was made")
        if replies is None:
            raise StoreUnreachable(f"{self.name}: no answer within {wire.timeout_s * 1000:.0f} ms")
        if isinstance(replies[0], Refusal):
            raise StoreUnavailable(f"{self.name}: {replies[0].reason}")

    def _missed(self, wire: "_Wire", count: int) -> None:
        if wire is self._wire:  # else it is our own greeting that had no answer
            self.counts.timeouts += count

    def _lost(self, wire: "_Wire", reason: str) -> None:
        if wire is self._wire and not self._closed:
            self._wire = None
            _log.warning("store_link_lost", server=self.name, reason=reason)
            self.heal()


class _Waiter:
    """Somebody who waits for some replies, or did: the place in the row stays theirs.

    Attributes:
        future: awaits them: parsed, or as they were written.
        left: how many are still to come.
        size: bytes of what was asked.
        received: replies, or bytes of them, never both.
    """

    __slots__ = ("_takes_written", "future", "left", "received", "size")

    def __init__(self, replies: int, size: int, *, takes_written: bool = False) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.left = replies
        self.size = size
        self.received: list[Any] = []
        self._takes_written = takes_written

    def take_written(self, replies: bytes, count: int) -> None:
        """Some of them came, or all."""
        self.received.append(replies)
        self.left -= count
        if not self.left:
            written = b"".join(self.received)
            self.answer(written if self._takes_written else parse_replies(written))

    def answer(self, replies: list[Reply] | bytes | None) -> None:
        """That is all; None: and there will be no answer."""
        if not self.future.done():  # it is where its owner was cancelled, or the time was up
            self.future.set_result(replies)


class _Wire(asyncio.Protocol):
    """Commands out and replies in over one connection, until it is lost. Replies come in the order of the commands.

    Attributes:
        in_flight: bytes of commands without an answer.
        timeout_s: how long an answer may take.
        ended: whether nothing can be sent any more.
    """

    def __init__(
        self,
        opened: Opened,
        timeout_s: float,
        on_missed: Callable[["_Wire", int], None],
        on_lost: Callable[["_Wire", str], None],
    ) -> None:
        """Take over the transport of a connection that redis-py has made.

        Raises:
            StoreUnavailable: this redis-py keeps its transport elsewhere.
        """
        self.in_flight = 0
        self._opened = opened  # holds the stream, which would close its transport when collected
        self._transport = _transport_of(opened)
        self._loop = asyncio.get_running_loop()
        self.timeout_s = timeout_s
        self._on_missed, self._on_lost = on_missed, on_lost
        self._outgoing: list[bytes] = []
        self._unsent: list[_Waiter] = []
        self._waiters: deque[_Waiter] = deque()
        self._reader = _reader()
        self._counts_only = False
        self._held = b""  # of replies that are only counted, what is not there whole
        self._misses = 0
        self.ended = False
        self._gone = asyncio.Event()  # the transport has closed
        self._transport.set_protocol(self)

    def count_only(self, counts: bool) -> None:  # noqa: FBT001 - one of two ways
        """Whether replies are only counted from now on, or read; ignored while some are under way."""
        if len(self._unsent) == len(self._waiters):
            self._counts_only = counts

    def send(self, commands: bytes, waiter: "_Waiter") -> None:
        """See `Link.send`."""
        if self.ended:
            waiter.answer(None)
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self.in_flight += waiter.size
        self._outgoing.append(commands)
        self._unsent.append(waiter)
        self._waiters.append(waiter)

    def data_received(self, data: bytes) -> None:
        """Hand replies to those who wait for them."""
        try:
            if self._counts_only:
                self._count(data)
            else:
                self._read(data)
        except (ValueError, IndexError, hiredis.ProtocolError) as error:
            self.drop(f"the server does not speak our protocol: {error}")

    def _read(self, data: bytes) -> None:
        self._reader.feed(data)
        next_reply, waiters = self._reader.gets, self._waiters
        while (reply := next_reply()) is not False:  # which stands for an incomplete one
            waiter = waiters[0]
            waiter.received.append(reply)
            waiter.left -= 1
            if not waiter.left:
                self._answered(waiter)
                waiter.answer(waiter.received)

    def _count(self, data: bytes) -> None:
        """Only find out where replies end; whoever waits reads them, or has them read."""
        received = self._held + data
        ends = reply_ends(received, sum(waiter.left for waiter in self._waiters))
        first = start = 0
        while first < len(ends):
            waiter = self._waiters[0]
            last = min(first + waiter.left, len(ends))
            end = ends[last - 1]
            waiter.take_written(received[start:end], last - first)
            if not waiter.left:
                self._answered(waiter)
            first, start = last, end
        self._held = received[start:]
        if self._held and not self._waiters:
            raise ValueError("more replies than commands")

    def _answered(self, waiter: _Waiter) -> None:
        self._waiters.popleft()
        self.in_flight -= waiter.size

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self._gone.set()
        self._end(str(exc or "closed by the server"))

    def drop(self, reason: str) -> None:
        """Give the connection up at once."""
        self._transport.abort()
        self._end(reason)

    async def close(self) -> None:
        """End the connection in an orderly way, or at once where the server takes no part in that."""
        self._flush()
        self._end("closed")
        try:
            await asyncio.wait_for(self._gone.wait(), self.timeout_s)
        except TimeoutError:
            self._transport.abort()
            await self._gone.wait()

    def _flush(self) -> None:
        if not self._outgoing:
            return
        self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
        sent, self._unsent = self._unsent, []
        self._loop.call_later(self.timeout_s, self._expire, sent)

    def _expire(self, sent: list[_Waiter]) -> None:
        if any(waiter.left for waiter in sent):
            self._loop.call_later(GRACE_S, self._judge, sent)
        else:
            self._misses = 0

    def _judge(self, sent: list[_Waiter]) -> None:
        late = [waiter for waiter in sent if waiter.left]
        if not late or self.ended:
            self._misses = 0
            return
        self._on_missed(self, len(late))
        for waiter in late:
            waiter.answer(None)
        self._misses += 1
        if self._misses == MISSES:
            self.drop(f"{MISSES} times in a row no answer within {self.timeout_s * 1000:.0f} ms")

    def _end(self, reason: str) -> None:
        if self.ended:
            return
        self.ended = True
        for waiter in self._waiters:
            waiter.answer(None)
        for forgotten in (self._outgoing, self._unsent, self._waiters):
            forgotten.clear()
        self._opened._close()  # noqa: SLF001 - else redis-py warns that nobody closed it
        self._on_lost(self, reason)


def _may_pass(error: Exception) -> bool:
    """Whether waiting can help against what kept us from connecting; a wrong password or certificate stays wrong."""
    if isinstance(error, AuthenticationError | AuthorizationError) or isinstance(error.__cause__, ssl.SSLError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)


def _transport_of(opened: Opened) -> asyncio.Transport:
    """The transport under a connection of redis-py, which offers none. Checked, so that a change there is no riddle."""
    transport: asyncio.Transport | None = getattr(getattr(opened, "_writer", None), "transport", None)
    if transport is None or not callable(getattr(opened, "_close", None)):
        raise StoreUnavailable(f"redis-py {redis.__version__} hides its transport; install redis 8.1")
    return transport


def parse_replies(replies: bytes) -> list[Reply]:
    """Whole replies as a server wrote them, read by hiredis.

    Raises:
        ValueError: these bytes are no replies.
    """
    reader = _reader()
    reader.feed(replies)
    parsed: list[Reply] = []
    try:
        while (reply := reader.gets()) is not False:  # which stands for an incomplete one
            parsed.append(reply)
    except hiredis.ProtocolError as error:
        raise ValueError(str(error)) from error
    return parsed


def _reader() -> hiredis.Reader:
    """Of replies, an error among them as a `Refusal`."""
    return hiredis.Reader(replyError=Refusal)  # type: ignore[arg-type]  # any callable does


def command(*parts: bytes | str | int) -> bytes:
    """A command as the protocol (RESP2) writes it."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub allows one part only
    return packed


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
