"""Several workers on one port: real processes over a real store, counted together, replaced, and ended in order."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.stores.keys import decisions_stream
from tests.api.test_score import transaction
from tests.small_bundle import THRESHOLDS_DOCUMENT
from tests.stores.servers import Server, free_port, running, valkey_binary, wait_until
from tests.test_process import numbered, run, started

WORKERS = 2
CLIENTS = 8


@dataclass(frozen=True)
class Workers:
    """A service of two workers that is ready."""

    process: "subprocess.Popen[str]"
    url: str
    port: int

    def pids(self) -> list[int]:
        """The workers' process ids."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def everybody(self, ask: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """Ask over new connections until each worker has answered; one answer of each."""
        answers: dict[str, httpx.Response] = {}

        def all_answered() -> bool:
            answer = ask()
            answers[answer.headers["x-request-id"].partition("-")[0]] = answer  # the head names the process
            return len(answers) == WORKERS

        wait_until(all_answered)
        return list(answers.values())

    def score(self) -> httpx.Response:
        """One payment of its own, over a connection of its own."""
        return httpx.post(f"{self.url}/score", json=transaction(numbered))

    def metrics(self) -> dict[str, float]:
        """What one of the workers tells, by name; series of a name are added."""
        return read_metrics(httpx.get(f"{self.url}/metrics"))


def read_metrics(page: httpx.Response) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    with running(valkey_binary()) as server:
        yield server


@pytest.fixture
def workers(small_bundle: Path, tmp_path: Path, store: Server) -> Iterator[Workers]:
    """They are a test's own, which may end them."""
    with working(small_bundle, tmp_path, store) as service:
        yield service


@pytest.fixture(scope="module")
def standing(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, store: Server) -> Iterator[Workers]:
    """They serve several tests, one after the other."""
    with working(small_bundle, tmp_path_factory.mktemp("state"), store) as service:
        yield service


@contextmanager
def working(bundle: Path, state_dir: Path, store: Server) -> Iterator[Workers]:
    port = free_port()
    options = (f"--workers={WORKERS}", f"--store-url={store.url}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(state_dir))  # where a supervisor that is killed leaves something behind
        with started(bundle, state_dir, port, *options) as (process, url):
            yield Workers(process, url, port)


def test_every_scrape_tells_of_all_workers(standing: Workers) -> None:
    """Whoever answers it, the sums are of every request that any of them answered."""
    sent = int(standing.metrics()["fraud_decisions_total"])

    def score() -> httpx.Response:
        nonlocal sent
        answer = standing.score()
        assert answer.status_code == 200
        sent += 1
        return answer

    standing.everybody(score)

    def all_tell_of_all() -> bool:
        told = standing.everybody(lambda: httpx.get(f"{standing.url}/metrics"))
        return [read_metrics(page)["fraud_decisions_total"] for page in told] == [sent] * WORKERS

    wait_until(all_tell_of_all)
    told = standing.metrics()
    assert told["fraud_probability_count"] == sent
    assert (told["fraud_kernel_ready"], told["fraud_model_info"]) == (1, 1)
    assert told["fraud_store_links"] == told["fraud_store_links_up"] == WORKERS


def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(standing: Workers) -> None:
    """The port goes on answering, no counter ever falls, and the new worker is counted as one more start."""
    told = standing.metrics()
    sent, restarts = told["fraud_decisions_total"], told["fraud_worker_restarts_total"]
    for _ in range(20):
        sent += standing.score().status_code == 200
    wait_until(lambda: standing.metrics()["fraud_decisions_total"] == sent)
    killed = standing.pids()[0]
    os.kill(killed, signal.SIGKILL)
    shown = []

    def replaced() -> bool:
        with suppress(httpx.TransportError):  # the connection was the killed worker's
            told = standing.metrics()
            shown.append(told["fraud_decisions_total"])
            return told["fraud_worker_restarts_total"] == restarts + 1 and told["fraud_kernel_ready"] == 1
        return False

    wait_until(replaced)
    assert set(shown) == {sent}
    assert killed not in standing.pids()
    standing.everybody(standing.score)
    wait_until(lambda: standing.metrics()["fraud_decisions_total"] > sent)


def test_sigterm_under_load_loses_no_answer(workers: Workers, store: Server) -> None:
    """Every decision that was made reached who asked for it, and the supervisor and its workers end with 0."""
    before = made(store)

    def keep_asking(_: int) -> int:
        answered = 0
        with httpx.Client(base_url=workers.url) as client, suppress(httpx.TransportError):
            while client.post("/score", json=transaction(numbered)).status_code == 200:
                answered += 1
        return answered

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(keep_asking, client) for client in range(CLIENTS)]
        wait_until(lambda: made(store) > before + 20 * CLIENTS)
        workers.process.send_signal(signal.SIGTERM)
        answered = sum(future.result() for future in asking)
    _, logged = workers.process.communicate(timeout=30)
    assert workers.process.returncode == 0
    assert [json.loads(line)["event"] for line in logged.splitlines()] == ["service_started", "service_stopped"]
    assert answered == made(store) - before


