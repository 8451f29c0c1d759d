"""The composition root: the one place where settings become the parts of a running service."""

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from service.api.admission import Admission
from service.api.decisions import router as decisions_router
from service.api.guard import Guard
from service.api.health import health_router
from service.api.models import router as models_router
from service.api.openapi import describe
from service.api.outcomes import OutcomesEndpoint
from service.api.problems import Problems
from service.api.running import AppState, Running
from service.api.score import BatchEndpoint, ScoreEndpoint
from service.api.thresholds import router as thresholds_router
from service.batching import Batcher
from service.bundle import MANIFEST, Bundle
from service.errors import BundleInvalid, SettingsInvalid, ThresholdsInvalid
from service.layout import Layout
from service.model import OnnxModel
from service.reporter import Reporter
from service.scorer import Scorer, ScoreRequest
from service.security import ApiKeys
from service.settings import MEMORY, Settings
from service.stores import resp
from service.stores.base import Store
from service.stores.fallback import FallbackStore
from service.stores.memory import MemoryStore
from service.stores.redis import RedisStore, StoreLimits, open_redis_store
from service.telemetry import Telemetry
from service.threshold_store import Source, ThresholdStore
from service.thresholds import parse_thresholds_json
from service.transaction import EARLIEST_EVENT_MS

API_VERSION = "0.1.0"  # of what docs/api.md describes; the package's own, as long as both change together
MOST_WAITING = 512  # requests, besides those being scored: some 50 ms of work; the next is better answered at once
BULK_ITEMS = 8  # of what came in arrays, scored at once: a lone request waits for them, a millisecond
LONE_TURNS = 3  # of the loop before these are: a lone request is read, leaves its queue, and is scored
MOST_BULK_WAITING = 8_000  # items of arrays, or eight arrays of the largest size: a second of work, and 20 MB
PARITY_REST = 99.0  # so that checks take a hundredth of the time at most
WARM_UP_TRANSACTIONS = 64  # more than any log holds before it is compacted
RENEWAL_SECONDS = 38 * 24 * 3600  # a log outlives its horizon by this; its expiry is renewed when 30 days old
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
    keys = None if settings.api_keys_file is None else ApiKeys.load(settings.api_keys_file)
    bundle, model, thresholds = await asyncio.to_thread(_open_model, settings)
    prepared = await asyncio.to_thread(_open_prepared, settings, bundle)
    store = await open_store(settings, bundle)
    scorer = Scorer(
        bundle,
        model,
        store,
        thresholds,
        telemetry,
        clock=time.perf_counter,
        prepared=prepared,
        parity_share=settings.parity_share,
        parity_rest=PARITY_REST,
    )
    layouts = [Layout(bundle.plan)] if prepared is None else [Layout(bundle.plan), prepared]
    telemetry.watch_store(store.status)
    telemetry.watch_thresholds(lambda: thresholds.current.number)
    telemetry.show_model(
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        sha256=bundle.model_sha256,
        provider=model.provider.value,
    )
    waiting = Batcher(scorer.score, overflow=scorer.decide_at_once, most_waiting=MOST_WAITING)
    bulk = Batcher(
        scorer.score,
        overflow=scorer.decide_at_once,
        most_waiting=MOST_BULK_WAITING,
        most_items=BULK_ITEMS,
        most_batches=1,
        turns_for_others=LONE_TURNS,
    )
    reporter = Reporter(store, layouts, bundle.currencies)
    async with AsyncExitStack() as closing:  # in the reverse order, each whatever became of the others
        closing.push_async_callback(store.close)
        closing.push_async_callback(scorer.close)
        closing.push_async_callback(waiting.close)
        closing.push_async_callback(bulk.close)
        yield Running(settings, keys, telemetry, bundle, model, thresholds, scorer, waiting, bulk, reporter, now_ms)


