"""A contest in several processes, each playing one contender at a time into the same directory."""

from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Queue
from time import perf_counter

from training.comparison.contest import Contest, Tick, play
from training.comparison.records import Records

LOOK_SECONDS = 0.5


def play_in_processes(contest: Contest, home: Path, *, only: Collection[str], jobs: int, tick: Tick) -> None:
    """What `contest.play` does, by several processes. The results do not depend on how many.

    Each has its own copy of the examples. They are started afresh instead of forked, because the libraries' threads do
    not survive a fork.

    Args:
        contest: everybody, the rows and the rules.
        home: the directory of the records.
        only: who takes part; empty: all.
        jobs: how many processes; more than there are contenders are not used.
        tick: told how many fits are over, also those of an earlier call.

    Raises:
        DataInvalid: as `play` does; what the other processes had begun is finished first.
    """
    names = list(dict.fromkeys(config.name for _, _, config in contest.entries(only)))
    context = get_context("spawn")
    with context.Manager() as shared:
        told: Queue[int] = shared.Queue()
        with ProcessPoolExecutor(min(jobs, len(names)), context, _begin, (contest, home, told)) as pool:
            waiting = {pool.submit(_play, name) for name in names}
            while waiting:
                over, waiting = wait(waiting, timeout=LOOK_SECONDS)
                _pass_on(told, tick)
                for future in over:
                    future.result()


class _Process:
    """What a process was started with."""

    contest: Contest
    home: Path
    told: "Queue[int]"


def _begin(contest: Contest, home: Path, told: "Queue[int]") -> None:
    _Process.contest, _Process.home, _Process.told = contest, home, told


def _play(name: str) -> None:
    records = Records(_Process.home, _Process.contest.document())
    play(_Process.contest, records, only=(name,), clock=perf_counter, tick=_Process.told.put)


def _pass_on(told: "Queue[int]", tick: Tick) -> None:
    while True:
        try:
            tick(told.get_nowait())
        except Empty:
            return
