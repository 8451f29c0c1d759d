"""The benchmarks measure what they say: real requests to a real process, each counted once."""

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.connection import Connection
from benchmarks.demo import demo
from benchmarks.measure import Latency, RequestRefused, folding, lone_latency
from benchmarks.payments import batch_bodies
from benchmarks.serving import Address, ServiceFailed, free_port, running_service
from service.bundle import Bundle
from tests.small_bundle import NAME, VERSION, write_small_bundle
from training.simulate import SimulationConfig, simulate


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the versions of one small model."""
    directory = tmp_path_factory.mktemp("models")
    write_small_bundle(directory)
    return directory / NAME


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[Address]:
    """A service that serves it."""
    with running_service(port=free_port(), model_dir=models) as address:
        yield address


def payments(seed: int, count: int = 60) -> pl.DataFrame:
    """Payments that no other seed draws: the seed is part of every id."""
    return simulate(SimulationConfig(transactions=count, days=10, seed=seed))


def test_a_lone_request_s_stages_fit_into_what_the_client_sees(address: Address) -> None:
    """The service's account of its time and the client's clock agree: parts within the total, total within sight."""
    latency, stages = lone_latency(address, payments(1), warm_up=20)
    assert latency.requests == 40
    assert latency.median_ms <= latency.p90_ms <= latency.p99_ms <= latency.max_ms
    parts = [mean for stage, mean in stages.items() if stage != "total"]
    assert min(parts) > 0
    assert sum(parts) <= stages["total"] <= latency.max_ms * 1000


def test_a_payment_that_is_refused_spoils_the_measurement(address: Address) -> None:
    """The time of an error is not the time of a decision, so it is never averaged in."""
    broken = payments(3).with_columns(amount=pl.lit(-1))
    with pytest.raises(RequestRefused, match="422"):
        lone_latency(address, broken, warm_up=0)


def test_batches_hold_every_payment_in_order(address: Address) -> None:
    """What the demo sends as the past is the whole past."""
    frame = payments(4, count=25)
    with Connection(address) as connection:
        replies = [connection.post("/score/batch", body).json() for body in batch_bodies(frame, size=10)]
    assert all(isinstance(reply, list) for reply in replies)
    answered = [item["body"]["transaction_id"] for reply in replies if isinstance(reply, list) for item in reply]
    assert answered == frame["transaction_id"].to_list()


def test_the_demo_shows_decisions_and_metrics(models: Path) -> None:
    """Whoever runs it sees what was decided, what was true, and what Prometheus would see."""
    console = Console(file=io.StringIO(), record=True, width=200)
    demo(console, port=free_port(), model_dir=models, seconds=0.5, past=1_000)
    shown = console.export_text()
    assert "25 payments, answered in" in shown
    assert "in truth: " in shown
    assert 'fraud_decisions_total{decision="approve"}' in shown


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Its own words reach whoever runs the benchmark."""
    with pytest.raises(ServiceFailed, match="holds no bundle"), running_service(port=free_port(), model_dir=tmp_path):
        pytest.fail("it started without a bundle")
    assert main(["bench", "--model-dir", str(tmp_path)]) == 1


def test_folding_counts_every_event(models: Path) -> None:
    """A payment is an event, and so is each report of a fraud."""
    frame = payments(5).with_columns(is_fraud=pl.lit(value=False), reported_at=pl.lit(None, pl.Datetime("ms", "UTC")))
    found = folding(Bundle.load(models / VERSION), frame)
    assert (found.rows, found.features) == (60, 5)


def test_latency_is_summarised_by_percentiles() -> None:
    """Against the definition, in milliseconds."""
    latency = Latency.of([second / 1000 for second in range(1, 102)])
    assert (latency.requests, latency.max_ms) == (101, 101)
    assert np.allclose((latency.median_ms, latency.p90_ms, latency.p99_ms), (51, 91, 100))


def test_a_reply_is_read_whole_however_it_arrives() -> None:
    """Byte by byte is the same as at once, by its own length; a connection that closes in between is an error."""
    reply = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 2\r\nContent-Length: 4\r\n\r\nbody"
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_in_pieces, args=(server, reply))
        thread.start()
        with Connection(Address(*server.getsockname())) as connection:
            answered = connection.get("/")
            assert (answered.status, answered.body) == (200, b"body")
            with pytest.raises(ConnectionError):
                connection.get("/")
        thread.join()


def answer_in_pieces(server: socket.socket, reply: bytes) -> None:
    """Answer one request byte by byte, the next one not at all."""
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(1000)
        for byte in reply:
            connection.sendall(bytes([byte]))
        connection.recv(1000)
