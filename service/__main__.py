"""The command `python -m service`: serve, and what an operator does before that."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from service.app import bundle_directory, epoch_ms, open_running, open_shared_store
from service.backfill import backfill, read_history
from service.bench_model import bench_model
from service.bundle import Bundle
from service.check import check, listen
from service.errors import DataInvalid, SettingsInvalid, TouchstoneError
from service.layout import Layout
from service.logs import configure_logging
from service.server import serve
from service.settings import (
    Settings,
    default_text,
    environment_variable,
    flag,
    read_settings,
    require_flag,
    settings_markdown,
)
from service.supervisor import settled, supervise
from service.telemetry import Telemetry

COMMANDS = {
    "serve": "answer requests (if nothing is said)",
    "check": "find out whether it could, and what to do",
    "warm": "compile the kernel into its cache and prove the bundle, then end: for building an image",
    "backfill": "bring past transactions (--history FILE) into the store, for the spec of --model-dir",
    "bench-model": "time the model by batch, provider and threads, and say which to choose",
    "settings": "print the page docs/configuration.md",
}

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
        if command == "bench-model":
            sys.stdout.write(bench_model(settings))
            return 0
        if command == "warm":
            asyncio.run(warm(settings))
            return 0
        if command == "backfill":
            sys.stdout.write(asyncio.run(fill(settings, history)))
            return 0
        return _serve(settings)
    except TouchstoneError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1


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


def _serve(settings: Settings) -> int:
    """In this process, or in several that it looks after. Returns the exit status."""
    announce = partial(_announce, settings)
    if settings.workers > 1:
        settings = settled(settings)
        status = supervise(settings, _listen(settings), announce)
    else:
        telemetry = Telemetry(CollectorRegistry())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, _listen(settings), telemetry, announce))
        status = 0
    log.info("service_stopped")
    return status


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
    log.info("service_started", host=settings.host, port=settings.port, workers=settings.workers)


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
