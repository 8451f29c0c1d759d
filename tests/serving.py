"""A real server for tests: the service's own app and protocol on a free port, in a thread of the test's process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.__main__ import Server, server_config
from service.api.running import Running
from service.app import create_app, open_running
from service.check import listen
from service.settings import Settings
from service.telemetry import Telemetry


@dataclass(frozen=True)
class Service:
    """A server that is ready, and a client of it."""

    port: int
    client: httpx.Client
    telemetry: Telemetry
    running: Running
    app: FastAPI

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value now; 0 if nothing moved it yet."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def serving(settings: Settings, now_ms: Callable[[], int]) -> Iterator[Service]:
    """Start a server, and stop it at the end."""
    telemetry = Telemetry(CollectorRegistry())
    app = create_app(telemetry)
    server = Server(server_config(app, settings))
    listening = listen("127.0.0.1", 0)
    port: int = listening.getsockname()[1]
    ready = threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with open_running(settings, telemetry, now_ms=now_ms) as running:
            app.state.touchstone = running
            ready.set()
            await server.serve([listening])

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - a thread's failure belongs to the test that waits for it
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Service(port, client, telemetry, app.state.touchstone, app)
    finally:
        server.should_exit = True
        thread.join()
