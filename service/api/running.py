"""What a started service consists of, and how an endpoint gets at it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

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


def running(scope: Scope) -> Running:
    """The parts behind a request; `Guard` lets none through before they are there."""
    parts: Running = scope["app"].state.touchstone
    return parts


def _running(request: Request) -> Running:
    return running(request.scope)


Parts = Annotated[Running, Depends(_running)]
