"""The wire: one connection to a Redis server, on which replies come in the order of the commands until it is lost."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, Union

import hiredis
import redis

from service.errors import StoreUnavailable
from service.stores.resp import reply_ends

MISSES = 3  # one late flush is a hiccup, three in a row are a server that hangs
GRACE_S = 0.001  # after a stall of our own the replies lie in the socket; they are read before anything is late


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply: the server did not do it, for a reason that begins with a word in capitals."""

    reason: str


Reply: TypeAlias = Union[bytes, int, Refusal, list["Reply"], None]  # noqa: UP007 - a recursive alias needs it in 3.11
Replies: TypeAlias = "asyncio.Future[list[Reply] | None]"
RawReplies: TypeAlias = "asyncio.Future[bytes | list[Reply] | None]"  # as the server wrote them, or the same


class Opened(Protocol):
    """What is used of redis-py's connections: they connect, with TLS and authentication; the rest is done here."""

    async def connect(self) -> None:
        """Connect and log in, or raise a RedisError."""

    async def disconnect(self, nowait: bool = False) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Close, wherever it stands."""

    def _close(self) -> None: ...


class Wire(asyncio.Protocol):
    """Sends what is given to it in one turn of the event loop in one write, and hands replies to those who wait.

    Attributes:
        in_flight: bytes of commands without an answer.
        timeout_s: how long an answer may take.
        ended: whether nothing can be sent any more.
    """

    def __init__(
        self,
        opened: Opened,
        timeout_s: float,
        on_missed: Callable[["Wire", int], None],
        on_lost: Callable[["Wire", str], None],
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
        self._unsent: list[Waiter] = []
        self._waiters: deque[Waiter] = deque()
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

    def send(self, commands: bytes, waiter: "Waiter") -> None:
        """Send commands in this turn's write, for one who waits for the replies; where it has ended there are none."""
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

    def _answered(self, waiter: "Waiter") -> None:
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

    def _expire(self, sent: list["Waiter"]) -> None:
        if any(waiter.left for waiter in sent):
            self._loop.call_later(GRACE_S, self._judge, sent)
        else:
            self._misses = 0

    def _judge(self, sent: list["Waiter"]) -> None:
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


class Waiter:
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


def _transport_of(opened: Opened) -> asyncio.Transport:
    """The transport under a connection of redis-py, which offers none. Checked, so that a change there is no riddle."""
    transport: asyncio.Transport | None = getattr(getattr(opened, "_writer", None), "transport", None)
    if transport is None or not callable(getattr(opened, "_close", None)):
        raise StoreUnavailable(f"redis-py {redis.__version__} hides its transport; install redis 8.1")
    return transport


def command(*parts: bytes | str | int) -> bytes:
    """A command as the protocol (RESP2) writes it."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub allows one part only
    return packed


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
