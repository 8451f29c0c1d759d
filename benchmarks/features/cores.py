"""Which processor core runs what: those who are compared take turns on one, Redis has another."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """A core for those who ask and one for the server that answers; None where there is no choice."""

    client: int | None
    server: int | None


def choose_cores() -> Cores:
    """The first two that this process may use."""
    if sys.platform != "linux":
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1]) if len(allowed) > 1 else Cores(None, None)


def pin(pid: int, core: int | None) -> None:
    """Keep a process to one core from now on; one that has ended already does not matter."""
    if core is not None and sys.platform == "linux":
        with suppress(ProcessLookupError):
            os.sched_setaffinity(pid, {core})


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this process to one core meanwhile."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    pin(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
