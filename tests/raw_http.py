"""HTTP/1.1 as bytes on a socket, for tests of what no client library would send, or would hide."""

import json
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

BETWEEN_PIECES_SECONDS = 0.001  # so that they arrive one by one
PATIENCE_SECONDS = 20.0
PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_DATE = re.compile(rb"\r\ndate: [^\r]*")


def transaction(transaction_id: str, **changes: object) -> bytes:
    """The body of a request to score a payment of its own card."""
    return json.dumps({
        "transaction_id": transaction_id,
        "timestamp": "2026-11-21T09:29:00Z",
        "card_id": f"card-of-{transaction_id}",
        "merchant_id": "m",
        "amount": 13_000,
        "currency": "EUR",
        **changes,
    }).encode()  # fmt: skip


def post(
    body: bytes,
    changes: Mapping[bytes, bytes | None] | None = None,
    *extra: bytes,
    line: bytes = b"POST /score HTTP/1.1",
) -> bytes:
    """A whole request.

    Args:
        body: as it is sent.
        changes: headers by name, instead of those that belong there; None: leave it out.
        extra: whole header lines.
        line: the request line.
    """
    headers: dict[bytes, bytes | None] = {
        b"Host": b"x",
        b"Content-Type": b"application/json",
        b"Content-Length": b"%d" % len(body),
        **(changes or {}),
    }
    lines = [line, *(b"%b: %b" % (name, value) for name, value in headers.items() if value is not None), *extra]
    return b"\r\n".join([*lines, b"", body])


@contextmanager
def connected(port: int, *, room_bytes: int | None = None) -> Iterator[socket.socket]:
    """A connection that sends each piece at once.

    Args:
        port: of this machine.
        room_bytes: how much the kernel may keep of what is not read yet; None: as much as it likes.
    """
    with socket.socket() as opened:
        opened.settimeout(PATIENCE_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if room_bytes is not None:  # before there is a window to shrink
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
        opened.connect(("127.0.0.1", port))
        yield opened


def read_answers(opened: socket.socket, number: int) -> bytes:
    """What comes until so many answers are complete, or the connection is closed."""
    received = b""
    while _complete(received) < number:
        try:
            piece = opened.recv(65536)
        except ConnectionError:
            piece = b""
        if not piece:
            break
        received += piece
    return received


def converse(port: int, pieces: Sequence[bytes], answers: int) -> bytes:
    """All that is answered in a connection: to the pieces, and then to a probe that ends it if it is still open.

    Dates are blotted out.
    """
    with connected(port) as opened:
        for piece in pieces:
            with suppress(ConnectionError):
                opened.sendall(piece)
            time.sleep(BETWEEN_PIECES_SECONDS if len(pieces) > 1 else 0)
        received = read_answers(opened, answers)
        with suppress(ConnectionError):
            opened.sendall(PROBE)
        received += read_answers(opened, answers + 1_000)
    return _DATE.sub(b"\r\ndate: -", received)


def reset(opened: socket.socket) -> None:
    """Leave without a farewell."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def statuses(received: bytes) -> list[int]:
    """Of the answers, in order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]


def bodies(received: bytes) -> list[bytes]:
    """Of the answers, in order."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        size = _size(head)
        found.append(rest[:size])
        received = rest[size:]
    return found


def _complete(received: bytes) -> int:
    """How many answers are there whole."""
    number = 0
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        if len(rest) < _size(head):
            break
        number, received = number + 1, rest[_size(head) :]
    return number


def _size(head: bytes) -> int:
    """How long the body is after this head."""
    announced = _LENGTH.search(head + b"\r\n")
    return int(announced.group(1)) if announced else 0
