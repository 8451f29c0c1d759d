"""The command `python -m service`: serve, and what an operator does before that."""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from service.app import bundle_directory, create_app, epoch_ms, open_running, open_shared_store
from service.backfill import backfill, read_history
from service.bundle import Bundle
from service.check import check, listen
from service.errors import DataInvalid, SettingsInvalid, TouchstoneError
from service.layout import Layout
from service.logs import configure_logging
from service.protocol import GuardedProtocol
from service.settings import (
    Settings,
    default_text,
    environment_variable,
    flag,
    read_settings,
    require_flag,
    settings_markdown,
)
from service.telemetry import Telemetry

COMMANDS = {
    "serve": "answer requests (if nothing is said)",
    "check": "find out whether it could, and what to do",
    "warm": "compile the kernel into its cache and prove the bundle, then end: for building an image",
    "backfill": "bring past transactions (--history FILE) into the store, for the spec of --model-dir",
    "settings": "print the page docs/configuration.md",
}
KEEP_ALIVE_SECONDS = 75  # longer than the idle time of common client pools, so that they close first
DRAIN_SECONDS = 20  # for requests in flight; Kubernetes kills after 30

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status: 0, or 1 with a line on standard error that says why."""
    known, unknown = _parser().parse_known_args(arguments)
    options = vars(known)
    command, config, history = options.pop("command"), options.pop("config"), options.pop("history")
    try:
        for text in unknown:
            require_flag(text)
        if command not in COMMANDS:
            raise SettingsInvalid(f"{command} is not a command; there are {', '.join(COMMANDS)}")
        if command == "settings":
            sys.stdout.write(settings_markdown())
            return 0
        settings = read_settings({name: value for name, value in options.items() if value}, os.environ, config)
        configure_logging(settings.log_level, sys.stderr)
        if command == "check":
            return _report(settings)
        if command == "warm":
            asyncio.run(warm(settings))
            return 0
        if command == "backfill":
            sys.stdout.write(asyncio.run(fill(settings, history)))
            return 0
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except TouchstoneError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


async def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then let requests in flight finish.

    The process is alive (`/health/live`) while it still loads; what fails then ends it.

    Raises:
        TouchstoneError: why it cannot serve.
    """
    telemetry = Telemetry(CollectorRegistry())
    app = create_app(telemetry)
    server = Server(server_config(app, settings))
    serving = asyncio.create_task(server.serve([_listen(settings)]))
    try:
        async with open_running(settings, telemetry) as running:
            app.state.touchstone = running
            telemetry.show_kernel_ready()
            # What was imported and built so far stays until the end: a full collection would walk all of it, some
            # 100 ms in which nobody is answered.
            gc.collect()
            gc.freeze()
            if not server.should_exit:
                _announce(settings)
            await serving
    finally:
        server.should_exit = True
        await serving
    log.info("service_stopped")


async def warm(settings: Settings) -> None:
    """Open everything once and close it: compiles the kernel into its cache, so that an image starts at once.

    Raises:
        TouchstoneError: why it cannot serve.
    """
    async with open_running(settings, Telemetry(CollectorRegistry())):
        log.info("service_warmed")


async def fill(settings: Settings, path: Path | None) -> str:
    """Bring a past into the store. Returns what became of it, as text.

    Raises:
        TouchstoneError: the past cannot be read, or the store takes none.
    """
    if path is None:
        raise SettingsInvalid("backfill needs --history FILE: one transaction or outcome per line, as JSON")
    bundle = Bundle.load(bundle_directory(settings.model_dir))
    try:
        with path.open("rb") as lines:
            history = read_history(lines, bundle.currencies, now_ms=epoch_ms())
    except OSError as error:
        raise DataInvalid(f"{path}: {error.strerror}") from error
    store = await open_shared_store(settings, bundle)
    try:
        done = await backfill(store, Layout(bundle.plan), history)
    finally:
        await store.close()
    return (
        f"{done.events} events: {done.seeded} logs begin with their past now, {done.complete} had all of it, "
        f"{done.unjoined} could not be joined to it; {done.dossiers} transactions with outcomes\n"
    )


class Server(uvicorn.Server):
    """A server that ends when it is told to; uvicorn's own kills its process with the signal once more."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Stop taking requests; at a second Ctrl-C stop waiting for those in flight."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def server_config(app: object, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves: without access log, forwarded headers and a name, and with our protocol."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type] # uvicorn spells out ASGI's types in its own way
        host=settings.host,
        port=settings.port,
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def _listen(settings: Settings) -> socket.socket:
    try:
        return listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise SettingsInvalid(f"cannot listen on {where}: {error.strerror}; set TOUCHSTONE_PORT") from error


def _announce(settings: Settings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    sys.stdout.write(f"Touchstone is ready at http://{host}:{settings.port} (try /docs)\n")
    sys.stdout.flush()
    log.info("service_started", host=settings.host, port=settings.port)


def _report(settings: Settings) -> int:
    findings = []
    for finding in check(settings):
        findings.append(finding)
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
    return 0 if all(finding.ok for finding in findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Touchstone: real-time fraud scoring for payments.",
        allow_abbrev=False,
        epilog="Each setting can also stand in the environment, or in the file named by --config.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        help="; ".join(f"{name}: {purpose}" for name, purpose in COMMANDS.items()),
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--history", type=Path, metavar="FILE", help="of backfill: JSON lines, see docs/operations.md")
    for name, field in Settings.model_fields.items():
        words = " ".join((field.description or "").split()).replace("%", "%%")
        parser.add_argument(
            flag(name),
            metavar=name.split("_")[-1].upper(),
            help=f"{words} [{environment_variable(name)}, default: {default_text(field)}]",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
