"""The service as tutorials write it: FastAPI, a Redis client, a model session and metrics, each used as documented.

It does the work of ours with fewer features (30 of the model's, the others missing), and leaves out what would make it
slower without being asked for: keys without expiry, no check of tokens for card numbers, one trip before the model and
one after it, a dependency instead of a middleware, coroutines instead of threads, no access log.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import redis.asyncio as redis
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import AwareDatetime, BaseModel, Field

REDIS_VARIABLE, MODEL_VARIABLE, KEYS_VARIABLE = "PLAIN_REDIS_URL", "PLAIN_MODEL_DIR", "PLAIN_API_KEYS_FILE"
HOUR_S, DAY_S, WEEK_S, MONTH_S = 3_600, 86_400, 7 * 86_400, 30 * 86_400
ANSWERS_KEPT_S = 86_400
STREAM_LENGTH = 200_000
MAX_REASONS = 4
COMMANDS = 9  # for each entity
ENTITIES = ("card", "merchant", "terminal", "device")


class Channel(StrEnum):
    """Where the card was used."""

    ECOMMERCE = "ecommerce"
    POS = "pos"
    ATM = "atm"
    MOTO = "moto"
    RECURRING = "recurring"


class Transaction(BaseModel):
    """The request."""

    transaction_id: str = Field(min_length=1, max_length=64)
    timestamp: AwareDatetime
    card_id: str = Field(min_length=1, max_length=64)
    merchant_id: str = Field(min_length=1, max_length=64)
    terminal_id: str | None = Field(default=None, max_length=64)
    device_id: str | None = Field(default=None, max_length=64)
    amount: int = Field(ge=0)
    currency: str = Field(pattern="^[A-Z]{3}$")
    merchant_category_code: str | None = Field(default=None, pattern="^[0-9]{4}$")
    merchant_country: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    card_country: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    channel: Channel | None = None
    three_ds: str | None = None


class Reason(BaseModel):
    """One thing that moved the probability."""

    code: str
    contribution: float
    value: float | None
    description: str


class Decision(BaseModel):
    """The response."""

    transaction_id: str
    decision_id: str
    decision: str
    probability: float = Field(ge=0, le=1)
    reasons: list[Reason]
    model: str
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class Model:
    """The session, and what the bundle says about its inputs."""

    session: ort.InferenceSession
    manifest: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    places: Mapping[str, int]

    @classmethod
    def load(cls, directory: Path) -> "Model":
        """Load a bundle."""
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
        thresholds = json.loads((directory / "thresholds.json").read_text(encoding="utf-8"))
        return cls(session, manifest, thresholds, {name: place for place, name in enumerate(manifest["numeric"])})

    def vector(self, features: Mapping[str, float]) -> NDArray[np.float32]:
        """The numeric input, float32 (1, n); what is not a feature here is missing."""
        values = np.full((1, len(self.places)), np.nan, np.float32)
        for name, value in features.items():
            if name in self.places:
                values[0, self.places[name]] = value
        return values

    def run(self, numeric: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(logit, probability), float32 (batch,) each; categories are missing."""
        categorical = np.full((len(numeric), len(self.manifest["categorical"])), -1, np.int64)
        logit, probability = self.session.run(
            ["logit", "probability"], {"numeric": numeric, "categorical": categorical}
        )
        return logit, probability

    def reasons(self, numeric: NDArray[np.float32], logit: float) -> list[Reason]:
        """By how much each group of features raised the logit, against a legitimate payment's values."""
        groups = [group for group in self.manifest["reasons"] if group["value_feature"] in self.places]
        without = np.repeat(numeric, len(groups), axis=0)
        for row, group in zip(without, groups, strict=True):
            for name in group["features"]:
                if (place := self.places.get(name)) is not None:
                    reference = self.manifest["reference_numeric"][place]
                    row[place] = np.nan if reference is None else reference
        logits, _ = self.run(without)
        order = np.argsort(logits)[:MAX_REASONS]
        return [_reason(groups[index], logit - float(logits[index]), numeric[0], self.places) for index in order]

    def decide(self, probability: float, transaction: Transaction) -> str:
        """The severest decision whose limit is reached; who passed 3-D Secure is not challenged again."""
        levels = self.thresholds["default"]
        for segment in self.thresholds["segments"]:
            if transaction.channel in segment["when"].get("channel", ()):
                levels = segment
                break
        for decision in ("decline", "review", "challenge"):
            limits = levels.get(f"{decision}_at")
            if limits is None:
                continue
            loss = probability * transaction.amount
            if probability >= limits["probability"] or loss >= limits.get("expected_loss", math.inf):
                return "approve" if decision == "challenge" and transaction.three_ds == "authenticated" else decision
        return "approve"


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter("plain_decisions", "Decisions.", ["decision"], registry=self.registry)
        self.replays = Counter("plain_replays", "Stored decisions that were answered again.", registry=self.registry)
        self.latency = Histogram("plain_seconds", "Time of a decision.", registry=self.registry)
        self.probabilities = Histogram("plain_probability", "Probabilities.", registry=self.registry)


