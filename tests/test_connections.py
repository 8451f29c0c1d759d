"""Connections of /score with the lane and without: clients that leave, do not read or come at bad moments."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.batching import Batcher
from service.protocol import GuardedProtocol
from service.settings import Settings
from tests import test_protocol as patience
from tests.conftest import ARRIVAL_MS
from tests.raw_http import bodies, connected, post, read_answers, reset, statuses, transaction
from tests.serving import Service, serving
from tests.stores.servers import Server, free_port, redis_binary, running, wait_until

NewId = Callable[[str], str]
MOST_PIPELINED = 100  # requests of one connection that may wait behind the one that is answered
LITTLE_ROOM = 4096  # bytes that the kernel keeps of what was not read, or twice as many
GIVEN_UP_SECONDS = 2.0  # ten times the patience of these tests: a machine may be busy


def score(new_id: NewId) -> bytes:
    return post(transaction(new_id("tx")))


def protocol_of(service: Service, opened: socket.socket) -> GuardedProtocol:
    """The server's end of a connection."""
    address = opened.getsockname()
    [protocol] = [protocol for protocol in protocols(service) if protocol.client == address]
    return protocol


def protocols(service: Service) -> list[GuardedProtocol]:
    """The server's ends of all connections."""
    connections = list(service.server.server_state.connections)
    return [protocol for protocol in connections if isinstance(protocol, GuardedProtocol)]


def test_a_result_that_cannot_be_delivered_keeps_nobody_elses_away() -> None:
    """What goes wrong with one who waits is no affair of the others in the batch."""

    def fail(_result: int | Exception) -> None:
        raise RuntimeError("nobody is there")

    async def act() -> None:
        async def double(numbers: Sequence[int]) -> list[int]:
            return [2 * number for number in numbers]

        results: list[int | Exception] = []
        batcher: Batcher[int, int] = Batcher(double, overflow=abs, most_waiting=10)
        batcher.enqueue(1, results.append)
        batcher.enqueue(2, fail)
        batcher.enqueue(3, results.append)
        await batcher.close()
        assert results == [2, 6]

    asyncio.run(act())


def test_an_idle_batcher_has_room_besides_what_it_begins_with() -> None:
    """What comes in one turn is not too much as long as it fits into the batches that may begin, and the room."""

    async def act() -> None:
        async def double(numbers: Sequence[int]) -> list[int]:
            return [2 * number for number in numbers]

        batcher: Batcher[int, int] = Batcher(
            double, overflow=lambda number: -number, most_waiting=2, most_items=3, most_batches=2
        )
        answers = await asyncio.gather(*[batcher.submit(number) for number in range(1, 10)])
        assert answers == [2, 4, 6, 8, 10, 12, 14, 16, -9]

    asyncio.run(act())


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_leaves_while_it_is_scored_harms_nobody(
    service: Service, new_id: NewId, log_stream: StringIO, leave: Callable[[socket.socket], None], requests: int
) -> None:
    """Its request is decided, those beside it are answered, and nobody is woken."""
    names = [new_id("tx") for _ in range(requests)]
    with service.held() as held, connected(service.port) as stays, connected(service.port) as leaves:
        leaves.sendall(b"".join(post(transaction(name)) for name in names))
        wait_until(lambda: held.taken == 1)
        leave(leaves)
        stays.sendall(score(new_id))
        wait_until(lambda: held.taken == 2)
        held.let_go()
        assert statuses(read_answers(stays, 1)) == [200]
    assert service.client.get(f"/decisions/{names[0]}").status_code == 200
    assert log_stream.getvalue() == ""


def test_a_client_that_reads_nothing_and_leaves_harms_nobody(
    service: Service, new_id: NewId, log_stream: StringIO
) -> None:
    """A connection that breaks while an answer to it is stuck, another is made and one more waits: the rest go on."""
    with (
        connected(service.port) as stays,
        connected(service.port, room_bytes=LITTLE_ROOM) as leaves,
        ExitStack() as busy,
    ):
        others = [busy.enter_context(connected(service.port)) for _ in range(2)]
        fill(service, leaves, new_id, least=1)
        with service.held() as held:
            for number, other in enumerate(others):  # so that the rest leaves in one batch
                other.sendall(score(new_id))
                wait_until(lambda number=number: held.taken == number + 1)  # type: ignore[misc] # a default binds it
            leaves.sendall(score(new_id) + score(new_id))
            wait_until(lambda: len(protocol_of(service, leaves).pipeline) == 1)
            stays.sendall(score(new_id))
            gone = protocol_of(service, leaves).transport
            time.sleep(0.1)  # until it is in the queue, which nothing shows
            reset(leaves)
            wait_until(gone.is_closing)
            time.sleep(0.1)
            held.let_go()
            assert statuses(read_answers(stays, 1)) == [200]
    assert log_stream.getvalue() == ""


