"""The server's patience: clients that are slow, silent or too talkative do not hold it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.check import listen
from service.protocol import MAX_HEAD_BYTES, GuardedProtocol
from service.server import Server

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
GIVEN_UP_SECONDS = 2  # ten times the patience of these tests: a machine may be busy


class Impatient(GuardedProtocol):
    """The same protocol with a patience that a test can wait for."""

    request_timeout_seconds = 0.2


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body it was sent."""
    try:
        body = await Request(scope, receive).body()
    except ClientDisconnect:
        return
    await PlainTextResponse(body)(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where `echo` is served, with a keep-alive of one second."""
    config = uvicorn.Config(echo, http=Impatient, lifespan="off", ws="none", log_config=None, timeout_keep_alive=1)
    server, listening = Server(config), listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def connection(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=0.02) as opened:
        opened.sendall(sent)
        yield opened


def ending(opened: socket.socket, drip: bytes = b"") -> tuple[bytes, float]:
    """What the server answers until it closes a connection, and how long it took; it gets a drip every 20 ms."""
    started, answer = time.monotonic(), b""
    while True:
        try:
            received = opened.recv(65536)
        except TimeoutError:
            with suppress(ConnectionError):
                opened.sendall(drip)
            continue
        except ConnectionError:
            received = b""
        if not received:
            return answer, time.monotonic() - started
        answer += received


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"P", b""),
        (b"POST / HTTP/1.1\r\nHos", b""),
        (b"POST / HTTP/1.1\r\nHos", b"s"),
        (HEAD, b""),
        (HEAD, b"X: y\r\n"),
        (HEAD + b"\r\n", b""),
        (HEAD + b"\r\n12", b""),
        (HEAD.replace(b"4", b"400") + b"\r\n", b"1"),
        (HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"\r\n", b"1\r\na\r\n"),
    ],
)
def test_a_request_that_does_not_arrive_is_given_up(port: int, sent: bytes, drip: bytes) -> None:
    """Whatever is missing, head or body, and however slowly it drips in, the connection is closed, unanswered."""
    with connection(port, sent) as opened:
        answer, seconds = ending(opened, drip)
    assert answer == b""
    assert seconds < GIVEN_UP_SECONDS


def test_a_connection_on_which_nothing_is_sent_is_closed_like_an_idle_one(port: int) -> None:
    """After the keep-alive time, not before: clients open connections in advance."""
    with connection(port) as opened:
        answer, seconds = ending(opened)
    assert answer == b""
    assert 0.9 < seconds < 1 + GIVEN_UP_SECONDS


def test_a_request_in_pieces_is_answered_if_it_is_quick_enough(port: int) -> None:
    """Pieces are no fault, and the connection is kept for the next request."""
    with connection(port) as opened:
        for request in range(2):
            for piece in (HEAD[:20], HEAD[20:], b"\r\n1", b"23", b"%d" % request):
                opened.sendall(piece)
            opened.settimeout(5)
            answer = opened.recv(65536)
            while not answer.endswith(b"123%d" % request):
                answer += opened.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("pieces", [1, 40])
def test_a_head_that_is_too_large_is_refused(port: int, pieces: int) -> None:
    """However it comes, it is not taken; one that just fits is."""
    filler = b"X: " + b"y" * (MAX_HEAD_BYTES // 40) + b"\r\n"
    large = b"GET / HTTP/1.1\r\nHost: x\r\n" + filler * 41 + b"\r\n"
    with connection(port) as opened:
        for at in range(0, len(large), -(-len(large) // pieces)):
            with suppress(ConnectionError):
                opened.sendall(large[at : at + -(-len(large) // pieces)])
        answer, _ = ending(opened)
    assert b" 200 " not in answer
    small = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + filler * 38 + b"\r\n"
    with connection(port, small) as opened:
        answer, _ = ending(opened)
    assert b" 200 " in answer
