"""The ledger: enters transactions into the logs of every spec, and takes back what was counted twice."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from service.features.encoding import encode
from service.features.entry import Column, void_row
from service.features.kernel import DUPLICATE, RETRIED
from service.features.online import Histories
from service.layout import Layout, Logs, Tokens
from service.stores.base import NOWHERE, Append, Appends, DecisionRecord, Store, Unanswered


class Ledger:
    """One trip to the store enters a batch into all logs, reads them, and looks for earlier decisions."""

    def __init__(self, store: Store, layouts: Sequence[Layout]) -> None:
        """`layouts`: of the spec that is served, and of those that only gather their history."""
        self._store = store
        self._layouts = layouts

    async def enter(
        self, transaction_ids: Sequence[str], tokens: Sequence[Tokens], rows: NDArray[np.int64]
    ) -> tuple[list[DecisionRecord | Unanswered | None], list[Logs]]:
        """Add each transaction to its entities' logs. That of a retry too: its fold ignores what was there before.

        Args:
            transaction_ids: (n,), whose earlier decisions to look for.
            tokens: (n,), what names their entities.
            rows: int64 (n, columns), the transactions.

        Returns:
            By transaction, what is held under its id; by layout, the logs.
        """
        keys = [layout.keys(tokens) for layout in self._layouts]
        appends = [layout.appends(rows, named) for layout, named in zip(self._layouts, keys, strict=True)]
        visit = await self._store.visit(transaction_ids, Appends.together(appends), time_ms=int(rows[0, Column.TIME]))
        counts = [len(part.keys) for part in appends]
        births_ms = iter(visit.births_ms)
        return visit.records, [
            Logs.arrange(layout, named, logs, list(islice(births_ms, count)))
            for layout, named, logs, count in zip(self._layouts, keys, visit.logs.split(counts), counts, strict=True)
        ]

    def enter_later(self, tokens: Sequence[Tokens], rows: NDArray[np.int64]) -> None:
        """Leave it to the store when to add them (`Store.defer`)."""
        for layout in self._layouts:
            self._store.defer(layout.appends(rows, layout.keys(tokens)).each())

    async def take_back(
        self,
        rows: NDArray[np.int64],
        decided: Mapping[int, DecisionRecord],
        folded: Iterable[tuple[Logs, Histories]],
    ) -> None:
        """Take back what was counted for a transaction that had been decided before, or that is refused.

        A log that remembers the id counted nothing. One that does not has counted it: for another entity than was
        decided on, or a second time because its ring had forgotten the first.

        Args:
            rows: int64 (n, columns), what was entered.
            decided: by place among them, the decision that stands where it was not made for this one.
            folded: by layout, the logs and what came of them.
        """
        voids = []
        for logs, histories in folded:
            for index, record in decided.items():
                for k, decided_on in enumerate(logs.layout.keys([record.tokens])):
                    mine, rev = logs.keys[index * logs.layout.kinds + k], int(histories.revs[index, k])
                    counted = rev >= 0 and not histories.findings[index, k] & (RETRIED | DUPLICATE)
                    second = mine != decided_on or _is_second(record, logs.layout, k, rev)
                    if mine is not None and counted and second:
                        void = np.array(void_row(rows[index].tolist(), rev=rev), np.int64)
                        voids.append(Append(mine, encode(logs.layout.plan, void, k)))
        if voids:
            await self._store.visit([], Appends.of(voids), time_ms=int(rows[0, Column.TIME]))


def _is_second(record: DecisionRecord, layout: Layout, k: int, rev: int) -> bool:
    """Whether what a log accepted at `rev` is a second entry beside the one that was decided on.

    Where that one's place was never known it may still be on its way, and this one be it.
    """
    return record.spec == layout.spec and record.revs[k] not in {rev, NOWHERE}
