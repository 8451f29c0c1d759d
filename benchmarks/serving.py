"""A service in a process of its own, as it runs in production, for as long as something is measured."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

STOP_SECONDS = 30.0
PROJECT = Path(__file__).resolve().parent.parent


class ServiceFailed(Exception):
    """The service did not start, or did not stop as it should."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """That of this process, without settings of a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTONE_")}


@contextmanager
def running_service(*, port: int, model_dir: Path | None = None) -> Iterator[Address]:
    """Start the service with default settings and an empty store; stop it at the end.

    Args:
        port: a free one.
        model_dir: the bundle to serve, or None for the shipped one.

    Raises:
        ServiceFailed: it did not become ready, or ended with an error.
    """
    with TemporaryDirectory() as state:
        command = [sys.executable, "-m", "service", "--port", str(port), "--state-dir", state]
        command += ["--model-dir", str(model_dir)] if model_dir else []
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
            command, cwd=PROJECT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield _address(process)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=STOP_SECONDS)
    if process.returncode != 0:
        raise ServiceFailed(f"the service ended with {process.returncode}:\n{log}")


def _address(process: "subprocess.Popen[str]") -> Address:
    """Wait for the line that says where it is ready; the pipe closes if the process ends before."""
    assert process.stdout is not None, "started with a pipe"
    found = re.search(r"http://([0-9.]+):([0-9]+)", process.stdout.readline())
    if found is None:
        _, log = process.communicate(timeout=STOP_SECONDS)
        raise ServiceFailed(f"the service did not start:\n{log}")
    return Address(found[1], int(found[2]))
