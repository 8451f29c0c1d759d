"""The compactor: replaces the beginning of long logs by bases, off the critical path."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from service.background import run_behind
from service.features.compaction import Compaction, compact
from service.features.plan import Plan
from service.stores.base import Remote, Replacement

MAX_REPLACED = 4_096  # logs whose latest replacement is remembered, busy ones among them
MAX_STALE = 64  # elements of a log that was read a moment too early; the longest is due with 20
MAX_AT_ONCE = 64  # logs being compacted by one process: 64 round trips under way, a millisecond of folding


class Compactor:
    """Compacts in the background. Losing the race to another process is harmless: the log just keeps its entries."""

    def __init__(self, store: Remote, *, audits: Callable[[bytes], bool]) -> None:
        """`audits` says of which logs the replaced entries are kept."""
        self._store = store
        self._audits = audits
        self._busy: set[bytes] = set()  # keys
        self._under_way: set[asyncio.Task[None]] = set()
        self._replaced: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # by key: generation, first rev

    def compact_later(self, plan: Plan, due: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Begin to compact logs, given as key, value and kind of entity.

        Where too many are under way the rest is left: whoever reads such a log next tries again.
        """
        chosen = {}
        for key, value, k in due:
            if key not in self._busy and len(self._busy) < MAX_AT_ONCE:
                self._busy.add(key)
                chosen[key] = value, k
        if chosen:
            task = run_behind(self._compact(plan, chosen))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Let what is under way finish."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _compact(self, plan: Plan, chosen: Mapping[bytes, tuple[bytes, int]]) -> None:
        try:
            compactions = {key: compact(plan, value, k) for key, (value, k) in chosen.items()}
            replacements = [
                Replacement(key, compaction, self._audits(key))
                for key, compaction in compactions.items()
                if compaction is not None and not self._is_stale(key, compaction)
            ]
            replaced = await self._store.replace(replacements)
            for (key, compaction, _), done in zip(replacements, replaced, strict=True):
                if done:
                    self._replaced[key] = (compaction.generation, compaction.first_rev)
                    self._replaced.move_to_end(key)
            while len(self._replaced) > MAX_REPLACED:
                self._replaced.popitem(last=False)
        finally:
            self._busy.difference_update(chosen)

    def _is_stale(self, key: bytes, compaction: Compaction) -> bool:
        """Whether the log was read before we replaced what is to be replaced again: it would be archived twice.

        One that is much longer than when it was due was not read too early: the store has lost what we wrote.
        """
        generation, first_rev = self._replaced.get(key, (0, -1))
        again = compaction.generation == generation and compaction.first_rev <= first_rev
        return again and compaction.elements < MAX_STALE
