"""The server: one process that answers until it is told to stop."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app, open_running
from service.background import repeat, run_behind
from service.lane import protocol_of
from service.settings import Settings
from service.telemetry import Telemetry

KEEP_ALIVE_SECONDS = 75  # longer than the idle time of common client pools, so that they close first
DRAIN_SECONDS = 20  # for requests in flight; Kubernetes kills after 60, of which 5 are for its own pause
# Between collections: what a request leaves is freed by counting references, hardly anything of it is a cycle. Python's
# own 700 is reached every other request; looking through what is in flight takes 5 % of the time.
YOUNG_OBJECTS = (50_000, 20, 20)
REFRESH_SECONDS = 1.0  # between looks at what other processes published


async def serve(
    settings: Settings, listening: socket.socket, telemetry: Telemetry, on_ready: Callable[[], object]
) -> None:
    """Answer until SIGTERM or SIGINT, then let requests in flight finish.

    The process is alive (`/health/live`) while it still loads; what fails then ends it.

    Args:
        settings: of this process.
        listening: accepts connections, perhaps for other processes too; closed at the end.
        telemetry: of this process.
        on_ready: called once it can answer.

    Raises:
        TouchstoneError: why it cannot serve.
    """
    app = create_app(telemetry)
    server = Server(server_config(app, settings))
    serving = asyncio.create_task(server.serve([listening]))
    try:
        async with open_running(settings, telemetry) as running:
            app.state.touchstone = running
            telemetry.show_kernel_ready()
            # What was imported and built so far stays until the end: a full collection would walk all of it, some
            # 100 ms in which nobody is answered.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*YOUNG_OBJECTS)
            # In a thread, because the state directory may be on a network's disk.
            refresh = partial(asyncio.to_thread, running.thresholds.refresh)
            refreshing = run_behind(repeat(refresh, pause_s=REFRESH_SECONDS))
            try:
                if not server.should_exit:
                    on_ready()
                await serving
            finally:
                refreshing.cancel()
    finally:
        server.should_exit = True
        await serving


class Server(uvicorn.Server):
    """A server that ends when it is told to; uvicorn's own kills its process with the signal once more."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Stop taking requests; at a second Ctrl-C stop waiting for those in flight."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves: without access log, forwarded headers and a name, and with our protocol."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_of(app, fast_lane=settings.fast_lane == "auto"),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