def made(store: Server) -> int:
    """Decisions that were remembered."""
    length = store.ask("XLEN", decisions_stream(0))
    assert isinstance(length, int)
    return length


def test_a_request_that_has_begun_is_answered_after_sigterm(workers: Workers) -> None:
    """By whichever worker it reached; a new connection is refused meanwhile, and does not wait in vain."""
    body = json.dumps(transaction(numbered)).encode()
    with ThreadPoolExecutor(CLIENTS) as pool:
        opened = [begun(workers.port, body) for _ in range(CLIENTS)]
        workers.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(workers.port))
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in pool.map(lambda one: completed(one, body), opened))
    assert workers.process.wait(timeout=30) == 0


def test_a_second_ctrl_c_does_not_wait_for_requests_in_flight(workers: Workers) -> None:
    """The first does."""
    with begun(workers.port, b'{"transaction_id": "t"}'):
        workers.process.send_signal(signal.SIGINT)
        wait_until(lambda: not accepts(workers.port))
        time.sleep(0.5)
        assert workers.process.poll() is None
        workers.process.send_signal(signal.SIGINT)
        assert workers.process.wait(timeout=4) == 0  # one that never arrives is given up after 5 seconds


def begun(port: int, body: bytes) -> socket.socket:
    """A connection on which all of a request was sent but its last byte; a server has it."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    opened.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
    assert opened.recv(65536).startswith(b"HTTP/1.1 100 ")
    opened.sendall(body[:-1])
    return opened


def completed(opened: socket.socket, body: bytes) -> bytes:
    with opened:
        opened.sendall(body[-1:])
        return opened.recv(65536)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_workers_end_with_their_supervisor(workers: Workers) -> None:
    """One that is killed leaves nobody behind who holds the port."""
    workers.process.kill()
    workers.process.wait()
    wait_until(lambda: not accepts(workers.port))


def test_thresholds_published_through_one_worker_are_served_by_all(standing: Workers) -> None:
    """Within seconds, and the metric tells when all of them do."""
    current = httpx.get(f"{standing.url}/thresholds")
    document = {**THRESHOLDS_DOCUMENT, "default": {"review_at": {"probability": 0.25}}}
    published = httpx.put(
        f"{standing.url}/thresholds",
        json={"document": document, "comment": "why", "author": "who"},
        headers={"If-Match": current.headers["etag"]},
    )
    assert published.status_code == 200
    since = time.monotonic()

    def served_by_all() -> bool:
        return {answer.headers["etag"] for answer in standing.everybody(ask)} == {published.headers["etag"]}

    def ask() -> httpx.Response:
        return httpx.get(f"{standing.url}/thresholds")

    wait_until(served_by_all)
    assert time.monotonic() - since < 5  # 2 s are promised; this machine may be busy
    assert {answer.json()["thresholds"]["version"] for answer in standing.everybody(standing.score)} == {1}
    wait_until(lambda: standing.metrics()["fraud_thresholds_version"] == 1)


def test_memory_takes_one_worker(small_bundle: Path, tmp_path: Path) -> None:
    """Each would have its own histories, so the start is refused, with what to do."""
    ended = run(f"--model-dir={small_bundle}", f"--state-dir={tmp_path}", f"--port={free_port()}", "--workers=2")
    assert ended.returncode == 1
    assert re.fullmatch(r"SettingsInvalid: TOUCHSTONE_WORKERS: .*memory://.*or take 1 worker\n", ended.stderr)


def test_a_bundle_that_was_altered_starts_no_worker(small_bundle: Path, tmp_path: Path, store: Server) -> None:
    """It is found before, and said once."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in small_bundle.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    (bundle / "model.onnx").write_bytes(b"other")
    ended = run(f"--model-dir={bundle}", f"--port={free_port()}", "--workers=2", f"--store-url={store.url}")
    assert ended.returncode == 1
    assert re.fullmatch(r"BundleInvalid: .*model\.onnx.*\n", ended.stderr)


def test_a_worker_that_cannot_start_ends_all(small_bundle: Path, tmp_path: Path, store: Server) -> None:
    """It is not started again and again: the service ends with what the worker said, and status 1."""
    url = store.url.replace("redis://", "redis+cluster://")  # which the server is not
    where = (f"--model-dir={small_bundle}", f"--state-dir={tmp_path}", f"--port={free_port()}")
    ended = run(*where, "--workers=2", f"--store-url={url}")
    assert ended.returncode == 1
    assert "StoreUnavailable: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 1 <= ended.stderr.count('"event": "worker_died"') <= WORKERS
