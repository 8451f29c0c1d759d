"""What a contest leaves behind: a directory that says what was run, and takes up where it was left.

contest.json     what the results depend on: data, settings of each contender, search, versions of the libraries
trials.jsonl     each trial of a search, as it ended
runs.jsonl       each fit that was judged on a test fold, as it ended
scores/<fold>/   labels.npy, and the log-odds (float32) that each run gave the same rows
"""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import DataInvalid
from training.comparison.config import Prevalence
from training.journal import append_line, read_lines

LIBRARIES = ("catboost", "lightgbm", "numpy", "optuna", "scikit-learn", "torch", "xgboost-cpu")

Json: TypeAlias = "str | float | bool | list[Json] | dict[str, Json] | None"
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class _Record(BaseModel):
    """One line of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Record):
    """One attempt of a search: settings, and how good they were on the validation folds.

    Attributes:
        contender: whose.
        fit_days: length of the fit.
        prevalence: share of fraud among the fit rows.
        number: from 0, which is the defaults.
        choice: the settings.
        steps: epochs or rounds at which the mean over folds was best.
        average_precision: that mean.
        seconds: what it took.
    """

    contender: str
    fit_days: float
    prevalence: Prevalence
    number: int
    choice: dict[str, int | float | str | None]
    steps: int
    average_precision: float
    seconds: float


class RunKey(_Record):
    """Which run it is; two runs of one contest differ in this."""

    contender: str
    fit_days: float
    prevalence: Prevalence
    fold: str
    seed: int

    @property
    def file(self) -> str:
        """Where its scores are, under `scores`."""
        return f"{self.fold}/{self.contender}.{self.fit_days:g}d.{self.prevalence}.{self.seed}.npy"


class Run(_Record):
    """One fit with the settings that were best in the search, judged on a test fold.

    Attributes:
        key: which.
        steps: epochs or rounds.
        choice: the settings.
        rows: fit rows.
        frauds: of them.
        figures: by name, of the test rows.
        fit_seconds: what the fit took.
        seconds: what all of it took.
    """

    key: RunKey
    steps: int
    choice: dict[str, int | float | str | None]
    rows: int
    frauds: int
    figures: dict[str, float]
    fit_seconds: float
    seconds: float


_RecordType = TypeVar("_RecordType", Trial, Run)


class Records:
    """The directory of one contest. Lines are only ever appended, so that another process may append its own."""

    def __init__(self, home: Path, contest: Mapping[str, Json]) -> None:
        """Begin, or continue what the same contest has begun here.

        Args:
            home: the directory; made where there is none.
            contest: what the results depend on. Contenders may be added to an earlier contest, under `contenders`.

        Raises:
            DataInvalid: the directory holds another contest; the message says what differs.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._agree(contest)
        self.trials = list(_read(home / "trials.jsonl", Trial))
        self.runs = list(_read(home / "runs.jsonl", Run))

    def add_trial(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        append_line(self.home / "trials.jsonl", trial.model_dump_json())

    def add_run(self, run: Run, log_odds: Floats, labels: Mask) -> None:
        """Keep a run: its scores first, so that a line is never without them."""
        file = self.home / "scores" / run.key.file
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file.with_name("labels.npy"), labels)
        np.save(file, log_odds)
        self.runs.append(run)
        append_line(self.home / "runs.jsonl", run.model_dump_json())

    def _agree(self, contest: Mapping[str, Json]) -> None:
        file = self.home / "contest.json"
        now = dict(contest)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            known, named = before["contenders"], now["contenders"]
            assert isinstance(named, dict), named
            differing = _differences(
                before | {"contenders": {name: known[name] for name in named if name in known}},
                now | {"contenders": {name: named[name] for name in named if name in known}},
            )
            if differing:
                raise DataInvalid(
                    f"{self.home} holds another contest: {'; '.join(differing)}. Use another --out, or what it was"
                )
            now["contenders"] = known | named
        file.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def library_versions() -> dict[str, Json]:
    """What the results depend on beside us."""
    return {name: version(name) for name in LIBRARIES}


def _read(file: Path, record: type[_RecordType]) -> Iterator[_RecordType]:
    for number, line in enumerate(read_lines(file), start=1):
        try:
            yield record.model_validate_json(line)
        except ValidationError as error:
            raise DataInvalid(f"{file}, line {number}: {error.errors()[0]['msg']}") from error


def _differences(before: Json, now: Json, path: str = "") -> list[str]:
    """Where two documents differ: the path, and what each of them says there."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        found = [_differences(before.get(name), now.get(name), f"{path}.{name}" if path else name) for name in names]
        return [each for some in found for each in some]
    return [] if before == now else [f"{path} was {json.dumps(before)} and is {json.dumps(now)}"]
