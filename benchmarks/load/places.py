"""Which processor cores run what, so that a server under load shares its core with nothing that is measured beside it.

With two cores Redis shares that of the load generator: the server's own figures are what is compared, and a generator
and a Redis at full load together take less than a core. From four cores on Redis has one to itself.
"""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass

OWN_FOR_REDIS = 4  # cores from which on Redis needs to share with nobody


@dataclass(frozen=True, slots=True)
class Places:
    """Cores by who may use them.

    Attributes:
        generator: of what sends requests; None where there is no choice.
        servers: of the server under load, as many as there may be workers; none where there is no choice.
        redis: of Redis; None where there is no choice.
    """

    generator: int | None
    servers: tuple[int, ...]
    redis: int | None

    def describe(self) -> str:
        """One line for the page."""
        if self.generator is None:
            return "there is only one core, or none can be chosen: everything shares what there is"
        shared = ", Redis with the generator" if self.redis == self.generator else ", Redis on one more"
        return f"a server has core {self.servers[0]} to itself, the load generator has another one{shared}"


def choose_places() -> Places:
    """Share out the cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cores) < 2:  # noqa: PLR2004 - one for each side
        return Places(None, (), None)
    if len(cores) < OWN_FOR_REDIS:
        return Places(cores[0], (cores[1],), cores[0])
    return Places(cores[0], (cores[1], cores[2]), cores[3])


def pin_to(pid: int, cores: tuple[int, ...]) -> None:
    """Keep a process, and those it starts from now on, to some cores; none: leave it alone."""
    if cores and sys.platform == "linux":
        with suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cores)
