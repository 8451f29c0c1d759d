"""The open loop: requests come when they come, at a rate of their own, whether or not the server keeps up.

A client that waits for its answer before it asks again cannot see the queue that its waiting prevents ("coordinated
omission"). So here each request is due at a moment drawn beforehand (a Poisson process), and its latency
counts from then.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import OK, RequestRefused
from benchmarks.serving import Address

CONNECTIONS = 64
LEAD_S = 0.05  # until the first is due
PATIENCE_S = 10.0  # for the last answer
LAG_MS = 2.0  # of the generator itself, that a run may show at p99.9; it counts as latency
_RECEIVE_BYTES = 1 << 16
_TIMER_S = 0.0001  # what the kernel adds to a wait, about; the last of it is spent asking


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """What one run found, in milliseconds.

    Attributes:
        requests: that were due.
        unanswered: of these, until `PATIENCE_S` after the last; all others were answered with 200.
        median_ms, p99_ms, p999_ms, max_ms: from the moment a request was due to the last byte of its answer, or to the
            end where there was none.
        lag_ms: by how much the generator was late itself, p99.9.
    """

    requests: int
    unanswered: int
    median_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    lag_ms: float

    @property
    def rejected(self) -> str | None:
        """Why this run says nothing about the server; None where it does."""
        if self.lag_ms <= LAG_MS:
            return None
        return f"rejected: the generator itself was {self.lag_ms:.1f} ms late (p99.9), more than {LAG_MS:g} ms"


def open_loop(
    address: Address,
    requests: Sequence[bytes],
    *,
    rate: float,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> OpenLoop:
    """Send each request when it is due.

    Args:
        address: where the server listens.
        requests: complete HTTP/1.1 requests.
        rate: how many come in a second, on average.
        seed: of the moments.
        clock: seconds that never run backwards.

    Raises:
        RequestRefused: a request was answered, but not with 200.
    """
    lines = [_Line(address) for _ in range(min(CONNECTIONS, len(requests)))]
    try:
        pauses_s = np.random.default_rng(seed).exponential(1 / rate, len(requests))
        return _Run(lines, requests, pauses_s.cumsum().tolist(), clock).play()
    finally:
        for line in lines:
            line.close()


class _Line:
    """One connection, with at most one request under way."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection((address.host, address.port), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self.due_s = 0.0

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, request: bytes, due_s: float) -> None:
        """Begin a request."""
        self.due_s = due_s
        self._received = b""
        self._socket.sendall(request)

    def receive(self) -> bool:
        """Take what has come. Returns whether the answer is complete.

        Raises:
            RequestRefused: it is not 200, or the server closed the connection.
        """
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise RequestRefused("the server closed a connection instead of an answer")
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._received[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return False
        if int(head[9:12]) != OK:
            raise RequestRefused(f"{head[9:12].decode()}: {self._received[end + 4 :].decode()}")
        return True

    def close(self) -> None:
        self._socket.close()


class _Run:
    """One run: what is due, what waits for a connection and what is under way."""

    def __init__(
        self, lines: Sequence[_Line], requests: Sequence[bytes], dues_s: Sequence[float], clock: Callable[[], float]
    ) -> None:
        self._free = list(lines)
        self._busy: set[_Line] = set()
        self._requests = requests
        self._dues_s = dues_s
        self._clock = clock
        self._waiting: deque[int] = deque()
        self._next = 0
        self._latencies_s: list[float] = []
        self._lags_s: list[float] = []

    def play(self) -> OpenLoop:
        begin_s = self._clock() + LEAD_S
        now_s = -LEAD_S
        while len(self._latencies_s) < len(self._requests) and now_s < self._dues_s[-1] + PATIENCE_S:
            self._notice(now_s)
            self._send()
            self._receive(self._pause_s(self._clock() - begin_s), begin_s)
            now_s = self._clock() - begin_s
        waited_s = [now_s - self._dues_s[number] for number in self._waiting]
        waited_s += [now_s - line.due_s for line in self._busy]
        median, slow, slowest, most = np.percentile([*self._latencies_s, *waited_s], (50, 99, 99.9, 100)) * 1e3
        return OpenLoop(
            requests=len(self._requests),
            unanswered=len(waited_s),
            median_ms=float(median),
            p99_ms=float(slow),
            p999_ms=float(slowest),
            max_ms=float(most),
            lag_ms=float(np.percentile(self._lags_s, 99.9)) * 1e3,
        )

    def _notice(self, now_s: float) -> None:
        """What is due by now waits for a connection; that it was not noticed before is the generator's own fault."""
        while self._next < len(self._dues_s) and self._dues_s[self._next] <= now_s:
            self._lags_s.append(now_s - self._dues_s[self._next])
            self._waiting.append(self._next)
            self._next += 1

    def _send(self) -> None:
        while self._waiting and self._free:
            number = self._waiting.popleft()
            line = self._free.pop()
            line.send(self._requests[number], self._dues_s[number])
            self._busy.add(line)

    def _pause_s(self, now_s: float) -> float:
        """How long nothing has to be sent."""
        if self._next == len(self._dues_s):
            return PATIENCE_S
        return max(0.0, self._dues_s[self._next] - now_s - _TIMER_S)

    def _receive(self, pause_s: float, begin_s: float) -> None:
        """Take the answers that come within a pause; the first one ends it."""
        ready, _, _ = select.select(self._busy, [], [], pause_s)
        for line in ready:
            if line.receive():
                self._latencies_s.append(self._clock() - begin_s - line.due_s)
                self._busy.remove(line)
                self._free.append(line)
