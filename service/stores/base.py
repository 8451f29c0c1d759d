"""What the scorer asks of a store: histories that grow, decisions that are remembered, outcomes that change them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, Protocol, Self

from msgspec import Struct

from service.features.compaction import Compaction
from service.features.joined import Joined
from service.response import Response
from service.stores.snapshot import Snapshot

MAX_CHUNKS = 256  # kept beside an audited log; then it begins anew. Some 4,000 entries: 100 KB, 15 ms of folding


LOOK_BACK_MS = 60_000  # before something was sent: for the first attempt of a retry, and for clocks that differ
NOWHERE, APPENDED_LATER = -1, -2  # for a rev


class Append(NamedTuple):
    """One entry for one entity's log."""

    key: bytes
    entry: bytes


class Appends(NamedTuple):
    """Entries for a batch of logs.

    Attributes:
        keys: (n,), of the logs; perhaps one several times.
        entries: n, one for each.
    """

    keys: Sequence[bytes]
    entries: Joined

    @classmethod
    def of(cls, appends: Sequence[Append]) -> Self:
        """Entries as they are elsewhere."""
        return cls([append.key for append in appends], Joined.of([append.entry for append in appends]))

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Those of several batches, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls([key for part in parts for key in part.keys], Joined.together([part.entries for part in parts]))

    def at(self, places: Sequence[int]) -> list[Append]:
        """Some of them, one by one."""
        entries = self.entries.at(places)
        return [Append(self.keys[place], entry or b"") for place, entry in zip(places, entries, strict=True)]

    def each(self) -> list[Append]:
        """All of them, one by one."""
        return [Append(key, entry or b"") for key, entry in zip(self.keys, self.entries.strings(), strict=True)]


class Unanswered(Enum):
    """What stands where there can be no value."""

    NONE = "no answer in time"  # to be told from None, which is an answer: there is nothing


NO_ANSWER: Literal[Unanswered.NONE] = Unanswered.NONE


class DecisionRecord(Struct, frozen=True, gc=False):
    """What is kept of a decision: enough to repeat the answer and to place its outcomes.

    Attributes:
        digest: 16 bytes of the request's digest, to tell a retry from another use of the same id.
        response: the body that was sent.
        event_time_ms: the transaction's effective event time.
        amount_minor: its amount in minor units of the base currency, as its entry has it: 0 where there is no rate.
        tokens: what names its entities, by `service.features.spec.KEY_FIELDS`; None where it does not name one.
        spec: the first 8 hexadecimal digits of the feature spec's sha256: whose entities `revs` are about.
        revs: by entity of that spec, where the transaction stands in its log; `NOWHERE` where it has none or none is
            known, `APPENDED_LATER` where it was appended after the decision.
        position: where the store keeps the snapshot; empty where it keeps none, and before the record is found again.
    """

    digest: bytes
    response: Response
    event_time_ms: int
    amount_minor: int
    tokens: tuple[str | None, ...]
    spec: str
    revs: tuple[int, ...]
    position: str = ""


class NewDecision(Struct, frozen=True, gc=False):
    """A decision to be remembered, unless the transaction already has one."""

    transaction_id: str
    record: DecisionRecord
    snapshot: Snapshot