def fill(service: Service, opened: socket.socket, new_id: NewId, *, least: int) -> None:
    """Ask, one by one, and do not read until so many bytes of answers are stuck in the server."""
    opened.sendall(score(new_id))
    wait_until(lambda: opened.recv(1, socket.MSG_PEEK) != b"")
    protocol = protocol_of(service, opened)
    protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LITTLE_ROOM)
    while protocol.transport.get_write_buffer_size() < least:
        before = service.server.server_state.total_requests
        opened.sendall(score(new_id))
        wait_until(lambda before=before: service.server.server_state.total_requests > before)  # type: ignore[misc] # a default binds it


def test_answers_that_nobody_reads_are_not_heaped_up(service: Service, new_id: NewId) -> None:
    """Beyond the high-water mark nothing more is answered until the client reads; then everything is, in order."""
    names = [new_id("tx") for _ in range(50)]
    with connected(service.port, room_bytes=LITTLE_ROOM) as opened, connected(service.port) as other:
        fill(service, opened, new_id, least=HIGH_WATER_LIMIT + 1)
        protocol = protocol_of(service, opened)
        stuck = protocol.transport.get_write_buffer_size()
        for name in names:
            opened.sendall(post(transaction(name)))
        other.sendall(score(new_id))
        assert statuses(read_answers(other, 1)) == [200]
        assert protocol.transport.get_write_buffer_size() == stuck
        received = b""
        while names[-1].encode() not in received:
            received += opened.recv(65536)
    found = re.findall(rb'"transaction_id":"([^"]*)"', received)
    assert found[-len(names) :] == [name.encode() for name in names]


@pytest.mark.parametrize("reads", [True, False])
def test_requests_heaped_upon_requests_do_not_fill_the_memory(service: Service, new_id: NewId, *, reads: bool) -> None:
    """However many a client sends before it is answered, few of them are taken in, and others are answered."""
    heap = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000
    most, sent = 0, 0
    with connected(service.port) as opened, connected(service.port) as other:
        opened.setblocking(False)
        while sent < 3_000_000:
            try:
                sent += opened.send(heap[sent % 37 :])
            except BlockingIOError:
                sent += len(heap)  # so that it ends
            except ConnectionError:
                break
            if reads:
                with suppress(BlockingIOError, ConnectionError):
                    opened.recv(1 << 20)
            other.sendall(score(new_id))
            assert statuses(read_answers(other, 1)) == [200]
            most = max(most, *(len(protocol.pipeline) for protocol in protocols(service)))
    assert most <= MOST_PIPELINED


def impatient(config: uvicorn.Config) -> None:
    """Give up requests after 0.2 s and idle connections after one."""
    assert isinstance(config.http, type)
    config.http = type("Impatient", (config.http,), {"request_timeout_seconds": 0.2})
    config.timeout_keep_alive = 1


