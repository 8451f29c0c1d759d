"""Background tasks: what runs behind the answers, and is heard of when it fails."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def run_behind(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
    """Start a task that nobody awaits; what it raises is logged. The caller keeps the task, or it may vanish."""
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_tell)
    return task


async def repeat(work: Callable[[], Awaitable[object]], *, pause_s: float) -> None:
    """Do something for ever; what it raises once is logged, and it is tried again."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - it is told, and what is to be done for ever goes on
            _log.exception("background_task_failed")
        await asyncio.sleep(pause_s)


def _tell(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_task_failed", exc_info=error)