def create_app(telemetry: Telemetry) -> FastAPI:
    """The HTTP interface. It is alive at once, and ready once `app.state.touchstone` is what `open_running` gives."""
    app = FastAPI(
        title="Touchstone",
        summary="Real-time fraud scoring for payments",
        version=API_VERSION,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state = AppState()
    app.state.touchstone = None

    def is_ready() -> bool:
        return app.state.touchstone is not None

    problems = Problems(telemetry)
    admission = Admission(is_ready=is_ready, keys=lambda: app.state.touchstone.keys, new_request_id=_request_ids())
    app.state.admission, app.state.problems = admission, problems  # for who answers beside the app
    score = ScoreEndpoint()
    app.router.routes[:0] = [  # first, because they are asked for most
        Route("/score", score, methods=["POST"], include_in_schema=False),
        Route("/score/batch", BatchEndpoint(problems), methods=["POST"], include_in_schema=False),
        Route("/outcomes", OutcomesEndpoint(problems), methods=["POST"], include_in_schema=False),
    ]
    for router in (decisions_router, thresholds_router, models_router, health_router(telemetry, is_ready)):
        app.include_router(router)
    problems.answer_for(app)
    app.add_middleware(Guard, admission=admission, problems=problems, direct={("POST", "/score"): score})
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


async def open_store(settings: Settings, bundle: Bundle) -> Store:
    """The store of TOUCHSTONE_STORE_URL.

    Raises:
        StoreUnavailable: it cannot be reached, or is too old.
    """
    if settings.store_url == MEMORY:
        return MemoryStore(max_entities=settings.memory_max_entities, max_decisions=settings.memory_max_decisions)
    return FallbackStore(await open_shared_store(settings, bundle), now_ms=epoch_ms)


async def open_shared_store(settings: Settings, bundle: Bundle) -> RedisStore:
    """The store of TOUCHSTONE_STORE_URL, where it is one that several processes share.

    Raises:
        SettingsInvalid: it is not.
        StoreUnavailable: it cannot be reached, or is too old.
    """
    if settings.store_url == MEMORY:
        raise SettingsInvalid("TOUCHSTONE_STORE_URL is memory://, which no other process can write to")
    limits = StoreLimits(
        timeout_ms=settings.store_timeout_ms,
        record_ttl_s=settings.decision_ttl_hours * 3600,
        log_ttl_s=bundle.spec.horizon_ms // 1000 + RENEWAL_SECONDS,
        max_stream_decisions=settings.max_stream_decisions,
        max_stream_archive=settings.max_stream_archive,
        max_stream_outcomes=settings.max_stream_decisions,
    )
    return await open_redis_store(settings.store_url, limits)


def _open_model(settings: Settings) -> tuple[Bundle, OnnxModel, ThresholdStore]:
    """What decides, warm."""
    bundle = Bundle.load(bundle_directory(settings.model_dir))
    model = OnnxModel.load(bundle, provider=settings.provider, threads=inference_threads(settings))
    thresholds = open_thresholds(settings, bundle)
    _warm_up(bundle, model, thresholds)
    return bundle, model, thresholds


def inference_threads(settings: Settings) -> int | None:
    """Threads of one model call; None: as many as are worth it here. Several workers share the cores already."""
    return 1 if settings.inference_threads is None and settings.workers > 1 else settings.inference_threads


def _open_prepared(settings: Settings, served: Bundle) -> Layout | None:
    """The layout of the bundle that is to be served later, where its histories are others."""
    if settings.prepare_model_dir is None:
        return None
    bundle = Bundle.load(bundle_directory(settings.prepare_model_dir))
    return None if bundle.plan.spec.sha256 == served.plan.spec.sha256 else Layout(bundle.plan)


def _warm_up(bundle: Bundle, model: OnnxModel, thresholds: ThresholdStore) -> None:
    """Run every part once before the first request must wait for it: the kernel compiles, the model allocates.

    The transactions of one card go through a scorer that is thrown away: enough of them to compact its history, which
    is computed again, and at last one that is refused and taken back.
    """
    store, telemetry = MemoryStore(max_entities=1_000, max_decisions=1_000), Telemetry(CollectorRegistry())
    scorer = Scorer(bundle, model, store, thresholds, telemetry, clock=time.perf_counter, parity_share=1.0)
    currency = bundle.manifest.base_currency
    requests = [_warm_up_request(index, "warm-up", currency) for index in range(WARM_UP_TRANSACTIONS)]

    async def score() -> None:
        for request in requests:
            await scorer.score([request])
            await asyncio.sleep(0)  # for what is done behind the answers
        await scorer.find_decision(requests[0].transaction.transaction_id)
        await scorer.score([_warm_up_request(0, "another", currency)])
        await scorer.close()

    asyncio.run(score())
    resp.warm_up()


def _warm_up_request(index: int, card: str, currency: str) -> ScoreRequest:
    body = (
        b'{"transaction_id":"warm-up-%d","timestamp":"2000-01-01T00:00:00Z","card_id":"%b","merchant_id":"warm-up",'
        b'"amount":100,"currency":"%b"}' % (index, card.encode(), currency.encode())
    )
    return ScoreRequest.read(body, arrival_ms=EARLIEST_EVENT_MS, allow_card_numbers=False)


def _version_key(name: str) -> list[tuple[int, str]]:
    """Numbers by value and before words, the rest by letter."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9.]+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _request_ids() -> Callable[[], str]:
    """Ids that differ between processes by their head and within one by their tail."""
    head, tails = secrets.token_hex(4), itertools.count(1)
    return lambda: f"{head}-{next(tails):x}"