@pytest.fixture(scope="module", params=["auto", "off"], ids=["lane", "asgi"])
def hasty(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    settings = Settings(model_dir=small_bundle, state_dir=tmp_path_factory.mktemp("hasty"), fast_lane=request.param)
    with serving(settings, lambda: ARRIVAL_MS, adjust=impatient) as started:
        yield started


def to_score(sent: bytes) -> bytes:
    """A request of the tests of patience, to /score."""
    return sent.replace(b"POST / ", b"POST /score ").replace(
        b"Host: x\r\n", b"Host: x\r\nContent-Type: application/json\r\n"
    )


def dripped() -> list[Any]:
    [table] = patience.test_a_request_that_does_not_arrive_is_given_up.pytestmark  # type: ignore[attr-defined] # pytest sets it
    return [(to_score(sent), drip) for sent, drip in table.args[1]]


@pytest.mark.parametrize(("sent", "drip"), dripped())
def test_a_request_that_does_not_arrive_is_given_up(hasty: Service, sent: bytes, drip: bytes) -> None:
    """Whatever is missing, head or body, and however slowly it drips in, the connection is closed, unanswered."""
    with patience.connection(hasty.port, sent) as opened:
        answer, seconds = patience.ending(opened, drip)
    assert answer == b""
    assert seconds < GIVEN_UP_SECONDS


@pytest.mark.parametrize("missing", [300, 100, 20, 1])
def test_a_request_that_does_not_arrive_behind_another_is_given_up(hasty: Service, new_id: NewId, missing: int) -> None:
    """The beginning of a request in the same segment as another is waited for no longer than one by itself."""
    name = new_id("tx")
    whole = post(transaction(name, merchant_id="m" * 64))
    with connected(hasty.port) as opened:
        opened.settimeout(1 + GIVEN_UP_SECONDS)
        opened.sendall(score(new_id) + whole[:-missing])
        received = read_answers(opened, 2)
    assert statuses(received) == [200]
    assert hasty.client.get(f"/decisions/{name}").status_code == 404


def test_a_connection_is_kept_for_a_while_after_an_answer(hasty: Service, new_id: NewId) -> None:
    """It is closed after the keep-alive time, which begins anew with each answer."""
    with connected(hasty.port) as opened:
        for _ in range(2):
            opened.sendall(score(new_id))
            assert statuses(read_answers(opened, 1)) == [200]
            answered = time.monotonic()
            time.sleep(0.6)
        assert read_answers(opened, 1) == b""
        assert 0.9 < time.monotonic() - answered < 1 + GIVEN_UP_SECONDS


@pytest.mark.parametrize("fast_lane", ["auto", "off"])
def test_the_end_of_the_server_waits_for_whoever_has_begun(
    small_bundle: Path, tmp_path: Path, new_id: NewId, fast_lane: str
) -> None:
    """Half sent, refused, being scored, or waiting behind another: each is answered, and then all are closed."""
    settings = Settings.model_validate({"model_dir": small_bundle, "state_dir": tmp_path, "fast_lane": fast_lane})
    half, wrong = score(new_id), post(b'{"amount": 1}')
    with serving(settings, lambda: ARRIVAL_MS) as service, service.held() as held, ExitStack() as stack:
        idle, halved, refused, scored, behind = [stack.enter_context(connected(service.port)) for _ in range(5)]
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert statuses(read_answers(idle, 1)) == [200]
        halved.sendall(half[:-10])
        refused.sendall(wrong[:-5])
        scored.sendall(score(new_id))
        behind.sendall(score(new_id) + score(new_id))
        wait_until(lambda: held.taken == 2)
        service.server.should_exit = True
        assert read_answers(idle, 1) == b""  # closed
        halved.sendall(half[-10:])
        refused.sendall(wrong[-5:])
        time.sleep(0.1)
        held.let_go()
        for opened, expected in ((halved, [200]), (refused, [422]), (scored, [200]), (behind, [200, 200])):
            received = read_answers(opened, 10)
            assert statuses(received) == expected
            assert received.count(b"connection: close") == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port))


