"""Processes that share a hot merchant lose nothing and count nothing twice, whoever is killed in between."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from service.app import bundle_directory
from service.bundle import Bundle
from service.features.encoding import read_entries
from service.features.entry import Column, Kind, entry_id
from service.settings import SHIPPED_MODELS
from tests.stores.servers import Server, redis_binary, running
from tests.torture.collecting import collected
from training.collected import compare

PROCESSES = 4
BUNDLE = bundle_directory(SHIPPED_MODELS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that has written down what it acknowledges."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with running(redis_binary(), *options) as started:
        yield started


def spawn(server: Server, state: Path, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.torture.process", server.url, str(BUNDLE), str(state), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own


def send(server: Server, state: Path, count: int, trouble: Callable[[list["subprocess.Popen[str]"]], None]) -> set[str]:
    """Let four processes send, with some trouble in between. Returns which payments were answered."""
    processes = [spawn(server, state / str(number), f"p{number}", count) for number in range(PROCESSES)]
    answered: set[str] = set()
    trouble(processes)
    for process in processes:
        out, err = process.communicate(timeout=250)
        assert process.returncode in {0, -9}, err
        answered |= set(out.split())
    return answered


def nothing(_processes: list["subprocess.Popen[str]"]) -> None:
    """All goes well."""


def clients_killed(processes: list["subprocess.Popen[str]"]) -> None:
    """Two of them, in the middle of things."""
    for process in processes[:2]:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.kill()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", [nothing, clients_killed])
def test_whoever_dies_the_rest_computes_the_same(
    server: Server, tmp_path: Path, trouble: Callable[[list["subprocess.Popen[str]"]], None]
) -> None:
    """No cell differs from what the archive gives, revs have no gap, and every answered payment is there once."""
    answered = send(server, tmp_path, 1_500, trouble)
    bundle = Bundle.load(BUNDLE)
    found = collected(server.url, bundle, tmp_path / "collected")
    check(found.entries, bundle, answered)
    result = compare(found, bundle.plan, bundle.currencies)
    assert (result.cells_differing, result.revs_differing, result.gaps) == (0, 0, 0)
    assert result.decisions >= len(answered)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", ["paused", "disconnected", "restarted"])
def test_whatever_befalls_the_server_every_answered_payment_counts_once(
    server: Server, tmp_path: Path, trouble: str
) -> None:
    """Stopped for a while, its clients cut off again and again, killed and started from what it wrote."""

    def befall(processes: list["subprocess.Popen[str]"]) -> None:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for _ in range(3):
            time.sleep(0.7)
            match trouble:
                case "paused":
                    server.pause()
                    time.sleep(0.7)
                    server.resume()
                case "disconnected":
                    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                case _:
                    server.kill()
                    time.sleep(0.3)
                    server.start()

    answered = send(server, tmp_path, 1_500, befall)
    bundle = Bundle.load(BUNDLE)
    found = collected(server.url, bundle, tmp_path / "collected")
    check(found.entries, bundle, answered)
    result = compare(found, bundle.plan, bundle.currencies)
    assert (result.cells_differing, result.revs_differing, result.gaps) == (0, 0, 0)


def check(entries: pl.DataFrame, bundle: Bundle, answered: set[str]) -> None:
    """Insist that the merchant's log holds every answered payment, each counted once, without a gap."""
    k = bundle.plan.entities.index("merchant")
    log = entries.filter(pl.col("entity") == "merchant").sort("rev")
    assert log["rev"].to_list() == list(range(len(log)))
    rows = read_entries(bundle.plan, k, b"".join(log["entry"]))
    attempts = rows[rows[:, Column.KIND] == Kind.ATTEMPT, Column.ID].tolist()
    voids = int((rows[:, Column.KIND] == Kind.VOID).sum())
    assert len(attempts) - voids == len(set(attempts))
    assert {entry_id(name, "transaction") for name in answered} <= set(attempts)
