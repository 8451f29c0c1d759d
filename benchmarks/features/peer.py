"""Feast, in a process and an environment of its own, asked for one round of reads at a time."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import orjson

from benchmarks.features.cores import pin
from benchmarks.features.timing import Timed
from benchmarks.serving import PROJECT, ServiceFailed

START_SECONDS = 60.0  # importing Feast takes four, on a busy machine more
LONGEST_LINE = 1 << 22  # bytes; the seconds of some 100,000 calls


class Peer:
    """The process.

    Attributes:
        versions: Feast's, and those of the packages that matter for it, in one line.
    """

    def __init__(self, process: asyncio.subprocess.Process, versions: str, log: IO[bytes]) -> None:
        self.versions = versions
        self._process = process
        self._log = log

    async def time(self, way: str, calls: int) -> Timed:
        """Let it read in one of its ways.

        Raises:
            ServiceFailed: it ended instead.
        """
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.write(f"{way} {calls}\n".encode())
        found = await _line(self._process, self._log)
        latencies_s, elapsed_s = found["latencies_s"], found["elapsed_s"]
        assert isinstance(latencies_s, list), found
        assert isinstance(elapsed_s, float), found
        return Timed(latencies_s, elapsed_s)


@asynccontextmanager
async def running_peer(python: Path, *, port: int, core: int | None) -> AsyncIterator[Peer]:
    """Feast with its online store on a Redis server, filled; ended afterwards.

    Args:
        python: the interpreter of the environment that Feast is installed in.
        port: of the server on 127.0.0.1.
        core: where it is to run; None: anywhere.

    Raises:
        ServiceFailed: it did not start.
    """
    with tempfile.TemporaryFile() as log:
        process = await _start(python, port, log)
        try:
            pin(process.pid, core)
            found = await asyncio.wait_for(_line(process, log), START_SECONDS)
            yield Peer(process, ", ".join(f"{name} {version}" for name, version in found.items()), log)
        finally:
            await _end(process)


async def _start(python: Path, port: int, log: IO[bytes]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            str(python), "-m", "benchmarks.features.feast_side", str(port),
            cwd=PROJECT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=LONGEST_LINE,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ServiceFailed(f"there is no {python}; `make bench-features` installs Feast there") from error


async def _line(process: asyncio.subprocess.Process, log: IO[bytes]) -> dict[str, object]:
    """The next thing that the process says."""
    assert process.stdout is not None, "started with a pipe"
    line = await process.stdout.readline()
    if not line:
        await process.wait()
        log.seek(0)
        raise ServiceFailed(f"Feast ended with {process.returncode}:\n{log.read().decode(errors='replace')}")
    found = orjson.loads(line)
    assert isinstance(found, dict), found
    return found


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends by itself when nothing more can be asked."""
    assert process.stdin is not None, "started with a pipe"
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), START_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
