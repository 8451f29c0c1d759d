"""What a started service consists of, and how an endpoint gets at it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import State
from starlette.types import Scope

from service.api.admission import Admission
from service.api.problems import Problems
from service.batching import Batcher
from service.bundle import Bundle
from service.model import OnnxModel
from service.reporter import Reporter
from service.scorer import Answer, Scorer, ScoreRequest
from service.security import ApiKeys
from service.settings import Settings
from service.telemetry import Telemetry
from service.threshold_store import ThresholdStore


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of one process, opened by `service.app.open_running`."""

    settings: Settings
    keys: ApiKeys | None  # None: everybody may send requests
    telemetry: Telemetry
    bundle: Bundle
    model: OnnxModel
    thresholds: ThresholdStore
    scorer: Scorer
    waiting: Batcher[ScoreRequest, Answer]  # lone requests, to be scored together
    bulk: Batcher[ScoreRequest, Answer]  # items of arrays, to be scored without keeping these waiting
    reporter: Reporter
    now_ms: Callable[[], int]


class AppState(State):
    """What the app holds, in attributes of its own: starlette's are found in a dict after they were missed here.

    Attributes:
        touchstone: the parts, once they are open.
        admission: of every request.
        problems: what goes wrong, in words.
    """

    touchstone: Running | None
    admission: Admission
    problems: Problems

    __setattr__ = object.__setattr__  # type: ignore[assignment] # it says Any of a name, too


def running(scope: Scope) -> Running:
    """The parts behind a request; `Guard` lets none through before they are there."""
    parts: Running = scope["app"].state.touchstone
    return parts


def _running(request: Request) -> Running:
    return running(request.scope)


Parts = Annotated[Running, Depends(_running)]
