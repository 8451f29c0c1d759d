"""The doctor: finds out before the start whether everything the service needs is there, and says what to do."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.app import bundle_directory, open_store, open_thresholds
from service.bundle import Bundle
from service.errors import TouchstoneError
from service.features.compiled import cache_directory
from service.model import OnnxModel, available_providers
from service.settings import MEMORY, Settings
from service.stores.base import StoreStatus

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    ok: bool
    detail: str  # what was found; where it failed, what to do

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'FAILED':6}  {self.subject}: {self.detail}"


def check(settings: Settings) -> Iterator[Finding]:
    """Look at everything, in the order of the start."""
    yield _runtime({name for name in RUNTIMES if _installed(name)})
    yield from _bundle(settings)
    yield _kernel_cache(cache_directory())
    yield _state_directory(settings.state_dir)
    yield _port(settings.host, settings.port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    Raises:
        OSError: the address is not ours, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=2048)
    # Inherited by what it accepts. asyncio would leave it off for a socket without a named protocol, and each answer
    # in two parts would then wait 40 ms for the client's delayed acknowledgement; uvloop sets it anyway.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _bundle(settings: Settings) -> Iterator[Finding]:
    """Bundle, model, thresholds and store; the first that fails is the last that is looked at."""
    subject = "bundle"
    try:
        bundle = Bundle.load(bundle_directory(settings.model_dir))
        yield Finding(subject, ok=True, detail=f"{bundle.path}, every digest is right")
        subject = "model"
        model = OnnxModel.load(bundle, provider=settings.provider, threads=settings.inference_threads or 1)
        rows = len(bundle.golden.logit)
        yield Finding(subject, ok=True, detail=f"{rows} golden rows come out as in training, on {model.provider}")
        subject = "thresholds"
        current = open_thresholds(settings, bundle).current
        yield Finding(subject, ok=True, detail=f"version {current.number}, from {current.source}")
        subject = "store"
        yield _store(settings, asyncio.run(_status(settings, bundle)))
    except TouchstoneError as error:
        yield Finding(subject, ok=False, detail=str(error))


def _store(settings: Settings, status: StoreStatus) -> Finding:
    if settings.store_url == MEMORY:
        return Finding("store", ok=True, detail="this process; gone when it ends")
    found = f"{status.links_up} of {status.links} servers answer"
    if 0 < status.links == status.links_up:
        return Finding("store", ok=True, detail=found)
    return Finding("store", ok=False, detail=f"{found}; start them, or mend TOUCHSTONE_STORE_URL")


async def _status(settings: Settings, bundle: Bundle) -> StoreStatus:
    store = await open_store(settings, bundle)
    try:
        return store.status()
    finally:
        await store.close()


def _runtime(installed: set[str]) -> Finding:
    """The CPU and GPU builds are one Python package under two names; of both, the one installed last is half there."""
    if len(installed) == 1:
        return Finding("runtime", ok=True, detail=f"{installed.pop()}, with {', '.join(available_providers())}")
    found = " and ".join(sorted(installed)) or "neither build"
    advice = "uninstall both, then install the one you want"
    return Finding("runtime", ok=False, detail=f"{found} of onnxruntime installed; {advice}")


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _kernel_cache(directory: Path) -> Finding:
    subject = "kernel cache"
    if any(directory.glob("*.nbi")):
        return Finding(subject, ok=True, detail=f"{directory} holds compiled code")
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if os.access(existing, os.W_OK):
        return Finding(subject, ok=True, detail=f"{directory} is empty: the first start compiles for some seconds")
    advice = "start once where it can be written, or every start compiles for some seconds"
    return Finding(subject, ok=False, detail=f"{directory} is empty and cannot be written; {advice}")


def _state_directory(directory: Path) -> Finding:
    subject = "state directory"
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(subject, ok=True, detail=f"{directory} can be written")
    return Finding(
        subject, ok=False, detail=f"{existing} cannot be written; set TOUCHSTONE_STATE_DIR to a directory that can"
    )


def _port(host: str, port: int) -> Finding:
    try:
        listen(host, port).close()
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        return Finding("port", ok=False, detail=f"{host}:{port} {reason}; set TOUCHSTONE_PORT or TOUCHSTONE_HOST")
    return Finding("port", ok=True, detail=f"{host}:{port} is free")
