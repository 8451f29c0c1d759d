"""Redis as docker-compose.yml and k8s/base start it, and the user that docs/operations.md makes on it: run for real."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.serving import serving
from tests.stores.servers import Server, free_port, redis_binary, running, valkey_binary, wait_until

PROJECT = Path(__file__).resolve().parents[2]
PASSWORD = "correct-horse-battery-staple"  # noqa: S105 - of a server that lives for a second
ARRIVAL_MS = 1_795_253_400_000  # 2026-11-21T09:30:00Z


class Composed:
    """The composed server in a directory of its own, and what its health check asks it."""

    def __init__(self, directory: Path, program: str) -> None:
        if shutil.which("redis-cli") is None:
            pytest.skip("redis-cli is not installed; Debian's package redis-tools has it")
        self.directory = directory
        (directory / "redis-server").symlink_to(program)
        self._composed = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
        self._port = free_port()
        (directory / "data").mkdir()

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Start it with the composed command, in another place than the container's; kill it at the end."""
        *shell, script = self._composed["redis"]["command"]
        for there, ours in (
            ("$$", "$"),
            ("/etc/redis/redis.conf", str(PROJECT / "k8s" / "base" / "redis.conf")),
            ("/data", str(self.directory / "data")),
        ):
            assert there in script
            script = script.replace(there, ours)
        # The kernel ends it if this process dies before it can.
        command = ["/usr/bin/setpriv", "--pdeathsig", "KILL", *shell, f"{script} --bind 127.0.0.1 --port {self._port}"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=self._environment(PASSWORD), stdout=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: self.is_healthy(PASSWORD))
            yield process
        finally:
            process.kill()
            process.wait()

    def is_healthy(self, password: str) -> bool:
        """What the composed health check finds."""
        kind, program, *words = self._composed["redis"]["healthcheck"]["test"]
        assert kind == "CMD"
        return self._run(password, program, *words).returncode == 0

    def ask(self, *words: str) -> str:
        """The answer to one command."""
        return self._run(PASSWORD, "redis-cli", *words).stdout.strip()

    def _run(self, password: str, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 - our own words
            [program, "-p", str(self._port), *words],
            env=self._environment(password),
            check=False,
            capture_output=True,
            text=True,
        )

    def _environment(self, password: str) -> dict[str, str]:
        return {"PATH": f"{self.directory}:{os.environ['PATH']}", "REDISCLI_AUTH": password}


@pytest.fixture(params=[redis_binary, valkey_binary])
def composed(request: pytest.FixtureRequest, tmp_path: Path) -> Composed:
    """Once with Redis and once with Valkey."""
    program: Callable[[], str] = request.param
    return Composed(tmp_path, program())


def test_the_server_takes_its_options_and_nobody_without_the_password(composed: Composed) -> None:
    """It refuses rather than forgets, writes through every second, and is healthy for who knows the password only."""
    with composed.running():
        for name, value in (
            ("maxmemory-policy", "noeviction"),
            ("maxmemory", str(2**30)),
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("protected-mode", "yes"),
            ("save", ""),
        ):
            assert composed.ask("config", "get", name).split("\n") == [name, *([value] if value else [])]
        assert not composed.is_healthy("another")
        assert not composed.is_healthy("")


def test_the_password_is_not_in_the_list_of_processes(composed: Composed) -> None:
    """Who may list processes does not learn it."""
    with composed.running() as process:
        command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"redis-server" in command_line
    assert PASSWORD.encode() not in command_line


def test_what_was_written_survives_a_kill(composed: Composed) -> None:
    """The append-only file brings back what the killed server had acknowledged."""
    with composed.running():
        assert composed.ask("rpush", "log", "entry") == "1"
        wait_until(lambda: "aof_buffer_length:0" in composed.ask("info", "persistence"))
    with composed.running():
        assert composed.ask("lrange", "log", "0", "-1") == "entry"


