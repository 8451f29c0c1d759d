"""What a server's processes take of the machine, by the kernel's own accounting (Linux)."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
ENDED = {"Z", "X"}  # and nobody has asked yet how
_KERNEL_SCHED_CLOCK = 2  # CPUCLOCK_SCHED: all threads of a process, ended ones too, in nanoseconds


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that runs, as its /proc/PID/stat has it."""

    pid: int
    parent: int
    session: int


def family(pid: int) -> list[int]:
    """A process and all that descend from it and run."""
    processes = _processes()
    members, found = [pid], {pid}
    for member in members:
        children = [one.pid for one in processes if one.parent == member and one.pid not in found]
        found.update(children)
        members += children
    return members


def members_of_session(session: int) -> list[int]:
    """All processes of a session that run, also those whose parents have ended."""
    return [one.pid for one in _processes() if one.session == session]


def cpu_s(pid: int) -> float:
    """Processor time that a process and its descendants have taken, in user and kernel mode.

    What `utime` and `stime` of /proc/PID/stat say, but in nanoseconds instead of ticks of 10 ms.
    """
    return sum(_cpu_s(member) for member in family(pid))


def pss_mb(pid: int) -> float:
    """Memory of a process and its descendants; what they share counts once (proportional set size)."""
    return sum(_kilobytes(member, "smaps_rollup", "Pss") for member in family(pid)) * 1024 / 1e6


def peak_mb(pid: int) -> float:
    """The most memory that each of them has ever had in use, added up; what they share counts for each."""
    return sum(_kilobytes(member, "status", "VmHWM") for member in family(pid)) * 1024 / 1e6


def _processes() -> list[_Process]:
    found = []
    for stat in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent, _, session, *_ = (
                stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            if state not in ENDED:
                found.append(_Process(int(stat.parent.name), int(parent), int(session)))
    return found


def _cpu_s(pid: int) -> float:
    """See clock_getcpuclockid(3), whose answer this is."""
    try:
        return time.clock_gettime((~pid << 3) | _KERNEL_SCHED_CLOCK)
    except OSError:  # it has just ended
        return 0.0


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        text = (PROC / str(pid) / file).read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return 0
    found = re.search(rf"^{name}:\s+([0-9]+) kB$", text, flags=re.MULTILINE)
    return int(found[1]) if found else 0
