"""`python -m service` as a process: how it starts, ends, refuses, and what it says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.check import _runtime, listen
from service.settings import Settings, flag
from tests.api.test_score import transaction

READY = re.compile(r"Touchstone is ready at (http://127\.0\.0\.1:[0-9]+) ")


@pytest.fixture
def free_port() -> int:
    with listen("127.0.0.1", 0) as listening:
        port: int = listening.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTONE_")}
    return subprocess.run(  # noqa: S603 - our own command
        command(*arguments), env=environ, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def started(bundle: Path, state_dir: Path, port: int, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that is ready, and its URL."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        command(f"--model-dir={bundle}", f"--state-dir={state_dir}", f"--port={port}", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = READY.match(process.stdout.readline())
        assert ready, process.communicate()
        yield process, ready.group(1)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def numbered(kind: str) -> str:
    return f"{kind}-{time.monotonic_ns()}"


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(small_bundle: Path, tmp_path: Path, free_port: int) -> None:
    """A request that has begun is answered, and the end is an orderly one."""
    with started(small_bundle, tmp_path, free_port) as (process, url):
        body = json.dumps(transaction(numbered)).encode()
        head = (
            f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", free_port), timeout=10) as opened:
            opened.sendall(head.encode() + body[:10])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            opened.sendall(body[10:])
            assert opened.recv(65536).startswith(b"HTTP/1.1 200 OK")
        _, logged = process.communicate(timeout=20)
        assert process.returncode == 0
        events = [json.loads(line)["event"] for line in logged.splitlines()]
        assert events == ["service_started", "service_stopped"]
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_requests_are_not_logged(small_bundle: Path, tmp_path: Path, free_port: int) -> None:
    """Neither answers nor refusals leave a line, and headers tell no one what serves."""
    with started(small_bundle, tmp_path, free_port) as (process, url):
        response = httpx.post(f"{url}/score", json=transaction(numbered))
        assert response.status_code == 200
        assert "server" not in response.headers
        httpx.post(f"{url}/score", json={})
        with socket.create_connection(("127.0.0.1", free_port), timeout=10) as opened:
            opened.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in opened.recv(65536)
        process.send_signal(signal.SIGINT)
        _, logged = process.communicate(timeout=20)
        assert process.returncode == 0
        assert len(logged.splitlines()) == 2


def test_a_huge_body_is_refused_in_little_memory(small_bundle: Path, tmp_path: Path, free_port: int) -> None:
    """100 MB are answered with 413 while the process grows by less than 10 MB."""

    def peak_kib(pid: int) -> int:
        found = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found
        return int(found.group(1))

    def endless() -> Iterator[bytes]:
        yield from (b" " * 65536 for _ in range(1600))

    with started(small_bundle, tmp_path, free_port) as (process, url):
        headers = {"content-type": "application/json"}
        httpx.post(f"{url}/score", json=transaction(numbered))
        before = peak_kib(process.pid)
        assert httpx.post(f"{url}/score", content=b" " * 100_000_000, headers=headers).status_code == 413
        assert httpx.post(f"{url}/score", content=endless(), headers=headers).status_code == 413
        assert httpx.put(f"{url}/thresholds", content=endless(), headers=headers).status_code == 413
        assert peak_kib(process.pid) - before < 10_240
        assert httpx.post(f"{url}/score", json=transaction(numbered)).status_code == 200


def test_a_taken_port_is_reported_in_one_line(small_bundle: Path, tmp_path: Path) -> None:
    """The message says which, and which setting to change."""
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        ended = run(f"--model-dir={small_bundle}", f"--state-dir={tmp_path}", f"--port={port}")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(rf"SettingsInvalid: cannot listen on 127.0.0.1:{port}: .*TOUCHSTONE_PORT\n", ended.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "SettingsInvalid: command line: --prot is not a setting; the closest is --port"),
        (["--prot=1"], "SettingsInvalid: command line: --prot is not a setting; the closest is --port"),
        (
            ["sevre"],
            "SettingsInvalid: sevre is not a command; there are serve, check, warm, backfill, bench-model, sett",
        ),
        (["--port", "http"], "SettingsInvalid: TOUCHSTONE_PORT: "),
        (["--model-dir", "/nowhere"], "BundleInvalid: /nowhere holds no bundle"),
        (["--config", "/nowhere"], "SettingsInvalid: /nowhere"),
    ],
)
def test_what_prevents_the_start_is_said_in_one_line(arguments: list[str], message: str, free_port: int) -> None:
    """No traceback: the message is for whoever can mend it."""
    ended = run(f"--port={free_port}", *arguments)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in ended.stderr


def test_help_explains_every_setting() -> None:
    """Each flag is there with its variable and its default."""
    ended = run("--help")
    assert ended.returncode == 0
    words = " ".join(ended.stdout.split())
    for name in Settings.model_fields:
        assert f"{flag(name)} " in words
        assert f"[TOUCHSTONE_{name.upper()}, default: " in words.replace("- ", "-")


def test_the_doctor_finds_everything_in_order(small_bundle: Path, tmp_path: Path, free_port: int) -> None:
    """Each thing that was looked at has its line, and the exit status is 0."""
    ended = run("check", f"--model-dir={small_bundle}", f"--state-dir={tmp_path}", f"--port={free_port}")
    assert ended.returncode == 0, ended.stdout
    lines = ended.stdout.splitlines()
    assert [line.split("  ", 1)[0].strip() for line in lines] == ["ok"] * 8
    subjects = [line[8:].split(":")[0] for line in lines]
    assert subjects == ["runtime", "bundle", "model", "thresholds", "store", "kernel cache", "state directory", "port"]


def test_the_doctor_says_what_is_wrong_and_what_to_do(small_bundle: Path, tmp_path: Path) -> None:
    """An altered model, a state directory that is a file and a taken port are all found in one go."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in small_bundle.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    state = tmp_path / "state"
    state.write_text("")
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        ended = run("check", f"--model-dir={bundle}", f"--state-dir={state}", f"--port={port}")
    assert ended.returncode == 1
    failed = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
    assert [line[8:].split(":")[0] for line in failed] == ["bundle", "state directory", "port"]
    assert "model.onnx" in failed[0]
    assert "TOUCHSTONE_STATE_DIR" in failed[1]
    assert "TOUCHSTONE_PORT" in failed[2]


def test_the_doctor_finds_a_store_that_is_away(small_bundle: Path, tmp_path: Path, free_port: int) -> None:
    """The service would start without it, so the doctor is who tells."""
    where = [f"--model-dir={small_bundle}", f"--state-dir={tmp_path}", f"--port={free_port}"]
    ended = run("check", *where, "--store-url=redis://127.0.0.1:1")
    assert ended.returncode == 1
    assert "FAILED  store: 0 of 1 servers answer; start them, or mend TOUCHSTONE_STORE_URL" in ended.stdout


@pytest.mark.parametrize(
    ("installed", "ok"),
    [({"onnxruntime"}, True), ({"onnxruntime-gpu"}, True), ({"onnxruntime", "onnxruntime-gpu"}, False)],
)
def test_the_doctor_finds_two_runtimes_that_overwrite_each_other(installed: set[str], ok: bool) -> None:  # noqa: FBT001 - a table's column
    """Either build alone is well; both are a broken one, and the line says what to do."""
    finding = _runtime(set(installed))
    assert finding.ok is ok
    assert ok or "uninstall both" in finding.detail
