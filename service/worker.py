"""One worker: a process that answers for a supervisor, on a port that it shares with others."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict

from service.background import repeat, run_behind
from service.board import Board
from service.errors import TouchstoneError
from service.logs import configure_logging
from service.server import serve
from service.settings import Settings
from service.telemetry import Telemetry

READY = b"ready\n"
POST_SECONDS = 1.0  # between posts of metrics: what a worker counted since the last is lost if it is killed


class Order(BaseModel):
    """What a supervisor wants of a worker."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    settings: Settings
    """To serve with."""

    place: int
    """Among the workers of the service, from 0."""

    boards: Path
    """The directory in which all of them post their metrics."""

    replaces: bool
    """Whether the last worker in this place died."""


def main(descriptor: int) -> int:
    """Read the order, one line of standard input, and work until SIGTERM or until the supervisor is gone.

    Args:
        descriptor: of the listening socket.

    Returns the exit status: 0, or 1 with a line on standard error that says why it cannot serve.
    """
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    configure_logging(order.settings.log_level, sys.stderr)
    supervisor = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output says one thing only
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(order, socket.socket(fileno=descriptor), partial(os.write, supervisor, READY)))
    except TouchstoneError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


async def _work(order: Order, listening: socket.socket, say_ready: Callable[[], object]) -> None:
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _end_with_the_supervisor)
    telemetry = Telemetry(CollectorRegistry(), Board(order.boards, order.place))
    if order.replaces:
        telemetry.observe_restart()

    def on_ready() -> None:
        telemetry.post()
        say_ready()

    posting = run_behind(repeat(_posting(telemetry), pause_s=POST_SECONDS))
    try:
        await serve(order.settings, listening, telemetry, on_ready)
    finally:
        posting.cancel()
        telemetry.post()


def _posting(telemetry: Telemetry) -> Callable[[], Awaitable[None]]:
    async def post() -> None:
        telemetry.post()

    return post


def _end_with_the_supervisor() -> None:
    """It holds the other end of our standard input, and says no more; so it died."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