class Visit(NamedTuple):
    """What one trip to the store found.

    Attributes:
        logs: by append, the whole log behind it; none: no answer in time, and whether it was appended is not known.
        births_ms: by append, the effective time of the first entry ever accepted where its log is kept.
        records: by transaction id, the decision held under it.
    """

    logs: Joined
    births_ms: Sequence[int]
    records: list[DecisionRecord | Unanswered | None]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How a store is, in numbers that it counts anyway; those that end in -s and have no "now" never fall.

    Attributes:
        entities: logs held now; None where only the server could tell.
        evictions: logs forgotten for want of room, as far as the server tells.
        links: servers it talks to now.
        links_up: of these, how many answer.
        timeouts: trips that got no answer in time.
        unsent: trips not begun, because a link was down or too much was under way.
        refused: commands that a server answered with an error: it is full, is loading, or its user may not.
        deferred: appends and decisions that wait now in this process for the store to answer again.
        dropped: of these, how many were given up because too many waited.
        archive_overflow: archived entries' messages that were removed before they were collected.
        decisions_overflow: decisions that were removed from the stream before they were collected.
        outcomes_overflow: outcomes, the same.
    """

    entities: int | None = None
    evictions: int = 0
    links: int = 0
    links_up: int = 0
    timeouts: int = 0
    unsent: int = 0
    refused: int = 0
    deferred: int = 0
    dropped: int = 0
    archive_overflow: int = 0
    decisions_overflow: int = 0
    outcomes_overflow: int = 0


class Chunk(NamedTuple):
    """Entries of a log that were replaced by a base, one after the other; entry i has rev first_rev + i."""

    generation: int
    first_rev: int
    entries: bytes


class Replacement(NamedTuple):
    """A base for the beginning of a log.

    Attributes:
        key: of the log.
        compaction: the base, and what it stands for.
        audited: whether its entries are also kept beside the log, for `Remote.find_past`.
    """

    key: bytes
    compaction: Compaction
    audited: bool


class Past(NamedTuple):
    """Everything that is still known of an audited log.

    Attributes:
        seed: the base that the first chunk came after; b"" where that began the log.
        chunks: in the order in which they were replaced, without a gap if every process audits the same logs.
        log: the log as it is. It was read last, so what was taken out of it meanwhile is not among the chunks.
    """

    seed: bytes
    chunks: list[Chunk]
    log: bytes


class Remote(Protocol):
    """Histories, decisions and outcomes. Every method keeps to its bounds; none of them knows what an entry means."""

    async def visit(self, transaction_ids: Sequence[str], appends: Appends, *, time_ms: int) -> Visit:
        """Look for decisions, append each entry to its log, and read the logs, in one trip. Never raises.

        Args:
            transaction_ids: whose decisions to look for.
            appends: in order; two to the same log see each other.
            time_ms: effective time of the first entry; a store without a birth is born then.
        """
        ...

    async def append(self, appends: Sequence[Append]) -> list[bool]:
        """Append without reading. Returns which were acknowledged; the others may or may not be there. Never raises."""
        ...

    async def append_missing(self, appends: Sequence[Append], *, since_ms: int) -> list[bool]:
        """Append what may have been appended before, unless it was.

        Args:
            appends: what got no answer.
            since_ms: when the first of them could have been done, by the wall clock; the same for one outage.

        Returns which are there now for certain. Never raises.
        """
        ...

    async def replace(self, replacements: Sequence[Replacement]) -> list[bool]:
        """Archive the entries that bases stand for, then put the bases in their places.

        Returns False where a log no longer begins with them, or the store did not answer: nothing is lost then.
        """
        ...

    async def find_past(self, key: bytes) -> Past | None:
        """What was kept beside an audited log, and the log; None where there is nothing, or no answer in time."""
        ...

    async def put_decisions(self, decisions: Sequence[NewDecision]) -> list[DecisionRecord | None]:
        """Remember decisions, each together with its snapshot, unless its transaction has one already.

        Returns the record that stands: the one given, or an earlier one. None: no answer in time, and whether it is
        remembered is not known. Never raises.
        """
        ...

    async def find_record(self, transaction_id: str) -> DecisionRecord | None:
        """The decision held under an id.

        Raises:
            StoreUnavailable: the store did not answer in time; so for every method below.
        """
        ...

    async def find_snapshot(self, transaction_id: str, record: DecisionRecord) -> Snapshot | None:
        """What a decision was made from; None once the store needed its room."""
        ...

    async def find_outcomes(self, transaction_id: str) -> bytes | None:
        """The document about a transaction's outcomes."""
        ...

    async def exchange_outcomes(
        self, transaction_id: str, before: bytes | None, after: bytes, *, news: bytes | None
    ) -> bool:
        """Replace the document about a transaction's outcomes, if it still is `before`; else do nothing.

        Args:
            transaction_id: whose.
            before: what it was read as; None: there was none.
            after: what it becomes.
            news: what to tell those who collect outcomes, exactly if the document is replaced.
        """
        ...

    def status(self) -> StoreStatus:
        """How it is now."""
        ...

    async def close(self) -> None:
        """Give back what the store holds open."""
        ...


class Archive(Protocol):
    """What a store that several processes share offers to those who bring a past into it."""

    def archived(self, prefix: bytes) -> AsyncIterator[tuple[bytes, Chunk]]:
        """Every chunk of a log whose key begins with `prefix` that is still archived; the same one may come twice.

        Raises:
            StoreUnavailable: the store did not answer in time; so for every method below.
        """
        ...

    async def read_logs(self, keys: Sequence[bytes]) -> list[bytes]:
        """Logs as they are; b"" where there is none."""
        ...

    async def seed(self, key: bytes, base: bytes, *, generation: int, rev: int, beginning: bytes) -> bool:
        """Put a base before a log, in place of its own one, and tell those who collect the archive.

        Args:
            key: of the log.
            base: to be put there.
            generation: the life of the log that it is about.
            rev: how many entries it stands for.
            beginning: the first element of the log as it was read, which a base replaces; b"" where there is no log.

        Returns False where the log begins with something else by now.
        """
        ...

    async def set_birth(self, time_ms: int) -> None:
        """Let the store be as old as the past that was brought into it."""
        ...


class Store(Remote, Protocol):
    """A store that also copes with getting no answer: what was to be appended or remembered is done later."""

    def defer(self, appends: Sequence[Append]) -> None:
        """Append later what got no answer."""
        ...

    def keep(self, decisions: Sequence[NewDecision]) -> None:
        """Remember decisions in this process, until the store that gave no answer for them does."""
        ...
