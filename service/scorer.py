"""The scorer: decides about transactions with everything known about their entities, and remembers what it decided."""

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
from numpy.typing import NDArray

from service.bundle import Bundle
from service.decision import Decision
from service.errors import IdempotencyConflict, OutcomeKeysNeeded
from service.explain import Explainer, Reason
from service.features.entry import CLOCK_TOLERANCE_MS, Column, Kind, outcome_row, transaction_row
from service.features.kernel import COMPACTABLE, DUPLICATE, UNAVAILABLE, UNKNOWN
from service.features.online import Histories, compact, encode, fold
from service.model import OnnxModel
from service.stores.base import Append, DecisionRecord, Store
from service.telemetry import Stage, Telemetry
from service.threshold_store import ThresholdStore
from service.thresholds import Ruling, Thresholds
from service.transaction import Outcome, OutcomeType, Transaction

LATE_MS = 7 * 24 * 3600 * 1000  # events later than this are not exact in every window; they are counted


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A checked transaction, with the digest by which a retry is told from another use of its id."""

    transaction: Transaction
    digest: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a response, byte for byte, and whether it was given before."""

    body: bytes
    replayed: bool


@dataclass(frozen=True, slots=True)
class Reported:
    """An outcome that was taken: whether it changed any history."""

    transaction_id: str
    changed: bool


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision as it was made, with what the model saw and why it answered so."""

    response: Mapping[str, object]
    numeric: Mapping[str, float | None]
    categorical: Mapping[str, int]
    revs: Mapping[str, int | None]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """A transaction on its way through the scorer."""

    request: ScoreRequest
    amount_minor: int | None  # in the base currency; None where the table has no rate
    keys: tuple[bytes | None, ...]  # by entity


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was found out about one case."""

    probability: float | None
    ruling: Ruling
    reasons: tuple[Reason, ...]
    degraded: tuple[str, ...]


