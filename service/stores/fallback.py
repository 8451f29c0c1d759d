"""A store's stand-in while it gives no answer: remembers decisions in this process and does later what was left out."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import structlog
from msgspec import structs

from service.background import run_behind
from service.features.joined import NO_STRING
from service.stores.base import (
    APPENDED_LATER,
    LOOK_BACK_MS,
    NOWHERE,
    Append,
    Appends,
    DecisionRecord,
    NewDecision,
    Past,
    Remote,
    Replacement,
    StoreStatus,
    Unanswered,
    Visit,
)
from service.stores.snapshot import Snapshot

HAND_OVER_SECONDS = 0.1  # between attempts: a store that is back is noticed well within two seconds
LAST_ATTEMPTS = 30  # at the end, in a row and in vain: 3 s for a store that is away, more on a starved machine
HAND_OVER_AT_ONCE = 256  # appends or decisions of one attempt, so that live requests hardly wait behind them
MORE_AT_ONCE = 16  # after an attempt of which something was taken; after one whose answers came too late, half as many
MAX_DEFERRED_APPENDS = 100_000  # at 100 transactions a second four minutes of an outage
MAX_KEPT_DECISIONS = 20_000  # with the appends 140 MB

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class FallbackStore:
    """Wraps a store that may not answer in time.

    What got no answer is done later. It may have been done already, by a request that came first or although the answer
    was lost; so it is looked for, since a busy log forgets the ids by which the fold would notice. What waits here is
    lost with the process.
    """

    def __init__(self, remote: Remote, *, now_ms: Callable[[], int]) -> None:
        """`now_ms`: the wall clock, to look for what was done unnoticed."""
        self._remote = remote
        self._now_ms = now_ms
        self._appends: deque[Append] = deque()
        self._since_ms = 0  # when the first of them could have been done
        self._decisions: OrderedDict[str, NewDecision] = OrderedDict()
        self._dropped = 0
        self._at_once = HAND_OVER_AT_ONCE
        self._handing_over: asyncio.Task[None] | None = None

    async def visit(self, transaction_ids: Sequence[str], appends: Appends, *, time_ms: int) -> Visit:
        """See `Remote`; decisions kept here are found too, and entries that were not acknowledged appended later."""
        found = await self._remote.visit(transaction_ids, appends, time_ms=time_ms)
        lengths = found.logs.lengths.tolist()
        if NO_STRING in lengths:
            self.defer(appends.at([place for place, length in enumerate(lengths) if length == NO_STRING]))
        if not self._decisions:
            return found
        pairs = zip(transaction_ids, found.records, strict=True)
        return found._replace(records=[self._known(transaction_id, record) for transaction_id, record in pairs])

    async def append_missing(self, appends: Sequence[Append], *, since_ms: int) -> list[bool]:
        """See `Remote`."""
        return await self._remote.append_missing(appends, since_ms=since_ms)

    async def append(self, appends: Sequence[Append]) -> list[bool]:
        """See `Remote`; not deferred, since the caller learns what was not acknowledged."""
        return await self._remote.append(appends)

    async def replace(self, replacements: Sequence[Replacement]) -> list[bool]:
        """See `Remote`."""
        return await self._remote.replace(replacements)

    async def find_past(self, key: bytes) -> Past | None:
        """See `Remote`."""
        return await self._remote.find_past(key)

    async def put_decisions(self, decisions: Sequence[NewDecision]) -> list[DecisionRecord | None]:
        """See `Remote`."""
        return await self._remote.put_decisions(decisions)

    def defer(self, appends: Sequence[Append]) -> None:
        """See `Store`; as many as there is room for."""
        if not appends:
            return
        if not self._appends:
            self._since_ms = self._now_ms() - LOOK_BACK_MS
        room = MAX_DEFERRED_APPENDS - len(self._appends)
        self._appends.extend(appends[:room])
        self._dropped += max(0, len(appends) - room)
        self._hand_over_later()

    def keep(self, decisions: Sequence[NewDecision]) -> None:
        """See `Store`."""
        for decision in decisions:
            self._decisions[decision.transaction_id] = decision
            if len(self._decisions) > MAX_KEPT_DECISIONS:
                self._decisions.popitem(last=False)
                self._dropped += 1
        if decisions:
            self._hand_over_later()

    async def find_record(self, transaction_id: str) -> DecisionRecord | None:
        """See `Remote`."""
        kept = self._decisions.get(transaction_id)
        return await self._remote.find_record(transaction_id) if kept is None else kept.record

    async def find_snapshot(self, transaction_id: str, record: DecisionRecord) -> Snapshot | None:
        """See `Remote`."""
        kept = self._decisions.get(transaction_id)
        return await self._remote.find_snapshot(transaction_id, record) if kept is None else kept.snapshot

    async def find_outcomes(self, transaction_id: str) -> bytes | None:
        """See `Remote`."""
        return await self._remote.find_outcomes(transaction_id)

    async def exchange_outcomes(
        self, transaction_id: str, before: bytes | None, after: bytes, *, news: bytes | None
    ) -> bool:
        """See `Remote`."""
        return await self._remote.exchange_outcomes(transaction_id, before, after, news=news)

    def status(self) -> StoreStatus:
        """See `Remote`."""
        return replace(self._remote.status(), deferred=self._waiting, dropped=self._dropped)

    async def close(self) -> None:
        """See `Remote`; what still waits is handed over first."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            await asyncio.gather(self._handing_over, return_exceptions=True)
            await self._hand_over_the_rest()
        await self._remote.close()

    @property
    def _waiting(self) -> int:
        return len(self._appends) + len(self._decisions)

    def _known(
        self, transaction_id: str, found: DecisionRecord | Unanswered | None
    ) -> DecisionRecord | Unanswered | None:
        """What is kept here is not there yet, or was written there by somebody else in the meantime."""
        kept = self._decisions.get(transaction_id)
        return found if kept is None or isinstance(found, DecisionRecord) else kept.record

    def _hand_over_later(self) -> None:
        if self._handing_over is None or self._handing_over.done():
            self._handing_over = run_behind(self._hand_over())

    async def _hand_over(self) -> None:
        while self._waiting:
            await asyncio.sleep(HAND_OVER_SECONDS)
            while self._waiting and await self._hand_over_some():
                pass

    async def _hand_over_the_rest(self) -> None:
        """As long as the store takes some of it, however slowly: attempts decide, for a clock does not know why."""
        in_vain = 0
        while self._waiting and in_vain < LAST_ATTEMPTS:
            if await self._hand_over_some():
                in_vain = 0
            else:
                in_vain += 1
                await asyncio.sleep(HAND_OVER_SECONDS)
        if self._waiting:
            _log.error("store_hand_over_given_up", appends=len(self._appends), decisions=len(self._decisions))

    async def _hand_over_some(self) -> int:
        """Hand over the oldest of what waits; decisions after all entries, so that their records can say so.

        Returns how many were taken. What is too much to be answered in time would never be, however often it is tried.
        """
        timeouts = self._remote.status().timeouts
        taken = await (self._hand_over_appends() if self._appends else self._hand_over_decisions())
        if taken:
            self._at_once = min(self._at_once + MORE_AT_ONCE, HAND_OVER_AT_ONCE)
        elif self._remote.status().timeouts > timeouts:
            self._at_once = max(self._at_once // 2, 1)
        return taken

    async def _hand_over_appends(self) -> int:
        appends = list(islice(self._appends, self._at_once))
        there = await self._remote.append_missing(appends, since_ms=self._since_ms)
        for _ in appends:  # only now: what is cancelled above is not lost, and what came meanwhile stands behind
            self._appends.popleft()
        left = [append for append, done in zip(appends, there, strict=True) if not done]
        self._appends.extend(left)  # behind the others: one server that is away shall not keep them
        return len(appends) - len(left)

    async def _hand_over_decisions(self) -> int:
        decisions = [_appended(decision) for decision in islice(self._decisions.values(), self._at_once)]
        standing = await self._remote.put_decisions(decisions)
        for decision, record in zip(decisions, standing, strict=True):
            kept = self._decisions.pop(decision.transaction_id, None)
            if record is None and kept is not None:
                self._decisions[decision.transaction_id] = kept  # behind the others, for the same reason
        return len(decisions) - standing.count(None)


def _appended(decision: NewDecision) -> NewDecision:
    """A decision whose entries were all appended in the meantime, though it is not known where."""
    revs = tuple(APPENDED_LATER if rev == NOWHERE else rev for rev in decision.record.revs)
    return structs.replace(decision, record=structs.replace(decision.record, revs=revs))
