"""The supervisor: starts the workers that share a port, replaces one that dies, and ends them all."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from service.app import bundle_directory, open_thresholds
from service.board import bury
from service.bundle import Bundle
from service.errors import SettingsInvalid
from service.settings import Settings
from service.worker import READY, Order

MOST_DRAIN_SECONDS = 54.0  # then a worker is killed: 20 for requests, the rest to hand over; Kubernetes kills after 55

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def settled(settings: Settings) -> Settings:
    """The settings of every worker, checked before one is started: they all serve the bundle that is found now.

    Raises:
        TouchstoneError: none of them could serve.
    """
    bundle = Bundle.load(bundle_directory(settings.model_dir))
    open_thresholds(settings, bundle)
    return settings.model_copy(update={"model_dir": bundle.path})


def supervise(settings: Settings, listening: socket.socket, on_ready: Callable[[], None]) -> int:
    """Run workers until SIGTERM or SIGINT, then let them finish.

    Args:
        settings: see `settled`.
        listening: accepts connections; every worker takes them from it.
        on_ready: called once all workers can answer.

    Returns the exit status: 0, or 1 if a worker could not start or did not end in order.

    Raises:
        SettingsInvalid: there is no room for what they tell each other.
    """
    try:
        boards = TemporaryDirectory(prefix="touchstone-")
    except OSError as error:
        raise SettingsInvalid(f"several workers need a directory for temporary files; set TMPDIR ({error})") from error
    with listening, boards as directory:
        return asyncio.run(_Supervisor(settings, listening, Path(directory), on_ready).run())


class _Supervisor:
    """Keeps a worker in each place.

    uvicorn has one too. But it asks each worker in turn whether it lives and waits for the answer, so that one which is
    still loading would hold up a SIGTERM, or be killed for it; and its workers survive its own death.
    """

    def __init__(
        self, settings: Settings, listening: socket.socket, boards: Path, on_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._boards = boards
        self._on_ready = on_ready
        self._workers: set[Process] = set()
        self._loading = settings.workers  # places whose first worker is not ready yet
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Until told to stop; see `supervise`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        async with asyncio.TaskGroup() as places:
            for place in range(self._settings.workers):
                places.create_task(self._keep(place))
        return self._status

    async def _keep(self, place: int) -> None:
        """Have a worker in this place until it is time to stop.

        One that ends before it was ready has no successor: it would fare no better.
        """
        replaces = False
        while not self._stopping.is_set():
            worker = await self._start(
                Order(settings=self._settings, place=place, boards=self._boards, replaces=replaces)
            )
            ready = await _says_ready(worker)
            if ready and not replaces:
                self._count_ready()
            status = await worker.wait()
            self._workers.discard(worker)
            bury(self._boards, place)
            if self._stopping.is_set():
                self._status |= status not in {0, -signal.SIGTERM}  # the latter before it began to listen
            else:
                _log.error("worker_died", pid=worker.pid, exit_status=status, was_ready=ready)
                if not ready:
                    self._status = 1
                    self._stop()
            replaces = True

    async def _start(self, order: Order) -> Process:
        """A new worker; in a process group of its own, because at a terminal Ctrl-C is for us alone."""
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.worker", str(self._listening.fileno())),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=[self._listening.fileno()],
            process_group=0,
        )
        assert worker.stdin is not None
        worker.stdin.write(order.model_dump_json().encode() + b"\n")
        self._workers.add(worker)
        if self._stopping.is_set():  # it was told to all others while this one was being started
            worker.terminate()
        return worker

    def _count_ready(self) -> None:
        self._loading -= 1
        if self._loading == 0 and not self._stopping.is_set():
            self._on_ready()

    def _signalled(self, number: signal.Signals) -> None:
        """Stop; at a second Ctrl-C let the workers stop waiting for requests in flight."""
        if not self._stopping.is_set():
            self._stop()
        elif number == signal.SIGINT:
            self._tell(signal.SIGINT)

    def _stop(self) -> None:
        self._stopping.set()
        self._listening.close()  # or the kernel would go on to accept connections, which nobody takes
        self._tell(signal.SIGTERM)
        asyncio.get_running_loop().call_later(MOST_DRAIN_SECONDS, self._tell, signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):  # it has ended just now
                worker.send_signal(number)


async def _says_ready(worker: Process) -> bool:
    """Whether it became ready before it ended."""
    assert worker.stdout is not None
    return await worker.stdout.readline() == READY
