"""The dossier: what is known about one transaction's outcomes, and what that still has to change in the histories."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import orjson
from numpy.typing import NDArray

from service.currency import CurrencyTable
from service.features.entry import CLOCK_TOLERANCE_MS, Kind, outcome_row
from service.layout import Tokens
from service.transaction import Outcome, OutcomeType

MAX_REPORTS = 32  # kept of one transaction; a payment has a handful in its life


@dataclass(frozen=True, slots=True)
class Report:
    """One outcome as it was told. Times are epoch milliseconds."""

    type: str
    fraud: bool | None
    occurred_at_ms: int
    reported_at_ms: int
    arrived_at_ms: int

    def repeats(self, other: "Report") -> bool:
        """Whether it says the same, whenever it arrived."""
        return replace(self, arrived_at_ms=other.arrived_at_ms) == other


@dataclass(frozen=True, slots=True)
class Change:
    """What a report changes in the histories: an entry, but for what is the transaction's own."""

    kind: int
    delta: int
    reported_ms: int
    number: int  # of changes of the label before this one


@dataclass(frozen=True, slots=True)
class Dossier:
    """What is known about one transaction's outcomes; a store keeps it as JSON.

    Attributes:
        event_time_ms: the transaction's effective event time.
        tokens: what names its entities, by KEY_FIELDS.
        amount_minor: its amount in minor units of the base currency, 0 where it is unknown. It never changes, so that
            a label that is taken back takes back what it had added.
        label: 1 if it is taken for fraud now, else 0.
        changes: how often that changed.
        declined: whether the issuer declined it, which counts once.
        reports: everything told so far, in the order of arrival, at most the last `MAX_REPORTS`.
        pending: a change that is decided on, but not yet in every log.
    """

    event_time_ms: int
    tokens: Tokens
    amount_minor: int
    label: int = 0
    changes: int = 0
    declined: bool = False
    reports: tuple[Report, ...] = ()
    pending: Change | None = None

    def take(self, outcome: Outcome, *, arrival_ms: int) -> "Dossier":
        """The dossier with an outcome taken in, and the change that follows from it pending; itself if it is known."""
        assert self.pending is None, self.pending
        report = Report(outcome.type.value, outcome.fraud, outcome.occurred_at_ms, outcome.reported_at_ms, arrival_ms)
        if any(earlier.repeats(report) for earlier in self.reports):
            return self
        reports = (*self.reports, report)[-MAX_REPORTS:]
        reported_ms = min(outcome.reported_at_ms, arrival_ms + CLOCK_TOLERANCE_MS)
        if outcome.type is OutcomeType.ISSUER_DECLINED:
            change = None if self.declined else Change(int(Kind.ISSUER_DECLINE), 0, reported_ms, 0)
            return replace(self, reports=reports, declined=True, pending=change)
        label = label_of(outcome)
        if label is None or label == self.label:
            return replace(self, reports=reports)
        change = Change(int(Kind.FRAUD_LABEL), label - self.label, reported_ms, self.changes)
        return replace(self, reports=reports, label=label, changes=self.changes + 1, pending=change)

    def row(self, transaction_id: str) -> NDArray[np.int64]:
        """The event row of what is pending: int64 (columns,), without the entities' columns."""
        assert self.pending is not None, "nothing is pending"
        row = outcome_row(
            Kind(self.pending.kind),
            transaction_id=transaction_id,
            reported_ms=self.pending.reported_ms,
            origin_ms=self.event_time_ms,
            delta=self.pending.delta,
            keys={},
            number=self.pending.number,
            amount_minor=self.amount_minor,
        )
        return np.array(row, np.int64)

    def settled(self) -> "Dossier":
        """The dossier once every log has what was pending."""
        return replace(self, pending=None)

    def news(self, transaction_id: str) -> bytes:
        """The latest report, for those who collect outcomes."""
        return orjson.dumps({
            "transaction_id": transaction_id,
            "event_time_ms": self.event_time_ms,
            "amount_minor": self.amount_minor,
            **asdict(self.reports[-1]),
        })  # fmt: skip

    def to_json(self) -> bytes:
        """The document that a store keeps."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, document: bytes) -> "Dossier":
        """The dossier in a document; in one of an earlier version the amount is not known."""
        values = orjson.loads(document)
        return cls(
            event_time_ms=values["event_time_ms"],
            tokens=tuple(values["tokens"]),
            amount_minor=values.get("amount_minor", 0),
            label=values["label"],
            changes=values["changes"],
            declined=values["declined"],
            reports=tuple(Report(**report) for report in values["reports"]),
            pending=None if values["pending"] is None else Change(**values["pending"]),
        )


_FRAUD_TYPES = {OutcomeType.EARLY_FRAUD_WARNING, OutcomeType.CONFIRMED_FRAUD}
_LEGITIMATE_TYPES = {OutcomeType.CONFIRMED_LEGITIMATE, OutcomeType.WITHDRAWN}


def label_of(outcome: Outcome) -> int | None:
    """The label an outcome gives its transaction; None where it says nothing about fraud."""
    if outcome.type in _FRAUD_TYPES or (outcome.type is OutcomeType.DISPUTE and outcome.fraud):
        return 1
    return 0 if outcome.type in _LEGITIMATE_TYPES else None


def amount_told(outcome: Outcome, currencies: CurrencyTable) -> int:
    """What an outcome says its transaction amounts to, in minor units of the base currency.

    0 where it does not say, and where the table has no rate: as the transaction itself would have been counted.
    """
    if outcome.amount is None or outcome.currency is None:
        return 0
    return currencies.to_base(outcome.amount, outcome.currency) or 0
