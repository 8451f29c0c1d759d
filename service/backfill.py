"""Backfill: brings past transactions into a shared store, so that a service need not begin without any history."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.currency import CurrencyTable
from service.dossier import Dossier, amount_told
from service.errors import DataInvalid, RequestInvalid
from service.features.compaction import base_head, split_base
from service.features.encoding import encode, read_entries
from service.features.entry import Column, transaction_row
from service.features.offline import base_of
from service.features.plan import Plan
from service.layout import Layout, Tokens, tokens_of, tokens_of_outcome
from service.stores.base import Archive, Chunk, Remote
from service.transaction import Outcome, read_outcome, read_transaction

LOGS_AT_ONCE = 256  # read in one trip
MAX_ATTEMPTS = 5  # at putting a base before a log that is being compacted at the same time


class SharedStore(Remote, Archive, Protocol):
    """A store into which a past can be brought."""


@dataclass(frozen=True, slots=True)
class History:
    """Past transactions and their outcomes.

    Attributes:
        events: int64 (n, columns), the engine's rows, in the order in which they arrived.
        tokens: by event, what names the entities it is about.
        dossiers: by transaction id, what is known about its outcomes.
    """

    events: NDArray[np.int64]
    tokens: list[Tokens]
    dossiers: Mapping[str, Dossier]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What became of a history.

    Attributes:
        events: how many it had.
        seeded: logs that begin with it now.
        complete: logs that held all of it already.
        unjoined: logs that were compacted before, and whose beginning is no longer archived: they are as they were.
        dossiers: transactions with outcomes that were remembered.
    """

    events: int
    seeded: int
    complete: int
    unjoined: int
    dossiers: int


def read_history(lines: Iterable[bytes], currencies: CurrencyTable, *, now_ms: int) -> History:
    """Read a past, one JSON object per line, in the order in which things happened.

    Args:
        lines: bodies as POST /score and POST /outcomes take them. What happened then arrived then.
        currencies: rates to the base currency.
        now_ms: no event may be later than a day after this.

    Raises:
        DataInvalid: a line cannot be read; says which, and why.
    """
    rows: list[tuple[int, ...]] = []
    tokens: list[Tokens] = []
    dossiers: dict[str, Dossier] = {}
    begun: dict[str, Dossier] = {}  # by transaction id, before anything is reported about it
    for number, line in enumerate(lines, start=1):
        try:
            if b'"type"' in line:  # only outcomes have one, and no value can hold a quotation mark
                outcome = read_outcome(line, arrival_ms=now_ms, allow_card_numbers=True)
                before = dossiers.get(outcome.transaction_id) or _begin(outcome, begun, currencies)
                after = before.take(outcome, arrival_ms=outcome.reported_at_ms)
                if after.pending is not None:
                    rows.append(tuple(after.row(outcome.transaction_id).tolist()))
                    tokens.append(after.tokens)
                dossiers[outcome.transaction_id] = after.settled()
            else:
                transaction = read_transaction(line, arrival_ms=now_ms, allow_card_numbers=True)
                amount = currencies.to_base(transaction.amount, transaction.currency) or 0
                row = transaction_row(transaction, arrival_ms=transaction.event_time_ms, amount_minor=amount)
                rows.append(row)
                tokens.append(tokens_of(transaction))
                begun[transaction.transaction_id] = Dossier(row[Column.TIME], tokens[-1], row[Column.AMOUNT])
        except RequestInvalid as error:
            raise DataInvalid(f"line {number}: {error}") from error
        except LookupError as error:
            raise DataInvalid(f"line {number}: the outcome of a transaction that stands nowhere before it") from error
    return History(np.array(rows, np.int64).reshape(len(rows), len(Column)), tokens, dossiers)


async def backfill(store: SharedStore, layout: Layout, history: History) -> Backfilled:
    """Let every log begin with its past. Safe while the service runs, and to be run again after an interruption.

    What a log already holds of the past, because the service was told of it live, is not counted twice. A log that was
    compacted in the meantime is put together from its archived entries.

    Args:
        store: where to.
        layout: of which spec.
        history: the past.

    Raises:
        StoreUnavailable: the store did not answer; run it again.
    """
    counts: Counter[str] = Counter()
    for k in range(layout.kinds):
        past = _pasts(layout, k, history)
        results = await _seed_all(store, layout, k, past, history.events)
        unjoined = {key: past[key] for key, result in results.items() if result == UNJOINED}
        if unjoined:  # some may have been compacted since their archive was read
            results |= await _seed_all(store, layout, k, unjoined, history.events)
        counts.update(results.values())
    if len(history.events):  # last: until every log has its past, one without is unknown, not new
        await store.set_birth(int(history.events[0, Column.TIME]))
    for transaction_id, dossier in history.dossiers.items():
        await store.exchange_outcomes(transaction_id, None, dossier.to_json(), news=None)
    return Backfilled(len(history.events), counts[SEEDED], counts[COMPLETE], counts[UNJOINED], len(history.dossiers))


