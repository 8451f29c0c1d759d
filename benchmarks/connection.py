"""One keep-alive connection to a service, thin enough not to be what is measured: about 15 µs a request."""

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import orjson

from benchmarks.serving import Address

TIMEOUT_SECONDS = 10.0
_RECEIVE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    body: bytes

    def json(self) -> object:
        """The body, parsed."""
        return orjson.loads(self.body)


class Connection:
    """Sends a request when it is told to and waits for its reply."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection((address.host, address.port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """It can be used no more."""
        self._socket.close()

    def get(self, path: str) -> Reply:
        """GET a path."""
        return self.exchange(f"GET {path} HTTP/1.1\r\nHost: touchstone\r\n\r\n".encode())

    def post(self, path: str, body: bytes) -> Reply:
        """POST JSON to a path."""
        return self.exchange(post_request(path, body))

    def exchange(self, request: bytes) -> Reply:
        """Send a whole request, and read a reply that states its length, as all of ours do.

        Raises:
            ConnectionError: the service closed the connection.
        """
        self._socket.sendall(request)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        head = received[:end].lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        body = received[end + 4 :]
        while len(body) < length:
            body += self._receive()
        return Reply(int(head[9:12]), body)

    def _receive(self) -> bytes:
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the service closed the connection")
        return data


def post_request(path: str, body: bytes, *, key: str | None = None) -> bytes:
    """The bytes of a POST of JSON, with an API key or without."""
    head = f"POST {path} HTTP/1.1\r\nHost: touchstone\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    if key is not None:
        head += f"\r\nAuthorization: Bearer {key}"
    return head.encode() + b"\r\n\r\n" + body
