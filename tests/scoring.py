"""A scorer without HTTP for tests: over any store, with a small bundle, and requests made of a few fields."""

import time
from dataclasses import dataclass
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry

from service.bundle import Bundle
from service.layout import Layout
from service.model import OnnxModel
from service.reporter import Reporter
from service.scorer import Answer, Scorer, ScoreRequest
from service.stores.base import Store
from service.telemetry import Telemetry
from service.threshold_store import Source, ThresholdStore
from service.transaction import Outcome, read_outcome, write_instant

START_MS = 1_795_253_400_000  # 2026-11-21T09:30:00Z


@dataclass(frozen=True)
class Scoring:
    """One process's worth of scoring: a scorer and a reporter over the same store."""

    bundle: Bundle
    scorer: Scorer
    reporter: Reporter
    telemetry: Telemetry
    layout: Layout

    async def score(self, request: ScoreRequest) -> Answer:
        """The answer to one request that is not refused and arrives when it happens."""
        [answer] = await self.scorer.score([request])
        assert isinstance(answer, Answer), answer
        return answer

    def metric(self, name: str) -> float:
        """A metric's value now."""
        return self.telemetry.registry.get_sample_value(name) or 0.0

    async def features(self, transaction_id: str) -> dict[str, float | None]:
        """What the model saw of a transaction."""
        stored = await self.scorer.find_decision(transaction_id)
        assert stored is not None
        assert stored.seen is not None
        return dict(stored.seen.numeric)


def scoring(
    path: Path, store: Store, state_dir: Path, *, prepared: Layout | None = None, parity_share: float = 1.0
) -> Scoring:
    """A scorer with the bundle at `path`, which computes everything again that it serves."""
    bundle = Bundle.load(path)
    telemetry = Telemetry(CollectorRegistry())
    thresholds = ThresholdStore(state_dir / "thresholds.jsonl", bundle.thresholds, Source.BUNDLE)
    scorer = Scorer(
        bundle,
        OnnxModel.load(bundle),
        store,
        thresholds,
        telemetry,
        clock=time.perf_counter,
        prepared=prepared,
        parity_share=parity_share,
    )
    layout = Layout(bundle.plan)
    layouts = [layout] if prepared is None else [layout, prepared]
    return Scoring(bundle, scorer, Reporter(store, layouts, bundle.currencies), telemetry, layout)


def request(transaction_id: str, *, seconds: float = 0, **fields: object) -> ScoreRequest:
    """A payment of 20.00 EUR, so many seconds after the start, which arrives when it happens."""
    body = orjson.dumps({
        "transaction_id": transaction_id,
        "timestamp": write_instant(START_MS + round(1000 * seconds)),
        "card_id": "card",
        "merchant_id": "merchant",
        "amount": 2_000,
        "currency": "EUR",
        **fields,
    })  # fmt: skip
    return ScoreRequest.read(body, arrival_ms=START_MS + round(1000 * seconds), allow_card_numbers=False)


def outcome(
    transaction_id: str, outcome_type: str = "confirmed_fraud", *, seconds: float = 0, **fields: object
) -> Outcome:
    """What became known about a transaction, so many seconds after the start."""
    instant = write_instant(START_MS + round(1000 * seconds))
    body = orjson.dumps(
        {
            "transaction_id": transaction_id,
            "type": outcome_type,
            "occurred_at": instant,
            "reported_at": instant,
            **fields,
        }
    )
    return read_outcome(body, arrival_ms=START_MS + 10**10, allow_card_numbers=False)
