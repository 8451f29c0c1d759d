"""`make bench-outage` counts what clients see: from when a payment is due, once each, in the right phase."""

import gc
import io
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.outage import (
    NO_ANSWER,
    Answered,
    Condition,
    Course,
    Phase,
    bench_outage,
    grown_mb,
    normal_again_s,
    read_condition,
    send_when_due,
)
from benchmarks.serving import Address, free_port

BODY = b'{"degraded":["card"]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
STEP_S = 0.05


@contextmanager
def answering(answer: Callable[[socket.socket], None], connections: int) -> Iterator[Address]:
    """A server that treats so many connections one after the other."""

    def serve(listener: socket.socket) -> None:
        for _ in range(connections):
            connection, _ = listener.accept()
            with connection:
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield Address(*listener.getsockname())
        thread.join()


def test_latency_counts_from_when_a_payment_is_due() -> None:
    """Three due at once at a server that takes one step for each: the third took three steps."""

    def answer(connection: socket.socket) -> None:
        while connection.recv(1000):
            time.sleep(STEP_S)
            connection.sendall(REPLY)

    with answering(answer, connections=1) as address:
        due_s = time.perf_counter()
        answers = send_when_due(address, [(number, due_s, b"{}") for number in range(3)], threading.Event())
    assert [(answer.number, answer.status, answer.degraded) for answer in answers] == [(n, 200, True) for n in range(3)]
    assert all(answer.seconds >= (answer.number + 1) * STEP_S for answer in answers)


def test_no_payment_is_sent_before_it_is_due() -> None:
    """The load keeps its pace when answers come at once."""
    arrivals_s: list[float] = []

    def answer(connection: socket.socket) -> None:
        while connection.recv(1000):
            arrivals_s.append(time.perf_counter())
            connection.sendall(REPLY)

    with answering(answer, connections=1) as address:
        dues_s = [time.perf_counter() + number * STEP_S for number in range(3)]
        send_when_due(address, [(number, due_s, b"{}") for number, due_s in enumerate(dues_s)], threading.Event())
    assert all(arrival_s >= due_s for arrival_s, due_s in zip(arrivals_s, dues_s, strict=True))


def test_a_lost_answer_is_counted_and_the_next_payment_is_sent() -> None:
    """A connection that the service closes costs one answer, not the rest of the run."""

    def close(connection: socket.socket) -> None:
        connection.recv(1000)

    with answering(close, connections=2) as address:
        due_s = time.perf_counter()
        answers = send_when_due(address, [(7, due_s, b"{}"), (8, due_s, b"{}")], threading.Event())
    assert [(answer.number, answer.status) for answer in answers] == [(7, NO_ANSWER), (8, NO_ANSWER)]


def test_a_payment_belongs_to_the_phase_in_which_it_is_due() -> None:
    """Whenever its answer came; the moment between two phases is of the second."""
    first, second = Phase("first", 0, 2), Phase("second", 2, 4)
    answers = [answered(1.9, degraded=False), answered(2.0, degraded=False), answered(3.9, degraded=False)]
    assert (first.of(answers), second.of(answers)) == (answers[:1], answers[1:])


@pytest.mark.parametrize(
    ("degraded_at", "expected"),
    [
        ([], 0.0),
        ([10.5], 0.0),
        ([10.5, 11.4], 0.4),
        ([11.4, 12.3], 1.3),
        ([11.4, 12.5], 0.4),
        ([11.9, 12.8, 13.7, 14.6, 15.5], math.inf),
    ],
    ids=["never", "before it answered", "once", "again within a second", "again later", "until the end"],
)
def test_things_are_normal_once_a_second_passes_without_a_degraded_answer(
    degraded_at: list[float], expected: float
) -> None:
    """Counted from when Redis answered, to the last degraded payment before that second."""
    phase = Phase("back", 10.0, 16.0, back_s=11.0)
    calm = [answered(10 + tenth / 10 + 0.05, degraded=False) for tenth in range(60)]
    answers = [*calm, *(answered(due_s, degraded=True) for due_s in degraded_at)]
    assert normal_again_s(answers, phase) == pytest.approx(expected)


def answered(due_s: float, *, degraded: bool) -> Answered:
    return Answered(0, due_s, 0.001, 200, degraded)


def test_growth_is_from_a_moment_to_the_largest_one_after_it() -> None:
    """What the process was before that moment, or fell to in the end, does not count."""
    sizes = {"start": 500.0, "before": 200.0, "outage": 230.0, "after": 220.0}
    conditions = {moment: Condition(size, 3, 36, 0) for moment, size in sizes.items()}
    assert [grown_mb(conditions, since=moment) for moment in sizes] == [0, 30, 0, 0]


def test_the_condition_of_a_process_counts_its_sockets_and_threads() -> None:
    """Two sockets and a thread more are two and one more; files are no sockets."""
    enough = threading.Event()
    before = read_condition(os.getpid(), waiting=5)
    with socket.socket(), socket.socket(), Path(os.devnull).open(encoding="utf-8"):
        thread = threading.Thread(target=enough.wait)
        thread.start()
        now = read_condition(os.getpid(), waiting=5)
        enough.set()
        thread.join()
    assert (now.sockets - before.sockets, now.threads - before.threads, now.waiting) == (2, 1, 5)
    assert 10 < now.rss_mb < 10_000


@pytest.mark.long
def test_an_outage_is_measured_from_end_to_end(tmp_path: Path) -> None:
    """A short run: every payment is answered, and in the end each of them is in the histories."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; Debian's package redis-server has it")
    console = Console(file=io.StringIO(), record=True, width=200)
    course = Course(warm_up_s=1, normal_s=1, away_s=2, between_s=4, after_s=4)
    try:
        bench_outage(console, port=free_port(), model_dir=None, log=tmp_path / "log", course=course)
    finally:
        gc.enable()
    shown = console.export_text()
    for goal in (
        "payments that are answered 200",
        "in the merchant's history",
        "cards whose history has all, each once",
    ):
        (line,) = (line for line in shown.splitlines() if line.strip().startswith(goal))
        assert line.split()[-1] == "met", shown
    assert "service_started" in (tmp_path / "log").read_text(encoding="utf-8")