class Scorer:
    """Scores batches of transactions that are waiting together; a batch of one is the usual case."""

    def __init__(
        self,
        bundle: Bundle,
        model: OnnxModel,
        store: Store,
        thresholds: ThresholdStore,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds that never run backwards; it is read for latencies only."""
        self._bundle = bundle
        self._plan = bundle.plan
        self._model = model
        self._store = store
        self._thresholds = thresholds
        self._telemetry = telemetry
        self._clock = clock
        self._explainer = Explainer(bundle, model)
        manifest = bundle.manifest
        self._model_name = {"name": manifest.name, "version": manifest.version, "sha256": bundle.model_sha256}
        self._key_prefixes = tuple(f"{manifest.spec_sha256[:8]}:{name}:" for name in self._plan.entities)
        self._background: set[asyncio.Task[None]] = set()

    async def score(self, requests: Sequence[ScoreRequest], *, arrival_ms: int) -> list[Answer | IdempotencyConflict]:
        """Answer each request, in order, as if they had been sent one after the other.

        Args:
            requests: checked transactions.
            arrival_ms: when they arrived, epoch milliseconds.
        """
        watch = _Stopwatch(self._clock, self._telemetry)
        ids = [request.transaction.transaction_id for request in requests]
        held = await self._store.find_records(ids)
        records = {name: record for name, record in zip(ids, held, strict=True) if record is not None}
        fresh: dict[str, ScoreRequest] = {}
        for request in requests:  # of two with the same id, the first decides
            if request.transaction.transaction_id not in records:
                fresh.setdefault(request.transaction.transaction_id, request)
        if fresh:
            decided = await self._decide(list(fresh.values()), arrival_ms, watch)
            records.update(zip(fresh, decided, strict=True))
        return [self._answer(request, records, fresh) for request in requests]

    async def _decide(
        self, requests: Sequence[ScoreRequest], arrival_ms: int, watch: "_Stopwatch"
    ) -> list[DecisionRecord]:
        """The hot path: what happens to transactions that nobody has decided yet."""
        cases = [self._case(request) for request in requests]
        rows = np.array([_row(case, arrival_ms) for case in cases], np.int64)
        watch.lap(Stage.READ)
        born_at_ms = await self._store.born_at(int(rows[0, Column.TIME]))
        logs = await self._append_and_read(cases, rows)
        watch.lap(Stage.STORE)
        histories = fold(self._plan, rows, logs, born_at_ms=born_at_ms)
        watch.lap(Stage.FOLD)
        logits, probabilities = self._model.run(histories.numeric, histories.categorical)
        watch.lap(Stage.MODEL)
        version = self._thresholds.current
        verdicts = self._rule(cases, histories, logits, probabilities, version.thresholds)
        watch.lap(Stage.DECIDE)
        responses = [
            self._response(case, verdict, version.number, arrival_ms, watch.elapsed_ms())
            for case, verdict in zip(cases, verdicts, strict=True)
        ]
        records = await self._remember(cases, rows, histories, responses)
        watch.lap(Stage.RECORD)
        self._observe(verdicts, histories)
        self._compact_later(cases, logs, histories)
        watch.stop()
        return records

    async def report(self, outcomes: Sequence[Outcome], *, arrival_ms: int) -> list[Reported | OutcomeKeysNeeded]:
        """Take outcomes into the histories of the entities they are about, in order.

        Args:
            outcomes: checked outcomes.
            arrival_ms: when they arrived, epoch milliseconds.
        """
        return [await self._report(outcome, arrival_ms) for outcome in outcomes]

    async def find_decision(self, transaction_id: str) -> StoredDecision | None:
        """A decision that is still held, with what the model saw; explained whatever it was."""
        (record,) = await self._store.find_records([transaction_id])
        if record is None:
            return None
        numeric, categorical = record.numeric[np.newaxis], record.categorical[np.newaxis]
        logits, _ = self._model.run(numeric, categorical)
        (reasons,) = self._explainer.explain(numeric, categorical, logits)
        return StoredDecision(
            response=orjson.loads(record.response),
            numeric={
                name: None if np.isnan(value) else float(value)
                for name, value in zip(self._plan.numeric, record.numeric, strict=True)
            },
            categorical=dict(zip(self._plan.categorical, record.categorical.tolist(), strict=True)),
            revs={
                name: None if rev < 0 else rev
                for name, rev in zip(self._plan.entities, record.revs.tolist(), strict=True)
            },
            reasons=reasons,
        )

    async def close(self) -> None:
        """Let what runs in the background finish."""
        await asyncio.gather(*self._background)

    def _answer(
        self, request: ScoreRequest, records: Mapping[str, DecisionRecord], fresh: Mapping[str, ScoreRequest]
    ) -> Answer | IdempotencyConflict:
        name = request.transaction.transaction_id
        if records[name].digest != request.digest:
            self._telemetry.observe_conflict()
            return IdempotencyConflict("transaction_id was used before with another body")
        replayed = fresh.get(name) is not request
        if replayed:
            self._telemetry.observe_replay()
        return Answer(records[name].response, replayed)

    def _case(self, request: ScoreRequest) -> _Case:
        transaction = request.transaction
        amount_minor = self._bundle.currencies.to_base(transaction.amount, transaction.currency)
        tokens = [getattr(transaction, entity.key) for entity in self._plan.spec.entities]
        return _Case(request, amount_minor, self._keys(tokens))

    def _keys(self, tokens: Sequence[str | None]) -> tuple[bytes | None, ...]:
        """The key of each entity's log. It begins with the spec's hash: another spec has other logs."""
        return tuple(
            None if token is None else (prefix + token).encode()
            for prefix, token in zip(self._key_prefixes, tokens, strict=True)
        )

    async def _append_and_read(self, cases: Sequence[_Case], rows: NDArray[np.int64]) -> list[bytes | None]:
        """Add each transaction to its entities' logs. Returns the logs, entity by entity; b"" where none is named."""
        named = [(row, k, key) for row, case in zip(rows, cases, strict=True) for k, key in enumerate(case.keys) if key]
        appends = [Append(key, encode(self._plan, row, k)) for row, k, key in named]
        answers = iter(await self._store.append_and_read(appends))
        return [next(answers) if key else b"" for case in cases for key in case.keys]

    def _rule(
        self,
        cases: Sequence[_Case],
        histories: Histories,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        thresholds: Thresholds,
    ) -> list[_Verdict]:
        scored = [
            None if case.amount_minor is None or np.isnan(probability) else float(probability)
            for case, probability in zip(cases, probabilities, strict=True)
        ]
        rulings = [
            thresholds.decide(
                probability=probability, amount_minor=case.amount_minor, transaction=case.request.transaction
            )
            for case, probability in zip(cases, scored, strict=True)
        ]
        explained = [
            index
            for index, (ruling, probability) in enumerate(zip(rulings, scored, strict=True))
            if ruling.decision is not Decision.APPROVE and probability is not None
        ]
        reasons = dict(
            zip(
                explained,
                self._explainer.explain(
                    histories.numeric[explained], histories.categorical[explained], logits[explained]
                ),
                strict=True,
            )
        )
        return [
            _Verdict(
                probability,
                ruling,
                reasons.get(index, ()),
                self._degraded(case, probability, histories.outcomes[index]),
            )
            for index, (case, probability, ruling) in enumerate(zip(cases, scored, rulings, strict=True))
        ]

    def _degraded(self, case: _Case, probability: float | None, outcomes: NDArray[np.int64]) -> tuple[str, ...]:
        """What the decision was made without, from the closed list of the contract."""
        bits = outcomes.tolist()
        missing = [name for name, bit in zip(self._plan.entities, bits, strict=True) if bit & (UNKNOWN | UNAVAILABLE)]
        if any(bit & DUPLICATE for bit in bits):
            missing.append("duplicate")
        if case.amount_minor is None:
            missing.append("currency")
        elif probability is None:
            missing.append("model")
        return tuple(missing)

    def _response(
        self, case: _Case, verdict: _Verdict, thresholds_version: int, arrival_ms: int, latency_ms: float
    ) -> bytes:
        """The body of the answer (docs/api.md)."""
        probability, ruling = verdict.probability, verdict.ruling
        return orjson.dumps(
            {
                "transaction_id": case.request.transaction.transaction_id,
                "decision_id": _decision_id(case.request, arrival_ms),
                "decision": ruling.decision.word,
                "probability": probability,
                "score": self._score(probability),
                "reasons": verdict.reasons,
                "thresholds": {"version": thresholds_version, "segment": ruling.segment},
                "model": self._model_name,
                "degraded": verdict.degraded,
                "scored_at": _instant(arrival_ms),
                "latency_ms": latency_ms,
            }
        )

    def _score(self, probability: float | None) -> int | None:
        """0 to 999: one in 10^(score/100) legitimate transactions scores at least this high."""
        if probability is None:
            return None
        return bisect_right(self._bundle.manifest.score_thresholds, probability)

    async def _remember(
        self, cases: Sequence[_Case], rows: NDArray[np.int64], histories: Histories, responses: Sequence[bytes]
    ) -> list[DecisionRecord]:
        """Keep each decision, so that a retry gets the same bytes and an outcome finds its transaction."""
        records = []
        for index, (case, response) in enumerate(zip(cases, responses, strict=True)):
            record = DecisionRecord(
                digest=case.request.digest,
                response=response,
                event_time_ms=int(rows[index, Column.TIME]),
                keys=case.keys,
                numeric=histories.numeric[index],
                categorical=histories.categorical[index],
                revs=histories.revs[index],
            )
            await self._store.put_record(case.request.transaction.transaction_id, record)
            records.append(record)
        return records

    def _observe(self, verdicts: Sequence[_Verdict], histories: Histories) -> None:
        for verdict in verdicts:
            self._telemetry.observe_decision(verdict.ruling.decision, verdict.probability, verdict.degraded)
        for _ in range(int((histories.lateness_ms > LATE_MS).any(axis=1).sum())):
            self._telemetry.observe_late_event()

    def _compact_later(self, cases: Sequence[_Case], logs: Sequence[bytes | None], histories: Histories) -> None:
        """Replace long logs by a base, off the critical path. Losing the race to somebody else is harmless."""
        keys = [key for case in cases for key in case.keys]
        due = {
            key: (log, index % len(self._plan.entities))
            for index, (key, log, bits) in enumerate(zip(keys, logs, histories.outcomes.flat, strict=True))
            if key and log and bits & COMPACTABLE
        }
        if due:
            task = asyncio.get_running_loop().create_task(self._compact(due))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _compact(self, due: Mapping[bytes, tuple[bytes, int]]) -> None:
        for key, (log, k) in due.items():
            base, length = compact(self._plan, log, k)
            if length:
                await self._store.replace(key, log[:length], base)

    async def _report(self, outcome: Outcome, arrival_ms: int) -> Reported | OutcomeKeysNeeded:
        (record,) = await self._store.find_records([outcome.transaction_id])
        if record is not None:
            keys, origin_ms = record.keys, record.event_time_ms
        elif outcome.event_time_ms is not None and outcome.card_id is not None and outcome.merchant_id is not None:
            keys = self._keys([getattr(outcome, entity.key, None) for entity in self._plan.spec.entities])
            origin_ms = min(outcome.event_time_ms, arrival_ms + CLOCK_TOLERANCE_MS)
        else:
            return OutcomeKeysNeeded(
                "no decision is held for this transaction: send its timestamp, card_id and merchant_id"
            )
        kind, delta = Kind.ISSUER_DECLINE, 0
        if outcome.type is not OutcomeType.ISSUER_DECLINED:
            label = _label(outcome)
            before = await self._store.exchange_label(outcome.transaction_id, label) if label is not None else None
            if label is None or before is None or label == before:
                return Reported(outcome.transaction_id, changed=False)
            kind, delta = Kind.FRAUD_LABEL, label - before
        row = outcome_row(
            kind,
            transaction_id=outcome.transaction_id,
            reported_ms=min(outcome.reported_at_ms, arrival_ms + CLOCK_TOLERANCE_MS),
            origin_ms=origin_ms,
            delta=delta,
            keys={},
        )
        event = np.array(row, np.int64)
        appends = [Append(key, encode(self._plan, event, k)) for k, key in enumerate(keys) if key]
        await self._store.append_and_read(appends)
        return Reported(outcome.transaction_id, changed=True)


class _Stopwatch:
    """Times the stages of one call and tells telemetry."""

    def __init__(self, clock: Callable[[], float], telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._started = self._lapped = clock()

    def lap(self, stage: Stage) -> None:
        now = self._clock()
        self._telemetry.observe_stage(stage, now - self._lapped)
        self._lapped = now

    def stop(self) -> None:
        self._telemetry.observe_stage(Stage.TOTAL, self._clock() - self._started)

    def elapsed_ms(self) -> float:
        return round((self._clock() - self._started) * 1000, 3)


def _row(case: _Case, arrival_ms: int) -> tuple[int, ...]:
    """An attempt whose amount cannot be converted still counts as an attempt, of amount 0."""
    return transaction_row(case.request.transaction, arrival_ms=arrival_ms, amount_minor=case.amount_minor or 0)


def _decision_id(request: ScoreRequest, arrival_ms: int) -> str:
    """Names one decision: another one for the same transaction id, after the first expired, has another name."""
    content = b"%s %d" % (request.digest, arrival_ms)
    return "d-" + hashlib.blake2b(content, digest_size=12).hexdigest()


def _instant(epoch_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FRAUD_TYPES = {OutcomeType.EARLY_FRAUD_WARNING, OutcomeType.CONFIRMED_FRAUD}
_LEGITIMATE_TYPES = {OutcomeType.CONFIRMED_LEGITIMATE, OutcomeType.WITHDRAWN}


def _label(outcome: Outcome) -> int | None:
    """The label an outcome gives its transaction; None where it says nothing about fraud."""
    if outcome.type in _FRAUD_TYPES or (outcome.type is OutcomeType.DISPUTE and outcome.fraud):
        return 1
    return 0 if outcome.type in _LEGITIMATE_TYPES else None