def create_app() -> FastAPI:
    """The service; its settings are in the environment."""
    directory = Path(os.environ[MODEL_VARIABLE])
    clients = json.loads(Path(os.environ[KEYS_VARIABLE]).read_text(encoding="utf-8"))["clients"]
    keys = {client["sha256"]: client["name"] for client in clients}
    model, metrics = Model.load(directory), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.redis = redis.from_url(os.environ[REDIS_VARIABLE], decode_responses=True)
        yield
        await app.state.redis.aclose()

    app = FastAPI(lifespan=lifespan)
    bearer = HTTPBearer()

    async def client(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
        name: str | None = keys.get(hashlib.sha256(credentials.credentials.encode()).hexdigest())
        if name is None:
            raise HTTPException(401, "unknown key")
        return name

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain")

    @app.post("/score")
    async def score(transaction: Transaction, request: Request, client: Annotated[str, Depends(client)]) -> Decision:
        with metrics.latency.time():
            store: redis.Redis = request.app.state.redis
            answered, features = await count(store, client, transaction)
            if answered is not None:
                metrics.replays.inc()
                return Decision.model_validate_json(answered)
            numeric = model.vector(features)
            logits, probabilities = model.run(numeric)
            probability = float(probabilities[0])
            decision = model.decide(probability, transaction)
            response = Decision(
                transaction_id=transaction.transaction_id,
                decision_id=secrets.token_hex(12),
                decision=decision,
                probability=probability,
                reasons=[] if decision == "approve" else model.reasons(numeric, float(logits[0])),
                model=model.manifest["version"],
                scored_at=datetime.now(UTC),
            )
            earlier = await record(store, client, transaction, response, features)
            metrics.decisions.labels(decision).inc()
            metrics.probabilities.observe(probability)
            return response if earlier is None else Decision.model_validate_json(earlier)

    return app


async def count(store: redis.Redis, client: str, transaction: Transaction) -> tuple[str | None, Mapping[str, float]]:
    """Look for an earlier answer and count the payment for its entities, in one trip.

    Returns the earlier answer, if there is one, and the features.
    """
    now_s = transaction.timestamp.timestamp()
    async with store.pipeline(transaction=False) as pipeline:
        pipeline.get(f"answer:{client}:{transaction.transaction_id}")
        for name in ENTITIES:
            times, totals = _keys(name, transaction)
            pipeline.hgetall(totals)
            pipeline.zcount(times, now_s - HOUR_S, now_s)
            pipeline.zcount(times, now_s - DAY_S, now_s)
            pipeline.zcount(times, now_s - WEEK_S, now_s)
            pipeline.zremrangebyscore(times, "-inf", now_s - MONTH_S)
            pipeline.zadd(times, {transaction.transaction_id: now_s})
            pipeline.hincrby(totals, "count", 1)
            pipeline.hincrby(totals, "amount", transaction.amount)
            pipeline.hset(totals, mapping={"last": now_s, "country": transaction.merchant_country or ""})
        answered, *replies = await pipeline.execute()
        counts = {name: replies[COMMANDS * k : COMMANDS * (k + 1)] for k, name in enumerate(ENTITIES)}
    return answered, _features(transaction, now_s, counts)


async def record(
    store: redis.Redis, client: str, transaction: Transaction, response: Decision, features: Mapping[str, float]
) -> str | None:
    """Keep the answer for retries and the decision for those who look back, in one trip.

    Returns the answer that another request with the same id got meanwhile, if there is one.
    """
    body = response.model_dump_json()
    entry: dict[Any, Any] = {"id": transaction.transaction_id, "decision": body, "features": json.dumps(features)}
    async with store.pipeline(transaction=False) as pipeline:
        key = f"answer:{client}:{transaction.transaction_id}"
        pipeline.set(key, body, nx=True, get=True, ex=ANSWERS_KEPT_S)
        pipeline.xadd("decisions", entry, maxlen=STREAM_LENGTH, approximate=True)
        earlier, _ = await pipeline.execute()
    found: str | None = earlier
    return found


def _keys(name: str, transaction: Transaction) -> tuple[str, str]:
    token = getattr(transaction, f"{name}_id")
    return f"times:{name}:{token}", f"totals:{name}:{token}"


def _features(transaction: Transaction, now_s: float, counts: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """30 features by the model's names; where there is no history yet, some of them are missing."""
    features = {
        "amount": float(transaction.amount),
        "hour": now_s % DAY_S / HOUR_S,
        "card_abroad": float(transaction.card_country != transaction.merchant_country),
        "has_terminal": float(transaction.terminal_id is not None),
        "has_device": float(transaction.device_id is not None),
    }
    for name, (totals, hour, day, week, *_) in counts.items():
        count, amount = int(totals.get("count", 0)), float(totals.get("amount", 0))
        features |= {
            f"{name}_known": float(count > 0),
            f"{name}_count_1h": float(hour),
            f"{name}_count_1d": float(day),
            f"{name}_count_7d": float(week),
        }
        if count:
            features[f"{name}_mean_amount_30d"] = amount / count
            features[f"{name}_seconds_since_last"] = max(0.0, now_s - float(totals["last"]))
    features["card_country_changed"] = float(counts["card"][0].get("country") != transaction.merchant_country)
    return features


def _reason(
    group: Mapping[str, Any], contribution: float, numeric: NDArray[np.float32], places: Mapping[str, int]
) -> Reason:
    value = float(numeric[places[group["value_feature"]]])
    return Reason(
        code=group["code"],
        contribution=round(contribution, 4),
        value=None if math.isnan(value) else value,
        description=group["description"],
    )
