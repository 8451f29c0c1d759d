"""Counts instructions by callgrind: the same number for the same code, whatever else the machine is doing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory
from typing import NamedTuple

import orjson

from benchmarks.instructions.workload import REPEATS, TOGETHER

BASELINE = Path(__file__).with_name("baseline.json")
MOST_GROWTH = 0.10  # beyond that it costs, not chance
PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 1_200.0
DUMPS_PER_JOB = 4  # before and in the shorter round, before and in the longer one
_LIBRARIES = ("numba", "numpy", "msgspec", "pydantic")
_TOTAL = re.compile(r"^(?:totals|summary): ([0-9]+)", re.MULTILINE)


class CountingFailed(Exception):
    """There is no valgrind, or what it ran failed."""


class Finding(NamedTuple):
    """What became of one figure.

    Attributes:
        name: of the job.
        before: instructions for a request, as recorded.
        now: as counted.
    """

    name: str
    before: float
    now: float

    @property
    def growth(self) -> float:
        """0.1 is a tenth more."""
        return self.now / self.before - 1

    def __str__(self) -> str:
        verdict = (
            "costs more"
            if self.growth > MOST_GROWTH
            else "costs less: record it"
            if self.growth < -MOST_GROWTH
            else "as before"
        )
        return f"{self.name:28} {self.before:10,.0f} {self.now:10,.0f} {self.growth:+7.1%}  {verdict}"


def count() -> dict[str, float]:
    """Instructions for one request, by job.

    A job is done so often and then twice as often: the difference is the job, without what surrounds it.

    Raises:
        CountingFailed: there is no valgrind, or what it ran failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CountingFailed("valgrind is not installed (Debian: apt-get install valgrind)")
    _do_jobs([])  # so that the kernel is compiled: under callgrind it takes minutes, if it was not
    with TemporaryDirectory() as directory:
        out = Path(directory) / "counted"
        names = _do_jobs([valgrind, "--tool=callgrind", "--dump-before=getloadavg", f"--callgrind-out-file={out}"])
        totals = [_total(out.with_name(f"{out.name}.{number + 1}")) for number in range(DUMPS_PER_JOB * len(names))]
    rounds = zip(totals[1::DUMPS_PER_JOB], totals[3::DUMPS_PER_JOB], strict=True)
    return {name: (more - less) / REPEATS / TOGETHER for name, (less, more) in zip(names, rounds, strict=True)}


def _do_jobs(under: Sequence[str]) -> list[str]:
    """Do all jobs in a process of their own, run by another program. Returns their names."""
    done = subprocess.run(  # noqa: S603 - our own workload
        [*under, sys.executable, "-m", "benchmarks.instructions.workload"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise CountingFailed(done.stderr[-2_000:])
    return done.stdout.split("\n")


def record(counts: Mapping[str, float]) -> None:
    """Make these figures the ones to compare with."""
    document = {"counted_with": counted_with(), "instructions": {name: round(each) for name, each in counts.items()}}
    BASELINE.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def compare(counts: Mapping[str, float], recorded: Mapping[str, float]) -> list[Finding]:
    """Each figure beside the recorded one.

    Raises:
        CountingFailed: they are not of the same jobs.
    """
    if counts.keys() != recorded.keys():
        raise CountingFailed(f"recorded are {', '.join(recorded)}; counted were {', '.join(counts)}: record anew")
    return [Finding(name, recorded[name], now) for name, now in counts.items()]


def recorded() -> tuple[dict[str, float], dict[str, str]]:
    """The recorded figures, and what they were counted with."""
    document = orjson.loads(BASELINE.read_bytes())
    return document["instructions"], document["counted_with"]


def counted_with() -> dict[str, str]:
    """The versions on which instructions depend, to the minor one."""
    versions = {"python": python_version(), **{name: version(name) for name in _LIBRARIES}}
    return {name: ".".join(number.split(".")[:2]) for name, number in versions.items()}


def _total(dump: Path) -> int:
    found = _TOTAL.search(dump.read_text())
    assert found, dump
    return int(found[1])
