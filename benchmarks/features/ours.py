"""Our side: transactions are added to their entities' logs in Redis and their features read, as the scorer does it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import RequestRefused
from service.compactor import Compactor
from service.currency import CurrencyTable
from service.features.entry import Column, transaction_row
from service.features.joined import NO_STRING
from service.features.online import Histories
from service.features.plan import Plan
from service.layout import Layout, Logs, Tokens, tokens_of
from service.stores.base import Remote
from service.transaction import Transaction

FILLED_AT_ONCE = 50  # few enough that hardly a card occurs twice, so that logs are compacted when they are in service


@dataclass(frozen=True, slots=True)
class Batch:
    """Transactions that wait together: int64 (n, columns), and what names their entities."""

    rows: NDArray[np.int64]
    tokens: Sequence[Tokens]


class Reader:
    """Reads features of transactions, and adds these to the histories of their entities."""

    def __init__(self, plan: Plan, currencies: CurrencyTable, store: Remote) -> None:
        self.layout = Layout(plan)
        self._currencies = currencies
        self._store = store
        self._compactor = Compactor(store, audits=lambda _: False)

    async def read(self, batch: Batch) -> Histories:
        """The features of transactions: what the service counts as its stages store and fold.

        Raises:
            RequestRefused: the store did not answer in time.
        """
        keys = self.layout.keys(batch.tokens)
        appends = self.layout.appends(batch.rows, keys)
        visit = await self._store.visit([], appends, time_ms=int(batch.rows[0, Column.TIME]))
        if NO_STRING in visit.logs.lengths:
            raise RequestRefused("the store did not answer in time")
        logs = Logs.arrange(self.layout, keys, visit.logs, visit.births_ms)
        histories = logs.fold(batch.rows)
        self._compactor.compact_later(self.layout.plan, logs.compactable(histories))
        return histories

    async def read_together(self, batches: Sequence[Batch]) -> Sequence[NDArray[np.float32]]:
        """The features of batches that came in one turn of the loop and are read as one: float32 (n, features) each."""
        rows = np.concatenate([batch.rows for batch in batches])
        histories = await self.read(Batch(rows, [tokens for batch in batches for tokens in batch.tokens]))
        ends = np.cumsum([0, *(len(batch.rows) for batch in batches)])
        return [histories.numeric[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True)]

    async def append(self, batch: Batch) -> None:
        """Add transactions to histories that nobody reads now.

        Raises:
            RequestRefused: the store did not acknowledge all of them.
        """
        if not all(await self._store.append(self.layout.appends(batch.rows, self.layout.keys(batch.tokens)).each())):
            raise RequestRefused("the store did not answer in time")

    async def fill(self, transactions: Iterable[Transaction]) -> None:
        """Read all transactions, to have a history."""
        rest = iter(transactions)
        while some := list(islice(rest, FILLED_AT_ONCE)):
            await self.read(self.prepared(some))
            await self.settle()

    async def settle(self) -> None:
        """Let what runs in the background finish."""
        await self._compactor.close()

    def prepared(self, transactions: Sequence[Transaction]) -> Batch:
        """What the scorer knows of transactions before it asks the store. Each arrives when it happens."""
        return Batch(
            np.array([self._row(transaction) for transaction in transactions], np.int64),
            [tokens_of(transaction) for transaction in transactions],
        )

    def _row(self, transaction: Transaction) -> tuple[int, ...]:
        amount_minor = self._currencies.to_base(transaction.amount, transaction.currency)
        return transaction_row(transaction, arrival_ms=transaction.event_time_ms, amount_minor=amount_minor or 0)
