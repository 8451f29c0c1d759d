"""A real server for tests: the service's own app, protocol and event loop on a free port, in a thread of the test's."""

import asyncio
import threading
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import httpx
import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.api.running import Running
from service.app import create_app, open_running
from service.batching import Batcher
from service.check import listen
from service.errors import IdempotencyConflict
from service.scorer import Answer, ScoreRequest
from service.server import Server, server_config
from service.settings import Settings
from service.telemetry import Telemetry

Scored: TypeAlias = list[Answer | IdempotencyConflict]


@dataclass(frozen=True)
class Service:
    """A server that is ready, and a client of it."""

    port: int
    client: httpx.Client
    telemetry: Telemetry
    running: Running
    app: FastAPI
    server: Server
    loop: AbstractEventLoop

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value now; 0 if nothing moved it yet."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0

    @contextmanager
    def using(self, parts: Running | None) -> Iterator[None]:
        """For a while answer with other parts; with None as before it was ready."""
        before = self.app.state.touchstone
        self.app.state.touchstone = parts
        try:
            yield
        finally:
            self.app.state.touchstone = before

    @contextmanager
    def held(self, *, most_waiting: int = 1_000) -> Iterator["Held"]:
        """For a while score nothing until that is let go, and then at the latest."""
        held = Held(self.running.scorer.score, self.loop)
        batcher = Batcher(held.score, overflow=self.running.scorer.decide_at_once, most_waiting=most_waiting)
        with self.using(replace(self.running, waiting=batcher)):
            try:
                yield held
            finally:
                held.let_go()


class Held:
    """Scores what it is given once it is let go."""

    def __init__(self, score: Callable[[Sequence[ScoreRequest]], Awaitable[Scored]], loop: AbstractEventLoop) -> None:
        self.taken = 0  # requests that wait to be let go
        self._score = score
        self._loop = loop
        self._open = asyncio.Event()

    async def score(self, requests: Sequence[ScoreRequest]) -> Scored:
        """A batch's answers, when it is time."""
        self.taken += len(requests)
        await self._open.wait()
        return await self._score(requests)

    def let_go(self) -> None:
        """From now on score at once."""
        self._loop.call_soon_threadsafe(self._open.set)


def as_it_is(_config: uvicorn.Config) -> None:
    """Change nothing about how the server is configured."""


@contextmanager
def serving(
    settings: Settings, now_ms: Callable[[], int], *, adjust: Callable[[uvicorn.Config], None] = as_it_is
) -> Iterator[Service]:
    """Start a server, and stop it at the end.

    Args:
        settings: of the service.
        now_ms: the clock of arrivals.
        adjust: changes how the server is configured, such as its patience.
    """
    telemetry = Telemetry(CollectorRegistry())
    app = create_app(telemetry)
    config = server_config(app, settings)
    adjust(config)
    server = Server(config)
    listening = listen("127.0.0.1", 0)
    port: int = listening.getsockname()[1]
    ready = threading.Event()
    failures: list[BaseException] = []
    loops: list[AbstractEventLoop] = []

    async def serve() -> None:
        async with open_running(settings, telemetry, now_ms=now_ms) as running:
            app.state.touchstone = running
            loops.append(asyncio.get_running_loop())
            ready.set()
            await server.serve([listening])

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
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
            yield Service(port, client, telemetry, app.state.touchstone, app, server, loops[0])
    finally:
        server.should_exit = True
        thread.join()