@dataclass
class Client:
    """Sends one request after the other until its connection ends, or it is told to stop."""

    port: int
    name: str
    answers: dict[str, bytes] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Answers are by transaction id; what was sent and got none is noted too."""
        with suppress(ConnectionRefusedError), connected(self.port) as opened:
            for number in range(1_000_000):
                if stop.is_set():
                    return
                name = f"{self.name}-{number}"
                received = b""
                with suppress(ConnectionError):
                    opened.sendall(sent_by_a_client(name))
                    received = read_answers(opened, 1)
                if not received:
                    self.unanswered.append(name)
                    return
                assert statuses(received) == [200], received
                [self.answers[name]] = bodies(received)
                if b"connection: close" in received:
                    return


def sent_by_a_client(name: str) -> bytes:
    return post(transaction(name, card_id=name.rpartition("-")[0]))


@contextmanager
def clients(port: int, stop: threading.Event, number: int = 32) -> Iterator[list[Client]]:
    """So many at once; each has ended at the end."""
    started = [Client(port, f"client-{index}") for index in range(number)]
    with ThreadPoolExecutor(number) as pool:
        done = [pool.submit(client.run, stop) for client in started]
        try:
            yield started
        finally:
            for one in done:
                one.result(timeout=60)


@contextmanager
def process(bundle: Path, state_dir: Path, port: int, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """The service as a process of its own, which may not be ready yet."""
    places = [f"--model-dir={bundle}", f"--state-dir={state_dir}", f"--port={port}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTONE_")}
    command = [sys.executable, "-m", "service", *places, *flags]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def redis_server() -> Iterator[Server]:
    with running(redis_binary()) as server:
        yield server


@pytest.mark.parametrize("fast_lane", ["auto", "off"])
def test_the_end_of_the_process_loses_no_request_it_took(
    small_bundle: Path, tmp_path: Path, redis_server: Server, fast_lane: str
) -> None:
    """SIGTERM under the load of 32 clients: what was decided was answered, once, with the bytes that are kept."""
    port, stop = free_port(), threading.Event()
    flags = [f"--store-url={redis_server.url}", f"--fast-lane={fast_lane}"]
    with process(small_bundle, tmp_path, port, *flags) as started:
        assert started.stdout is not None
        assert "is ready" in started.stdout.readline()
        with clients(port, stop) as sending:
            time.sleep(1)
            started.send_signal(signal.SIGTERM)
            _, logged = started.communicate(timeout=30)
    assert started.returncode == 0
    assert {json.loads(line)["level"] for line in logged.splitlines()} == {"info"}
    answers = {name: body for client in sending for name, body in client.answers.items()}
    assert len(answers) >= len(sending)
    assert decided(redis_server) == answers.keys()
    settings = Settings(model_dir=small_bundle, state_dir=tmp_path, store_url=redis_server.url)
    with serving(settings, lambda: ARRIVAL_MS) as successor, connected(successor.port) as opened:
        for name, body in list(answers.items())[::50]:
            opened.sendall(sent_by_a_client(name))
            assert bodies(read_answers(opened, 1)) == [body]


def decided(server: Server) -> set[str]:
    """The transactions that a store remembers a decision on."""
    keys = server.ask("KEYS", "decision:*")
    assert isinstance(keys, list)
    return {key.decode().rpartition(":")[2] for key in keys}


def test_whoever_comes_while_it_starts_is_answered(small_bundle: Path, tmp_path: Path) -> None:
    """64 clients that come as soon as there is a port are told to wait, and then get their decisions: none hangs."""
    port = free_port()

    def insist(number: int) -> list[int]:
        """What one is told until it gets a decision, each time in a connection of its own."""
        told: list[int] = []
        deadline = time.monotonic() + 60
        while 200 not in told:
            assert time.monotonic() < deadline
            with suppress(ConnectionRefusedError), connected(port) as opened:
                opened.sendall(post(transaction(f"early-{number}")))
                [status] = statuses(read_answers(opened, 1))
                told.append(status)
            time.sleep(0.01)
        return told

    with process(small_bundle, tmp_path, port) as started:
        with ThreadPoolExecutor(64) as pool:
            told = list(pool.map(insist, range(64)))
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=30)
    assert {status for statuses_ in told for status in statuses_} == {503, 200}


@pytest.mark.parametrize("fast_lane", ["auto", "off"])
def test_a_store_that_is_killed_and_comes_back_leaves_nobody_waiting(
    small_bundle: Path, tmp_path: Path, redis_server: Server, fast_lane: str
) -> None:
    """Under the load of 32 clients every request is answered with a decision, before, meanwhile and afterwards."""
    settings = Settings.model_validate({
        "model_dir": small_bundle,
        "state_dir": tmp_path,
        "store_url": redis_server.url,
        "fast_lane": fast_lane,
    })  # fmt: skip
    stop = threading.Event()
    with serving(settings, lambda: ARRIVAL_MS) as service:
        with clients(service.port, stop) as sending:

            def all_got_on() -> bool:
                return all(len(client.answers) > count for client, count in zip(sending, counts, strict=True))

            for trouble in (
                redis_server.pause,
                redis_server.kill,
                redis_server.start,
                redis_server.kill,
                redis_server.start,
            ):
                trouble()
                counts = [len(client.answers) + 1 for client in sending]
                wait_until(all_got_on)
            stop.set()
        assert [client.unanswered for client in sending] == [[]] * len(sending)
        wait_until(lambda: service.metric("fraud_store_deferred") == 0)
    answers = {name: body for client in sending for name, body in client.answers.items()}
    assert any(b'"card"' in body for body in answers.values())  # the trouble was felt
    assert [name for name, body in answers.items() if json.loads(body)["transaction_id"] != name] == []
