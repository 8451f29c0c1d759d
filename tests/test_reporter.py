"""The reporter: a label knows what its transaction amounts to, wherever that is known from."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest
from numpy.typing import NDArray

from service.dossier import Dossier
from service.features.entry import Column, Kind
from service.layout import Layout
from service.reporter import Reported, Reporter
from service.stores.base import Appends
from service.stores.memory import MemoryStore
from tests.scoring import START_MS, Scoring, outcome, request, scoring
from tests.test_dossier import WITHOUT_AMOUNT


class Said(TypedDict, total=False):
    """What a request or an outcome says of a transaction."""

    timestamp: str
    card_id: str
    merchant_id: str
    amount: int
    currency: str
    follows: str
    follow_kind: str


KEYS: Said = {"timestamp": "2026-11-01T00:00:00Z", "card_id": "card", "merchant_id": "m"}

Story = Callable[[Scoring, "Watched"], Awaitable[None]]


class Watched(Layout):
    """A layout that remembers the labels that were appended to its logs."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.plan)
        self.labels: list[tuple[int, int]] = []  # what each adds to the label, and its amount

    def appends(self, rows: NDArray[np.int64], keys: Sequence[bytes | None]) -> Appends:
        """The same as ever."""
        labels = rows[rows[:, Column.KIND] == Kind.FRAUD_LABEL]
        self.labels += [(int(row[Column.DELTA]), int(row[Column.AMOUNT])) for row in labels]
        return super().appends(rows, keys)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_entities=1000, max_decisions=1000)


@pytest.fixture
def tell(store: MemoryStore, small_bundle: Path, tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story of one process whose appended labels are watched."""

    def run(story: Story) -> None:
        async def told() -> None:
            one = scoring(small_bundle, store, tmp_path)
            watched = Watched(one.layout)
            one = Scoring(
                one.bundle, one.scorer, Reporter(store, [watched], one.bundle.currencies), one.telemetry, watched
            )
            await story(one, watched)
            await one.scorer.close()

        asyncio.run(told())

    return run


@pytest.mark.parametrize(
    ("paid", "amount_minor"),
    [
        ({"amount": 2_000, "currency": "EUR"}, 2_000),
        ({"amount": 2_001, "currency": "USD"}, 1_000),
        ({"amount": 2_000, "currency": "CHF"}, 0),
        ({"amount": 2_000, "currency": "EUR", "follows": "b", "follow_kind": "retry"}, 2_000),
    ],
)
@pytest.mark.parametrize("said", [{}, {**KEYS, "amount": 7, "currency": "EUR"}])
def test_while_the_decision_is_held_its_amount_counts(
    tell: Callable[[Story], None], paid: Said, said: Said, amount_minor: int
) -> None:
    """In the base currency, 0 without a rate; whatever the outcome says, and also once it is taken back."""

    async def story(one: Scoring, watched: Watched) -> None:
        await one.score(request("a", **paid))
        told = [outcome("a", seconds=1, **said), outcome("a", "withdrawn", seconds=2, **said)]
        await one.reporter.report(told, arrival_ms=START_MS)
        assert watched.labels == [(1, amount_minor), (-1, amount_minor)]

    tell(story)


@pytest.mark.parametrize(
    ("said", "amount_minor"),
    [
        ({}, 0),
        ({"amount": 2_000, "currency": "EUR"}, 2_000),
        ({"amount": 2_001, "currency": "USD"}, 1_000),
        ({"amount": 2_000, "currency": "CHF"}, 0),
    ],
)
@pytest.mark.parametrize("later", [{}, {"amount": 7, "currency": "EUR"}])
def test_once_the_decision_is_gone_the_first_outcome_tells_the_amount(
    tell: Callable[[Story], None], said: Said, later: Said, amount_minor: int
) -> None:
    """It is remembered with the keys: a withdrawal takes back what was added, whatever it says itself."""

    async def story(one: Scoring, watched: Watched) -> None:
        told: Said = {**KEYS, **said}
        await one.reporter.report([outcome("gone", seconds=1, **told)], arrival_ms=START_MS)
        await one.reporter.report([outcome("gone", "withdrawn", seconds=2, **later)], arrival_ms=START_MS)
        assert watched.labels == [(1, amount_minor), (-1, amount_minor)]

    tell(story)


def test_what_an_earlier_version_left_unfinished_is_finished(tell: Callable[[Story], None], store: MemoryStore) -> None:
    """Its document is replaced, although today it would be written otherwise; the amount stays unknown."""

    async def story(one: Scoring, watched: Watched) -> None:
        assert await store.exchange_outcomes("a", None, WITHOUT_AMOUNT, news=None)
        [again] = await one.reporter.report([outcome("a", seconds=1)], arrival_ms=START_MS)
        assert again == Reported("a", changed=False)
        document = await store.find_outcomes("a")
        assert document is not None
        assert Dossier.from_json(document).pending is None
        [taken] = await one.reporter.report([outcome("a", "withdrawn", seconds=2)], arrival_ms=START_MS)
        assert taken == Reported("a", changed=True)
        assert watched.labels == [(1, 0), (-1, 0)]
        await one.score(request("b", seconds=3))
        assert (await one.features("b"))["card_frauds"] == 0

    tell(story)
