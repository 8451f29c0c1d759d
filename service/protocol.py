"""The HTTP/1.1 protocol of the server, which waits for no client for ever."""

import asyncio
from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 16 * 1024  # request line and headers
MOST_PIPELINED = 100  # requests that wait behind the one that is being answered


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol has no limit for the time or the size of headers, nor for the time of a body.

    A request that arrives in one piece, as almost all do, never starts a timer. A connection on which nothing was
    sent yet is closed after the keep-alive time, like one between two requests.
    """

    request_timeout_seconds = 5.0  # from the moment a request is found incomplete

    _received = 0  # bytes since the last complete request
    _in_head = True
    _under_way = False  # whether a request has begun and is not complete
    _behind = False  # whether a request was completed in this segment
    _deadline: asyncio.TimerHandle | None = None
    _before: Sequence[RequestResponseCycle] = ()  # requests that are not answered, but the last
    _rested_at = 0.0  # when there was last nothing more to answer, by the clock of the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Close it if nothing is ever sent."""
        super().connection_made(transport)
        self._rested_at = self.loop.time()
        self._close_when_idle(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Parse; a request that stays incomplete has a deadline."""
        self._received += len(data)
        self._behind = False
        super().data_received(data)
        if self._received > MAX_HEAD_BYTES and self._in_head:
            self.transport.close()
        elif self._under_way and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.request_timeout_seconds, self.transport.close)

    def on_message_begin(self) -> None:
        """A request's first byte is here."""
        super().on_message_begin()
        self._in_head = self._under_way = True

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large: an exception here makes uvicorn answer 400 and close."""
        if (self._behind or self._received > MAX_HEAD_BYTES) and self._head_bytes() > MAX_HEAD_BYTES:
            raise ValueError("the request's head is too large")
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests wait for their turn")
        self._in_head = False
        self.head_complete()

    def on_message_complete(self) -> None:
        """The request's last byte is here."""
        self.body_complete()
        self._received = 0
        self._under_way, self._behind = False, True
        self._disarm()

    def head_complete(self) -> None:
        """Begin with a request whose head may stay."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._before = [*(cycle for cycle in self._before if not cycle.response_complete), self.cycle]
        super().on_headers_complete()

    def body_complete(self) -> None:
        """Go on with a request that is here whole."""
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what waits. uvicorn starts a timer after each answer; one that runs looks again when it is due."""
        self._rested_at = self.loop.time()
        if self.timeout_keep_alive_task is None or self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close what was idle for the keep-alive time; it may be busy, or have been since the timer was started."""
        if self.transport.is_closing():
            return
        is_busy = self.cycle is not None and not self.cycle.response_complete
        idle_s = 0.0 if is_busy else self.loop.time() - self._rested_at
        if idle_s < self.timeout_keep_alive:
            self._close_when_idle(self.timeout_keep_alive - idle_s)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        self._disarm()
        for cycle in self._before:  # uvicorn tells only the last one
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _close_when_idle(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after_s, self.timeout_keep_alive_handler)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
