"""The closed loop: wrk keeps as many requests under way as there are clients, each of them never sent before."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.load.prepared import PaymentsUsedUp, Supply
from benchmarks.measure import RequestRefused
from benchmarks.serving import Address, ServiceFailed

SCRIPT = Path(__file__).parent / "wrk.lua"
FASTEST_PER_SECOND = 40_000  # more than anything here answers that remembers what it was sent; so many are prepared
TIMEOUT_SECONDS = 10
NO_WRK = "there is no wrk, which sends the requests; Debian's package wrk has it"


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What one run of wrk found.

    Attributes:
        requests: answered, each with 200.
        seconds: that it took.
        median_ms: time of a request, at the client; with many clients most of it is waiting for the others.
        p99_ms: the same, of all but one in a hundred.
        taken: how many requests of the supply were used.
    """

    requests: int
    seconds: float
    median_ms: float
    p99_ms: float
    taken: int

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.seconds


def why_no_load() -> str | None:
    """Why servers cannot be measured under load here; None where they can."""
    if sys.platform != "linux":
        return "processor time is read as Linux accounts for it"
    return None if shutil.which("wrk") else NO_WRK


def closed_loop(address: Address, supply: Supply, first: int, *, clients: int, seconds: float) -> ClosedLoop:
    """Load a server for some seconds.

    Args:
        address: where it listens.
        supply: of requests it may be sent.
        first: the number of the first of them that it has not been sent.
        clients: connections, each with one request under way.
        seconds: whole ones are what wrk knows; at least 1.

    Raises:
        ServiceFailed: there is no wrk.
        RequestRefused: a request was not answered, or not with 200.
        PaymentsUsedUp: the supply ended.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise ServiceFailed(NO_WRK)
    supply.prepare(first, round(seconds * FASTEST_PER_SECOND))
    command = [
        *(wrk, "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:.0f}s"),
        *("--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), str(address), "--"),
        *(str(supply.path), str(supply.offset(first)), "again" if supply.again else "once"),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a binary we looked up
    if said.returncode != 0:
        raise ServiceFailed(f"wrk ended with {said.returncode}:\n{said.stdout}{said.stderr}")
    return _read(said.stdout)


def _read(said: str) -> ClosedLoop:
    found = orjson.loads(said.rstrip().rpartition("\n")[2])
    if found["used_up"]:
        raise PaymentsUsedUp(f"more than {found['taken']:,} payments were answered in {found['seconds']:.1f} s")
    if found["failed"] or found["refused"] or not found["requests"]:
        raise RequestRefused(
            f"{found['requests']:,} requests were sent, {found['failed']:,} of them got no answer and "
            f"{found['refused']:,} one that is not 2xx"
        )
    return ClosedLoop(found["requests"], found["seconds"], found["median_ms"], found["p99_ms"], found["taken"])
