"""A contender that runs: started, pinned and given what it needs, and gone afterwards with all its processes."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.features.server import Server, running_server
from benchmarks.load.contender import Contender
from benchmarks.load.places import Places, pin_to
from benchmarks.load.prepared import Supply
from benchmarks.load.processes import family, members_of_session
from benchmarks.measure import OK, RequestRefused
from benchmarks.serving import PROJECT, Address, ServiceFailed, clean_environment, free_port

ENDED_AS_TOLD = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
KILLED_WITHIN_S = 5.0
LOG_SHOWN = 4_000  # characters of what a contender said, the last of it
_LOOK_EVERY_S = 0.05


@dataclass(slots=True)
class Started:
    """A contender that is ready.

    Attributes:
        contender: which one.
        address: where it listens.
        pid: of the process that was started; there may be others below it.
        redis: its own server, if it needs one.
        supply: of requests for it.
        next: the number of the first request that it was not sent.
    """

    contender: Contender
    address: Address
    pid: int
    redis: Server | None
    supply: Supply
    next: int = 0

    def take(self, count: int) -> list[bytes]:
        """Requests that it was not sent before."""
        requests = self.supply.take(self.next, count)
        self.next += count
        return requests


@contextmanager
def running_contender(contender: Contender, supply: Supply, places: Places, *, directory: Path) -> Iterator[Started]:
    """Start a contender and wait until it is ready; stop it at the end.

    Args:
        contender: one that is not missing.
        supply: requests for it.
        places: the cores.
        directory: where what it says is kept.

    Raises:
        ServiceFailed: it did not become ready, or did not end as it should; says what it said last.
    """
    with ExitStack() as closing:
        redis = None
        if contender.redis_variable is not None:
            redis = closing.enter_context(running_server(core=places.redis))
        address = Address("127.0.0.1", free_port())
        with launched(contender, address.port, redis, places, log=directory / f"{contender.name}.log") as process:
            yield Started(contender, address, process.pid, redis, supply)


@contextmanager
def launched(
    contender: Contender, port: int, redis: Server | None, places: Places, *, log: Path, wait: bool = True
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of a contender, and no trace of it afterwards; ready at once where one waits for it.

    Raises:
        ServiceFailed: it did not become ready, or did not end as it should.
    """
    environment = {**clean_environment(), **contender.environment}
    if redis is not None and contender.redis_variable is not None:
        environment[contender.redis_variable] = redis.url
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - the command of a contender of ours
            contender.command(port),
            cwd=PROJECT,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that nothing of it can be left
        )
        pin_to(process.pid, places.servers[: contender.cores])
        try:
            if wait:
                _wait_until_ready(contender, process, port, log)
            yield process
            _end(contender, process, log)
        except (OSError, RequestRefused) as error:
            if process.poll() is None:
                raise
            raise ServiceFailed(f"{contender.name} ended with {process.returncode}:\n{_tail(log)}") from error
        finally:
            _kill(process)


def _wait_until_ready(contender: Contender, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline_s = time.monotonic() + contender.starts_within_s
    while not is_ready(port, contender.ready):
        if process.poll() is not None:
            raise ServiceFailed(f"{contender.name} ended with {process.returncode} before it was ready:\n{_tail(log)}")
        if time.monotonic() > deadline_s:
            raise ServiceFailed(f"{contender.name} was not ready in {contender.starts_within_s:g} s:\n{_tail(log)}")
        time.sleep(_LOOK_EVERY_S)


def is_ready(port: int, path: str) -> bool:
    """Whether a server on this machine answers 200 to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == OK
    except (OSError, http.client.HTTPException):
        return False  # it does not listen yet
    finally:
        connection.close()


def _end(contender: Contender, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Tell it to end, and wait until it has."""
    process.terminate()
    try:
        process.wait(contender.ends_within_s)
    except subprocess.TimeoutExpired as error:
        raise ServiceFailed(f"{contender.name} did not end in {contender.ends_within_s:g} s:\n{_tail(log)}") from error
    if process.returncode not in ENDED_AS_TOLD:
        raise ServiceFailed(f"{contender.name} ended with {process.returncode}:\n{_tail(log)}")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Leave nothing of it: it was started as the head of a session, so what it started bears its number.

    What has begun a session of its own, as BentoML's worker does, is known by its parents as long as these live.
    """
    below = [] if process.poll() is not None else family(process.pid)[1:]
    process.kill()  # does nothing to one that has ended
    process.wait()
    for pid in below:
        _kill_hard(pid)
    deadline_s = time.monotonic() + KILLED_WITHIN_S
    while (left := members_of_session(process.pid)) and time.monotonic() < deadline_s:
        for pid in left:
            _kill_hard(pid)
        time.sleep(_LOOK_EVERY_S)


def _kill_hard(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:]
