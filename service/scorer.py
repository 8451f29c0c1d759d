"""The scorer: decides about transactions with everything known about their entities, and remembers what it decided."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import isnan
from operator import or_

import numpy as np
import orjson
from msgspec import Struct, structs
from numpy.typing import NDArray

from service.backlog import Backlog, nothing_read
from service.bundle import Bundle
from service.compactor import Compactor
from service.decision import Decision
from service.errors import IdempotencyConflict
from service.explain import Explainer, Reason
from service.features.entry import transaction_row
from service.features.kernel import C_AMOUNT, C_TIME, DUPLICATE, UNAVAILABLE, UNKNOWN
from service.features.online import Histories
from service.layout import Layout, Logs, Tokens, tokens_of
from service.ledger import Ledger
from service.model import OnnxModel
from service.parity import ParityMeter
from service.response import Content, Response, ResponseWriter
from service.stores.base import NO_ANSWER, DecisionRecord, NewDecision, Store
from service.stores.snapshot import Snapshot
from service.telemetry import Stage, Telemetry
from service.threshold_store import ThresholdStore
from service.thresholds import Ruling, Thresholds
from service.transaction import Transaction, read_transaction, write_instant

MOST_FINDINGS = 4_096  # about four entities, remembered for what is missing; a few dozen are what traffic brings
LATE_MS = 7 * 24 * 3600 * 1000  # events later than this are not exact in every window; they are counted


class ScoreRequest(Struct, frozen=True, gc=False):
    """A checked transaction.

    Attributes:
        transaction: what is asked about.
        body: what it was read from.
        digest: 16 bytes that tell a retry from another request under the same id.
        arrival_ms: when it arrived, epoch milliseconds.
    """

    transaction: Transaction
    body: bytes
    digest: bytes
    arrival_ms: int

    @classmethod
    def read(cls, body: bytes, *, arrival_ms: int, allow_card_numbers: bool) -> "ScoreRequest":
        """Read a request from its body.

        Raises:
            RequestInvalid: every fault found, none with the value sent.
        """
        transaction = read_transaction(body, arrival_ms=arrival_ms, allow_card_numbers=allow_card_numbers)
        return cls(transaction, body, transaction.digest(), arrival_ms)


class Answer(Struct, frozen=True, gc=False):
    """The body of a response, byte for byte, and whether it was given before."""

    body: bytes
    replayed: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model saw of a transaction, and why it answered as it did."""

    numeric: Mapping[str, float | None]
    categorical: Mapping[str, int]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision as it was made.

    Attributes:
        response: what was answered.
        revs: by entity, where the transaction stands in its log; empty where another spec is served by now.
        seen: what the model saw; None once the store needed its room, or another spec is served.
    """

    response: Mapping[str, object]
    revs: Mapping[str, int | None]
    seen: Seen | None


class _Case(Struct, gc=False):
    """A transaction on its way through the scorer."""

    request: ScoreRequest
    amount_minor: int | None  # in the base currency; None where the table has no rate
    tokens: Tokens
    row: tuple[int, ...]  # by `Column`
    record: DecisionRecord | None = None  # the decision that stands, once there is one
    made: bool = False  # whether it was made for this request, not for an earlier one
    unsure: bool = False  # whether the store could not say if there was an earlier one, or not take this one

    @property
    def transaction_id(self) -> str:
        """The id, by which decisions are held."""
        return self.request.transaction.transaction_id


class _Verdict(Struct, frozen=True, gc=False):
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
        prepared: Layout | None = None,
        parity_share: float = 0.0,
        parity_rest: float = 0.0,
    ) -> None:
        """A scorer over one bundle and one store.

        Args:
            bundle: what decides.
            model: its session.
            store: where histories and decisions are kept.
            thresholds: what turns probabilities into decisions.
            telemetry: what is told about it.
            clock: seconds that never run backwards; read for latencies only.
            prepared: the layout of another spec that gathers its history from now on, to be served later.
            parity_share: of all entities, whose features are computed again from the archive.
            parity_rest: after such a check, how many times as long as it took there is none.
        """
        self._bundle = bundle
        self._plan = bundle.plan
        self._layout = Layout(bundle.plan)
        self._ledger = Ledger(store, [self._layout] if prepared is None else [self._layout, prepared])
        self._model = model
        self._store = store
        self._thresholds = thresholds
        self._telemetry = telemetry
        self._clock = clock
        self._explainer = Explainer(bundle, model)
        self._meter = ParityMeter(store, telemetry, share=parity_share, rest=parity_rest)
        self._compactor = Compactor(store, audits=self._meter.audits)
        self._backlog = Backlog(store, self._ledger, telemetry)
        manifest = bundle.manifest
        self._score_thresholds = manifest.score_thresholds
        self._writer = ResponseWriter(name=manifest.name, version=manifest.version, sha256=bundle.model_sha256)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Answer | IdempotencyConflict]:
        """Answer each request, in order, as if they had been sent one after the other: the hot path."""
        watch = _Stopwatch(self._clock, self._telemetry)
        cases: dict[str, _Case] = {}
        for request in requests:  # of two with the same id, the first decides
            if request.transaction.transaction_id not in cases:
                cases[request.transaction.transaction_id] = self._case(request)
        batch = list(cases.values())
        rows = np.array([case.row for case in batch], np.int64)
        watch.lap(Stage.READ)
        logs, *prepared = await self._enter(batch, rows)
        watch.lap(Stage.STORE)
        histories = logs.fold(rows)
        watch.lap(Stage.FOLD)
        fresh = [index for index, case in enumerate(batch) if case.record is None]
        if fresh:
            await self._decide([batch[index] for index in fresh], histories.at(fresh), watch)
        self._meter.observe(rows, logs, histories)
        folded = [(logs, histories), *((other, other.fold(rows)) for other in prepared)]
        decided = {place: case.record for place, case in enumerate(batch) if case.record is not None and not case.made}
        if decided:
            await self._ledger.take_back(rows, decided, folded)
        self._compact_later(folded)
        watch.stop()
        return [self._answer(request, cases[request.transaction.transaction_id]) for request in requests]

    def decide_at_once(self, request: ScoreRequest) -> Answer | IdempotencyConflict:
        """The fallback decision: for a request that there is no room for.

        It is made without history, model and earlier decisions; those who come later find it as they find any other,
        since its entries and its record are written when its turn has come.
        """
        case = self._case(request)
        case.record = self._backlog.find(case.transaction_id)
        if case.record is None:
            self._decide_unseen(case)
        return self._answer(request, case)

    async def find_decision(self, transaction_id: str) -> StoredDecision | None:
        """A decision that is still held, with what the model saw; explained whatever it was.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        record = await self._store.find_record(transaction_id)
        if record is None:
            return None
        snapshot = await self._store.find_snapshot(transaction_id, record)
        ours = record.spec == self._layout.spec
        return StoredDecision(
            response=orjson.loads(record.response.body),
            revs=dict(zip(self._plan.entities, [None if rev < 0 else rev for rev in record.revs], strict=True))
            if ours
            else {},
            seen=self._seen(snapshot) if snapshot is not None and ours else None,
        )

    async def close(self) -> None:
        """Let what runs in the background finish."""
        await self._backlog.close()
        await self._compactor.close()
        await self._meter.close()

    def _case(self, request: ScoreRequest) -> _Case:
        """An attempt whose amount cannot be converted still counts as an attempt, of amount 0."""
        transaction = request.transaction
        amount_minor = self._bundle.currencies.to_base(transaction.amount, transaction.currency)
        row = transaction_row(transaction, arrival_ms=request.arrival_ms, amount_minor=amount_minor or 0)
        return _Case(request, amount_minor, tokens_of(transaction), row)

    async def _enter(self, cases: Sequence[_Case], rows: NDArray[np.int64]) -> list[Logs]:
        """Enter the transactions, and find earlier decisions, written down or not. Returns the logs by layout."""
        found, logs = await self._ledger.enter(
            [case.transaction_id for case in cases], [case.tokens for case in cases], rows
        )
        for case, record in zip(cases, found, strict=True):
            case.record = record if isinstance(record, DecisionRecord) else self._backlog.find(case.transaction_id)
            case.unsure = record is NO_ANSWER
        return logs

    async def _decide(self, cases: Sequence[_Case], histories: Histories, watch: "_Stopwatch") -> None:
        """Decide what nobody has decided yet."""
        logits, probabilities = self._model.run(histories.numeric, histories.categorical)
        watch.lap(Stage.MODEL)
        version = self._thresholds.current
        verdicts = self._rule(cases, histories, logits, probabilities, version.thresholds)
        watch.lap(Stage.DECIDE)
        latency_ms = watch.elapsed_ms()
        responses = self._responses(cases, verdicts, version.number, latency_ms)
        await self._remember(cases, histories, responses)
        watch.lap(Stage.RECORD)
        self._observe(cases, verdicts, histories)

    def _rule(
        self,
        cases: Sequence[_Case],
        histories: Histories,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        thresholds: Thresholds,
    ) -> list[_Verdict]:
        scored = [
            None if case.amount_minor is None or isnan(probability) else probability
            for case, probability in zip(cases, probabilities.tolist(), strict=True)
        ]
        rulings = [
            thresholds.decide(
                probability=probability, amount_minor=case.amount_minor, transaction=case.request.transaction
            )
            for case, probability in zip(cases, scored, strict=True)
        ]
        reasons = self._explain(scored, rulings, histories, logits)
        findings = histories.findings.tolist()
        return [
            _Verdict(probability, ruling, reasons.get(index, ()), self._degraded(case, probability, findings[index]))
            for index, (case, probability, ruling) in enumerate(zip(cases, scored, rulings, strict=True))
        ]

    def _explain(
        self,
        scored: Sequence[float | None],
        rulings: Sequence[Ruling],
        histories: Histories,
        logits: NDArray[np.float32],
    ) -> dict[int, tuple[Reason, ...]]:
        """By place in the batch, the reasons for what is not approved."""
        explained = [
            index
            for index, (ruling, probability) in enumerate(zip(rulings, scored, strict=True))
            if ruling.decision is not Decision.APPROVE and probability is not None
        ]
        if not explained:
            return {}
        numeric, categorical = histories.numeric[explained], histories.categorical[explained]
        return dict(zip(explained, self._explainer.explain(numeric, categorical, logits[explained]), strict=True))

    def _degraded(self, case: _Case, probability: float | None, findings: Sequence[int]) -> tuple[str, ...]:
        """What the decision was made without, from the closed list of the contract; `findings` by entity."""
        missing = _missing_histories(self._plan.entities, tuple(findings))
        if case.amount_minor is None:
            missing += ("currency",)
        elif probability is None:
            missing += ("model",)
        if case.unsure:
            missing += ("idempotency",)
        return missing

    def _responses(
        self, cases: Sequence[_Case], verdicts: Sequence[_Verdict], thresholds_version: int, latency_ms: float
    ) -> list[Response]:
        """The answers to the cases (docs/api.md)."""
        contents = [
            Content(
                case.transaction_id,
                _decision_id(case.request),
                verdict.ruling.decision.word,
                verdict.probability,
                self._score(verdict.probability),
                verdict.reasons,
                verdict.ruling.segment,
                verdict.degraded,
                write_instant(case.request.arrival_ms),
            )
            for case, verdict in zip(cases, verdicts, strict=True)
        ]
        return self._writer.write(contents, thresholds_version=thresholds_version, latency_ms=latency_ms)

    def _score(self, probability: float | None) -> int | None:
        """0 to 999: one in 10^(score/100) legitimate transactions scores at least this high."""
        if probability is None:
            return None
        return bisect_right(self._score_thresholds, probability)

    async def _remember(self, cases: Sequence[_Case], histories: Histories, responses: Sequence[Response]) -> None:
        """Keep each decision, so that a retry gets the same bytes and an outcome finds its transaction.

        Of two that decide on the same transaction at once the first to be kept stands, and answers both. What the store
        did not take in time is kept in this process, and says so.
        """
        bodies = [case.request.body for case in cases]
        snapshots = Snapshot.of_batch(bodies, histories.numeric, histories.categorical, histories.findings)
        decisions = list(map(self._decision, cases, responses, histories.revs.tolist(), snapshots))
        standing = await self._store.put_decisions(decisions)
        for case, decision, record in zip(cases, decisions, standing, strict=True):
            case.record = self._keep(case, decision) if record is None else record
            case.made = record is None or record.response is decision.record.response  # else as read from the store

    def _decision(self, case: _Case, response: Response, revs: Sequence[int], snapshot: Snapshot) -> NewDecision:
        """What is kept of a decision; `revs` by entity."""
        row = case.row
        record = DecisionRecord(  # without names, which would cost as much again
            case.request.digest, response, row[C_TIME], row[C_AMOUNT], case.tokens, self._layout.spec, tuple(revs)
        )
        return NewDecision(case.transaction_id, record, snapshot)

    def _keep(self, case: _Case, decision: NewDecision) -> DecisionRecord:
        """Remember a decision in this process, marked as one that no other can repeat for now."""
        record = decision.record
        if not case.unsure:
            case.unsure = True
            answer = orjson.loads(record.response.body)
            answer["degraded"].append("idempotency")
            record = structs.replace(record, response=Response.of(orjson.dumps(answer)))
        self._store.keep([structs.replace(decision, record=record)])
        return record

    def _observe(self, cases: Sequence[_Case], verdicts: Sequence[_Verdict], histories: Histories) -> None:
        made = [verdict for case, verdict in zip(cases, verdicts, strict=True) if case.made]
        missing = [word for verdict in made for word in verdict.degraded]
        missing += [
            "idempotency"
            for case, verdict in zip(cases, verdicts, strict=True)
            if case.made and case.unsure and "idempotency" not in verdict.degraded  # it could not be remembered
        ]
        self._telemetry.observe_decisions(
            [verdict.ruling.decision for verdict in made], [verdict.probability for verdict in made], missing
        )
        if histories.lateness_ms.max() > LATE_MS:
            self._telemetry.observe_late_event(times=int((histories.lateness_ms > LATE_MS).any(axis=1).sum()))

    def _decide_unseen(self, case: _Case) -> None:
        """Decide by the fallback rule, and have it written down when there is time."""
        version = self._thresholds.current
        ruling = version.thresholds.decide(
            probability=None, amount_minor=case.amount_minor, transaction=case.request.transaction
        )
        verdict = _Verdict(None, ruling, (), ("overload", "idempotency"))
        [response] = self._responses([case], [verdict], version.number, 0.0)
        revs, snapshot = nothing_read(self._layout, case.tokens, np.array(case.row, np.int64), case.request.body)
        decision = self._decision(case, response, revs, snapshot)
        case.record, case.made = decision.record, True
        self._telemetry.observe_decision(ruling.decision, None, verdict.degraded)
        self._backlog.add(case.row, decision)

    def _compact_later(self, folded: Iterable[tuple[Logs, Histories]]) -> None:
        for logs, histories in folded:
            self._compactor.compact_later(logs.layout.plan, logs.compactable(histories))

    def _answer(self, request: ScoreRequest, case: _Case) -> Answer | IdempotencyConflict:
        assert case.record is not None, "a case without a decision"
        if case.record.digest != request.digest:
            self._telemetry.observe_conflict()
            return IdempotencyConflict("transaction_id was used before with another body")
        replayed = not case.made or request is not case.request
        if replayed:
            self._telemetry.observe_replay()
        return Answer(case.record.response.body, replayed)

    def _seen(self, snapshot: Snapshot) -> Seen:
        """What the model saw, by name, and why it answered as it did."""
        numeric, categorical = snapshot.numeric[np.newaxis], snapshot.categorical[np.newaxis]
        logits, _ = self._model.run(numeric, categorical)
        (reasons,) = self._explainer.explain(numeric, categorical, logits)
        return Seen(
            numeric={
                name: None if np.isnan(value) else float(value)
                for name, value in zip(self._plan.numeric, snapshot.numeric, strict=True)
            },
            categorical=dict(zip(self._plan.categorical, snapshot.categorical.tolist(), strict=True)),
            reasons=reasons,
        )


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


@lru_cache(maxsize=MOST_FINDINGS)
def _missing_histories(entities: tuple[str, ...], findings: tuple[int, ...]) -> tuple[str, ...]:
    """The entities that were not known, and whether the transaction itself was known too well."""
    missing = [name for name, bits in zip(entities, findings, strict=True) if bits & (UNKNOWN | UNAVAILABLE)]
    return (*missing, "duplicate") if reduce(or_, findings, 0) & DUPLICATE else tuple(missing)


def _decision_id(request: ScoreRequest) -> str:
    """Names one decision: another one for the same transaction id, after the first expired, has another name."""
    return "d-" + (request.digest[:6] + request.arrival_ms.to_bytes(6, "big")).hex()
