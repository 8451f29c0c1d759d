"""The composition root: the one place where settings become the parts of a running service."""

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from service.api.decisions import router as decisions_router
from service.api.guard import Guard
from service.api.health import health_router
from service.api.models import router as models_router
from service.api.openapi import describe
from service.api.outcomes import OutcomesEndpoint
from service.api.problems import Problems
from service.api.running import Running
from service.api.score import BatchEndpoint, ScoreEndpoint
from service.api.thresholds import router as thresholds_router
from service.bundle import MANIFEST, Bundle
from service.errors import BundleInvalid, SettingsInvalid, ThresholdsInvalid
from service.model import OnnxModel
from service.scorer import Scorer, ScoreRequest
from service.settings import Settings
from service.stores.memory import MemoryStore
from service.telemetry import Telemetry
from service.threshold_store import Source, ThresholdStore
from service.thresholds import parse_thresholds_json
from service.transaction import EARLIEST_EVENT_MS, read_transaction

API_VERSION = "0.1.0"  # of what docs/api.md describes; the package's own, as long as both change together
WARM_UP_TRANSACTIONS = 64  # more than any log holds before it is compacted
PUBLISHED_THRESHOLDS = "thresholds.jsonl"  # in the state directory


def epoch_ms() -> int:
    """The clock of arrivals: UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_running(
    settings: Settings, telemetry: Telemetry, *, now_ms: Callable[[], int] = epoch_ms
) -> AsyncIterator[Running]:
    """Open everything that answering needs, warm; the event loop stays free meanwhile.

    Raises:
        TouchstoneError: something is missing, altered or does not fit; the message says what and where.
    """
    running = await asyncio.to_thread(_open, settings, telemetry, now_ms)
    try:
        yield running
    finally:
        await running.scorer.close()


def create_app(telemetry: Telemetry) -> FastAPI:
    """The HTTP interface. It is alive at once, and ready once `app.state.touchstone` is what `open_running` gives."""
    problems = Problems(telemetry)
    app = FastAPI(
        title="Touchstone",
        summary="Real-time fraud scoring for payments",
        version=API_VERSION,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.touchstone = None

    def is_ready() -> bool:
        return app.state.touchstone is not None

    app.router.routes[:0] = [  # first, because they are asked for most
        Route("/score", ScoreEndpoint(), methods=["POST"], include_in_schema=False),
        Route("/score/batch", BatchEndpoint(problems), methods=["POST"], include_in_schema=False),
        Route("/outcomes", OutcomesEndpoint(problems), methods=["POST"], include_in_schema=False),
    ]
    for router in (decisions_router, thresholds_router, models_router, health_router(telemetry, is_ready)):
        app.include_router(router)
    problems.answer_for(app)
    app.add_middleware(Guard, problems=problems, is_ready=is_ready, new_request_id=_request_ids())
    describe(app)
    return app


def bundle_directory(model_dir: Path) -> Path:
    """The bundle itself, or the highest version in a directory of them (1.10.0 is higher than 1.9.2).

    Raises:
        BundleInvalid: there is none.
    """
    if (model_dir / MANIFEST).is_file():
        return model_dir
    versions = [path.parent for path in model_dir.glob(f"*/{MANIFEST}")]
    if not versions:
        raise BundleInvalid(f"{model_dir} holds no bundle: neither {MANIFEST} nor a directory with one")
    return max(versions, key=lambda path: _version_key(path.name))


def open_thresholds(settings: Settings, bundle: Bundle) -> ThresholdStore:
    """The published thresholds, else those of the file, else the bundle's.

    Raises:
        SettingsInvalid: the file cannot be read, or is refused.
        StateInvalid: what was published was altered.
    """
    initial, source = bundle.thresholds, Source.BUNDLE
    if (file := settings.thresholds_file) is not None:
        source = Source.FILE
        try:
            initial = parse_thresholds_json(file.read_bytes(), base_currency=bundle.manifest.base_currency)
        except (OSError, ThresholdsInvalid) as error:
            raise SettingsInvalid(f"TOUCHSTONE_THRESHOLDS_FILE {file}: {error}") from error
    return ThresholdStore(settings.state_dir / PUBLISHED_THRESHOLDS, initial, source)


def _open(settings: Settings, telemetry: Telemetry, now_ms: Callable[[], int]) -> Running:
    bundle = Bundle.load(bundle_directory(settings.model_dir))
    model = OnnxModel.load(bundle, provider=settings.provider, threads=settings.inference_threads)
    thresholds = open_thresholds(settings, bundle)
    _warm_up(bundle, model, thresholds)
    store = MemoryStore(max_entities=settings.memory_max_entities, max_decisions=settings.memory_max_decisions)
    scorer = Scorer(bundle, model, store, thresholds, telemetry, clock=time.perf_counter)
    telemetry.watch_store(entities=lambda: store.entities, evictions=lambda: store.evictions)
    telemetry.watch_thresholds(lambda: thresholds.current.number)
    telemetry.show_model(
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        sha256=bundle.model_sha256,
        provider=model.provider.value,
    )
    return Running(settings, telemetry, bundle, model, thresholds, scorer, now_ms)


def _warm_up(bundle: Bundle, model: OnnxModel, thresholds: ThresholdStore) -> None:
    """Run every part once before the first request must wait for it: the kernel compiles, the model allocates.

    The transactions of one card go through a scorer that is thrown away, enough of them to compact its history.
    """
    store = MemoryStore(max_entities=1_000, max_decisions=1_000)
    scorer = Scorer(bundle, model, store, thresholds, Telemetry(CollectorRegistry()), clock=time.perf_counter)
    requests = [_warm_up_request(index, bundle.manifest.base_currency) for index in range(WARM_UP_TRANSACTIONS)]

    async def score() -> None:
        for request in requests:
            await scorer.score([request], arrival_ms=EARLIEST_EVENT_MS)
        await scorer.find_decision(requests[0].transaction.transaction_id)
        await scorer.close()

    asyncio.run(score())


def _warm_up_request(index: int, currency: str) -> ScoreRequest:
    body = (
        b'{"transaction_id":"warm-up-%d","timestamp":"2000-01-01T00:00:00Z","card_id":"warm-up","merchant_id":"warm-up",'
        b'"amount":100,"currency":"%b"}' % (index, currency.encode())
    )
    transaction = read_transaction(body, arrival_ms=EARLIEST_EVENT_MS, allow_card_numbers=False)
    return ScoreRequest(transaction, transaction.digest())


def _version_key(name: str) -> list[tuple[int, str]]:
    """Numbers by value and before words, the rest by letter."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9.]+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _request_ids() -> Callable[[], str]:
    """Ids that differ between processes by their head and within one by their tail."""
    head, tails = secrets.token_hex(4), itertools.count(1)
    return lambda: f"{head}-{next(tails):x}"