SEEDED, COMPLETE, UNJOINED = "seeded", "complete", "unjoined"


async def _seed_all(
    store: SharedStore, layout: Layout, k: int, past: Mapping[bytes, list[int]], events: NDArray[np.int64]
) -> dict[bytes, str]:
    """Put the past before the logs of one kind of entity. Returns by key what became of it."""
    chunks = await _chunks(store, layout)
    results = {}
    keys = list(past)
    for first in range(0, len(keys), LOGS_AT_ONCE):
        part = keys[first : first + LOGS_AT_ONCE]
        for key, log in zip(part, await store.read_logs(part), strict=True):
            beginning = _Beginning(layout.plan, k, key, events[past[key]], chunks[key])
            results[key] = await beginning.put_before(store, log)
    return results


def _begin(outcome: Outcome, begun: Mapping[str, Dossier], currencies: CurrencyTable) -> Dossier:
    """The dossier of a transaction about which nothing was reported yet.

    Raises:
        LookupError: neither did it come before, nor does the outcome carry its keys.
    """
    if outcome.transaction_id in begun:
        return begun[outcome.transaction_id]
    if outcome.event_time_ms is None or outcome.card_id is None or outcome.merchant_id is None:
        raise LookupError
    return Dossier(outcome.event_time_ms, tokens_of_outcome(outcome), amount_told(outcome, currencies))


async def _chunks(store: Archive, layout: Layout) -> Mapping[bytes, list[Chunk]]:
    """What is archived of each log of a spec."""
    chunks: defaultdict[bytes, list[Chunk]] = defaultdict(list)
    async for key, chunk in store.archived(f"{layout.spec}:".encode()):
        chunks[key].append(chunk)
    return chunks


def _pasts(layout: Layout, k: int, history: History) -> dict[bytes, list[int]]:
    """By key of a log of entity kind k, the history's events that belong to it, in order."""
    pasts: defaultdict[bytes, list[int]] = defaultdict(list)
    for event, key in enumerate(layout.keys(history.tokens)[k :: layout.kinds]):
        if key is not None:
            pasts[key].append(event)
    return pasts


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What one log of entity kind k is to begin with: past events, and the entries that its own base stands for."""

    plan: Plan
    k: int
    key: bytes
    past: NDArray[np.int64]
    chunks: list[Chunk]

    async def put_before(self, store: SharedStore, log: bytes) -> str:
        for _ in range(MAX_ATTEMPTS):
            base, tail = split_base(log)
            live = read_entries(self.plan, self.k, tail)
            folded = self._entries_of(base) if base else live[:0]
            if folded is None:
                return UNJOINED
            held = np.concatenate([live, folded])[:, Column.ID]
            older = self.past[~np.isin(self.past[:, Column.ID], held)]
            if not len(older):
                return COMPLETE
            joined = base_of(self.plan, self.k, np.concatenate([older, folded]))
            generation, rev = base_head(self.plan, self.k, joined)
            first = base or (encode(self.plan, live[0], self.k) if len(live) else b"")
            if await store.seed(self.key, joined, generation=generation, rev=rev, beginning=first):
                return SEEDED
            [log] = await store.read_logs([self.key])
        return UNJOINED

    def _entries_of(self, base: bytes) -> NDArray[np.int64] | None:
        """The rows of all entries that a base stands for; None where not all of them are archived."""
        generation, rev = base_head(self.plan, self.k, base)
        rows = np.empty((0, len(Column)), np.int64)
        for chunk in sorted(chunk for chunk in self.chunks if chunk.generation == generation):
            if chunk.first_rev > len(rows):
                return None
            rows = np.concatenate([rows[: chunk.first_rev], read_entries(self.plan, self.k, chunk.entries)])
        return rows[:rev] if len(rows) >= rev else None