@pytest.mark.parametrize("binary", [redis_binary, valkey_binary])
def test_the_documented_users_may_do_what_is_theirs(
    binary: Callable[[], str], small_bundle: Path, tmp_path: Path
) -> None:
    """Scoring, compacting, retries, outcomes, backfill and collecting meet no refusal; anything else does."""
    with running(binary()) as server:
        for name in ("touchstone", "collector"):
            assert server.ask(*documented_user(name)) == b"OK"
        settings = Settings(
            model_dir=small_bundle, state_dir=tmp_path, store_url=url_of(server, "touchstone"), parity_share=1
        )
        with serving(settings, lambda: ARRIVAL_MS) as service:
            first, *_, last = [service.client.post("/score", json=payment(number)) for number in range(64)]
            assert "idempotency" not in first.json()["degraded"]
            assert service.client.post("/score", json=payment(63)).content == last.content
            assert service.client.post("/outcomes", json=outcome()).json()["changed"]
            assert service.client.get("/decisions/payment-63").json()["outcomes"]
            wait_until(lambda: {b"cmdstat_ltrim", b"cmdstat_xinfo|groups"} <= used(server))
        past = tmp_path / "past.jsonl"
        past.write_text(json.dumps(payment(100)), encoding="utf-8")
        python("service", "backfill", "--history", past, "--model-dir", small_bundle, "--store-url", settings.store_url)
        out = ("--out", tmp_path / "collected")
        python("training", "collect", "--url", url_of(server, "collector"), "--bundle", small_bundle, *out)
        assert list((tmp_path / "collected").rglob("*.parquet"))

        # redis-py would tell newer servers its version, and does without; the oldest ones know no such permission.
        assert refused(server) <= {b"client|setinfo"}
        for words in ("FLUSHALL", "KEYS *", "CONFIG GET *", "DEL session:1", "GET session:1", "SHUTDOWN"):
            for name in ("touchstone", "collector"):
                assert server.ask("ACL", "DRYRUN", name, *words.split()) != b"OK", (name, words)
        assert server.ask("ACL", "DRYRUN", "collector", "LTRIM", "00000000:card:c", "0", "0") != b"OK"


def test_the_documented_user_may_run_the_scripts() -> None:
    """Whatever a script calls, however seldom, is on the list: Redis checks that too."""
    scripts = [path.read_text(encoding="utf-8") for path in (PROJECT / "service" / "stores").glob("*.lua")]
    called = {f"+{verb.lower()}" for script in scripts for verb in re.findall(r"redis\.call\('([A-Z]+)'", script)}
    assert len(called) > 5
    assert called <= set(documented_user("touchstone"))


def documented_user(name: str) -> list[str]:
    """The words of the command that makes a user, as the page has them."""
    page = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    shown = re.search(r"```sh\nhex='(\S+)'\n(.*?)```", page, flags=re.DOTALL)
    assert shown is not None
    commands = [shlex.split(line.replace("$hex", shown[1])) for line in shown[2].replace("\\\n", " ").splitlines()]
    (words,) = (words for program, *words in commands if words[2] == name)
    return words


def url_of(server: Server, user: str) -> str:
    return f"redis://{user}:PASSWORD@127.0.0.1:{server.port}/0"


def python(module: str, *words: str | Path) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", module, *words], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words


def refused(server: Server) -> set[bytes]:
    """The commands and keys that somebody was not allowed."""
    entries = server.ask("ACL", "LOG")
    assert isinstance(entries, list)
    return {entry[entry.index(b"object") + 1] for entry in entries}


def used(server: Server) -> set[bytes]:
    """The commands that somebody has used, as the server names them in its statistics."""
    statistics = server.ask("INFO", "commandstats")
    assert isinstance(statistics, bytes)
    return {line.partition(b":")[0] for line in statistics.splitlines()}


def payment(number: int) -> dict[str, object]:
    return {
        "transaction_id": f"payment-{number}",
        "timestamp": f"2026-11-21T09:{number % 30:02}:00Z",
        "card_id": "card",
        "merchant_id": "merchant",
        "amount": 1_000,
        "currency": "EUR",
    }


def outcome() -> dict[str, object]:
    return {
        "transaction_id": "payment-63",
        "type": "confirmed_fraud",
        "occurred_at": "2026-11-21T09:29:00Z",
        "reported_at": "2026-11-21T09:29:30Z",
    }
