"""The reporter: takes what later turned out about transactions into their entities' histories, each thing once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.currency import CurrencyTable
from service.dossier import Dossier, Report, amount_told
from service.errors import OutcomeKeysNeeded, StoreUnavailable
from service.features.entry import CLOCK_TOLERANCE_MS
from service.layout import Layout, tokens_of_outcome
from service.stores.base import LOOK_BACK_MS, Remote
from service.transaction import Outcome

MAX_ATTEMPTS = 8  # at replacing a dossier that somebody else changes at the same time


@dataclass(frozen=True, slots=True)
class Reported:
    """An outcome that was taken: whether it changed any history."""

    transaction_id: str
    changed: bool


class Reporter:
    """Takes outcomes in: first into the transaction's dossier, then into the logs of its entities.

    The dossier says what is still to be appended, so that a process that ends in between loses nothing: the next report
    about the transaction, or the same one again, makes up for it. An entry's id follows from what it says, so a log
    counts it once however often it is appended.
    """

    def __init__(self, store: Remote, layouts: Sequence[Layout], currencies: CurrencyTable) -> None:
        self._store = store
        self._layouts = layouts
        self._currencies = currencies

    async def report(
        self, outcomes: Sequence[Outcome], *, arrival_ms: int
    ) -> list[Reported | OutcomeKeysNeeded | StoreUnavailable]:
        """Take outcomes in, in order.

        Args:
            outcomes: checked outcomes.
            arrival_ms: when they arrived, epoch milliseconds.
        """
        results: list[Reported | OutcomeKeysNeeded | StoreUnavailable] = []
        for outcome in outcomes:
            try:
                results.append(await self._report(outcome, arrival_ms))
            except (OutcomeKeysNeeded, StoreUnavailable) as error:
                results.append(error)
        return results

    async def find_reports(self, transaction_id: str) -> tuple[Report, ...]:
        """What was told about a transaction, in the order of arrival.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        document = await self._store.find_outcomes(transaction_id)
        return () if document is None else Dossier.from_json(document).reports

    async def _report(self, outcome: Outcome, arrival_ms: int) -> Reported:
        name = outcome.transaction_id
        for _ in range(MAX_ATTEMPTS):
            document = await self._store.find_outcomes(name)
            before = await self._begin(outcome, arrival_ms) if document is None else Dossier.from_json(document)
            if before.pending is not None:  # somebody was interrupted here
                before = await self._settle(name, before, document, interrupted=True)
                document = before.to_json()
            after = before.take(outcome, arrival_ms=arrival_ms)
            if after is before:
                return Reported(name, changed=False)
            if await self._store.exchange_outcomes(name, document, after.to_json(), news=after.news(name)):
                if after.pending is not None:
                    await self._settle(name, after, after.to_json(), interrupted=False)
                return Reported(name, changed=after.pending is not None)
        raise StoreUnavailable("the outcomes of this transaction are being changed by others; send it again")

    async def _begin(self, outcome: Outcome, arrival_ms: int) -> Dossier:
        """The dossier of a transaction about which nothing was reported yet."""
        record = await self._store.find_record(outcome.transaction_id)
        if record is not None:
            return Dossier(record.event_time_ms, record.tokens, record.amount_minor)
        if outcome.event_time_ms is None or outcome.card_id is None or outcome.merchant_id is None:
            raise OutcomeKeysNeeded(
                "no decision is held for this transaction: send its timestamp, card_id and merchant_id"
            )
        time_ms = min(outcome.event_time_ms, arrival_ms + CLOCK_TOLERANCE_MS)
        return Dossier(time_ms, tokens_of_outcome(outcome), amount_told(outcome, self._currencies))

    async def _settle(
        self, transaction_id: str, dossier: Dossier, document: bytes | None, *, interrupted: bool
    ) -> Dossier:
        """Append what is pending to every log, and note that it is done; where somebody may have begun, look first.

        `document` is what the store holds of it: that of an earlier version is not what `to_json` would write today.
        """
        rows = dossier.row(transaction_id)[np.newaxis]
        appends = [
            append for layout in self._layouts for append in layout.appends(rows, layout.keys([dossier.tokens])).each()
        ]
        since_ms = dossier.reports[-1].arrived_at_ms - LOOK_BACK_MS
        done = self._store.append_missing(appends, since_ms=since_ms) if interrupted else self._store.append(appends)
        if not all(await done):
            raise StoreUnavailable("the outcome is noted, but not in every history: send it again")
        settled = dossier.settled()
        await self._store.exchange_outcomes(transaction_id, document, settled.to_json(), news=None)
        return settled
