"""What a payment system is promised about retries, refusals and outcomes, over every store."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.app import epoch_ms
from service.errors import IdempotencyConflict, OutcomeKeysNeeded
from service.reporter import Reported
from service.stores.fallback import FallbackStore
from service.transaction import Outcome
from tests.scoring import START_MS, Scoring, outcome, request, scoring
from tests.stores.conftest import Opener

Story = Callable[..., Awaitable[None]]


@pytest.fixture
def tell(open_store: Opener, small_bundle: Path, tmp_path: Path) -> Callable[..., None]:
    """Runs a story with so many processes' worth of scoring over one store."""

    def run(story: Story, processes: int = 1) -> None:
        async def told() -> None:
            async with AsyncExitStack() as stack:
                actors = []
                for number in range(processes):
                    store = await stack.enter_async_context(open_store())
                    actors.append(scoring(small_bundle, FallbackStore(store, now_ms=epoch_ms), tmp_path / str(number)))
                await story(*actors)
                for actor in actors:
                    await actor.scorer.close()
                    assert actor.metric("fraud_feature_parity_mismatch_total") == 0
                assert sum(actor.metric("fraud_feature_parity_cells_total") for actor in actors) > 0

        asyncio.run(told())

    return run


def test_a_retry_through_another_process_gets_the_same_bytes_and_counts_once(tell: Callable[..., None]) -> None:
    """Whichever replica it reaches, also while the first attempt is still known to the log."""

    async def story(one: Scoring, other: Scoring) -> None:
        first = await one.score(request("a"))
        again = await other.score(request("a"))
        assert (again.body, again.replayed, first.replayed) == (first.body, True, False)
        await other.score(request("b", seconds=1))
        assert (await one.features("b"))["card_count_1h"] == 1

    tell(story, processes=2)


def test_of_requests_at_once_one_decides_and_all_get_its_answer(tell: Callable[..., None]) -> None:
    """Twenty through four processes: one body, one count, one decision in the metrics."""

    async def story(*actors: Scoring) -> None:
        answers = await asyncio.gather(*[actors[index % 4].score(request("a")) for index in range(20)])
        assert len({answer.body for answer in answers}) == 1
        assert [answer.replayed for answer in answers].count(False) == 1
        await actors[0].score(request("b", seconds=1))
        assert (await actors[0].features("b"))["card_count_1h"] == 1

    tell(story, processes=4)


def test_another_body_is_refused_and_counts_nowhere(tell: Callable[..., None]) -> None:
    """Neither for its own card, which the first one did not name, nor a second time for the terminal they share."""

    async def story(one: Scoring, other: Scoring) -> None:
        await one.score(request("a", terminal_id="t"))
        for _ in range(3):
            [answer] = await other.scorer.score([request("a", card_id="else", terminal_id="t")])
            assert isinstance(answer, IdempotencyConflict)
        await one.score(request("b", card_id="else", terminal_id="t", seconds=1))
        seen = await one.features("b")
        assert (seen["card_count_1h"], seen["terminal_count_1h"]) == (0, 1)

    tell(story, processes=2)


def test_a_retry_that_the_ring_forgot_is_taken_back(tell: Callable[..., None]) -> None:
    """After a hundred others, with a ring of 64, a retry is appended as new, answered as before, and taken back."""

    async def story(one: Scoring) -> None:
        first = await one.score(request("a"))
        for round_ in range(2):
            for index in range(100):
                await one.score(request(f"{round_}-{index}", seconds=1 + index))
            assert (await one.score(request("a"))).body == first.body
        await one.score(request("last", seconds=200))
        assert (await one.features("last"))["card_count_1h"] == 201

    tell(story)


def test_a_batch_is_answered_as_if_sent_one_by_one(tell: Callable[..., None]) -> None:
    """A repetition within it is a replay, another body under the same id a refusal, and each sees those before it."""

    async def story(one: Scoring) -> None:
        batch = [request("a"), request("a"), request("a", amount=1), request("b", seconds=1)]
        answers = await one.scorer.score(batch)
        replayed = [None if isinstance(item, IdempotencyConflict) else item.replayed for item in answers]
        assert replayed == [False, True, None, False]
        assert (await one.features("b"))["card_count_1h"] == 1

    tell(story)


def test_histories_survive_compaction(tell: Callable[..., None]) -> None:
    """A card used sixty times within the hour has been compacted, and counts sixty."""

    async def story(one: Scoring, other: Scoring) -> None:
        for index in range(60):
            await (one, other)[index % 2].score(request(str(index), seconds=index))
        await other.score(request("last", seconds=61))
        assert (await one.features("last"))["card_count_1h"] == 60

    tell(story, processes=2)


def test_outcomes_count_once_and_can_be_taken_back(tell: Callable[..., None]) -> None:
    """Told through two processes at once, told again, withdrawn, and told anew."""

    async def story(one: Scoring, other: Scoring) -> None:
        await one.score(request("a"))

        async def report(*told: tuple[Scoring, Outcome]) -> list[bool]:
            results = await asyncio.gather(*[
                actor.reporter.report([item], arrival_ms=START_MS) for actor, item in told
            ])  # fmt: skip
            return sorted(result.changed for [result] in results if isinstance(result, Reported))

        async def frauds(name: str, seconds: int) -> float | None:
            await one.score(request(name, seconds=seconds))
            return (await one.features(name))["card_frauds"]

        fraud, withdrawn = outcome("a", seconds=10), outcome("a", "withdrawn", seconds=20)
        assert await report((one, fraud), (other, fraud)) == [False, True]
        assert await frauds("b", 30) == 1
        assert await report((other, withdrawn)) == [True]
        assert await report((one, withdrawn), (one, fraud)) == [False, False]
        assert await frauds("c", 40) == 0
        assert await report((one, outcome("a", seconds=50))) == [True]
        assert await frauds("d", 60) == 1
        assert [item.type for item in await other.reporter.find_reports("a")] == [
            "confirmed_fraud",
            "withdrawn",
            "confirmed_fraud",
        ]

    tell(story, processes=2)


def test_an_issuer_decline_counts_once(tell: Callable[..., None]) -> None:
    """A transaction is declined once, however often and with whatever times it is told."""

    async def story(one: Scoring) -> None:
        await one.score(request("a"))
        for seconds in (10, 10, 20):
            await one.reporter.report([outcome("a", "issuer_declined", seconds=seconds)], arrival_ms=START_MS)
        await one.score(request("b", seconds=30))
        assert (await one.features("b"))["card_issuer_declines"] == 1

    tell(story)


def test_an_outcome_of_an_unknown_transaction_needs_its_keys_once(tell: Callable[..., None]) -> None:
    """With them it reaches the card's history; the next report about the transaction can do without."""

    async def story(one: Scoring, other: Scoring) -> None:
        [refused] = await one.reporter.report([outcome("gone")], arrival_ms=START_MS)
        assert isinstance(refused, OutcomeKeysNeeded)
        keys = {"timestamp": "2026-11-01T00:00:00Z", "card_id": "card", "merchant_id": "m"}
        await one.reporter.report([outcome("gone", **keys)], arrival_ms=START_MS)  # type: ignore[arg-type]
        await one.score(request("a", seconds=1))
        assert (await one.features("a"))["card_frauds"] == 1
        [taken] = await other.reporter.report([outcome("gone", "withdrawn", seconds=2)], arrival_ms=START_MS)
        assert taken == Reported("gone", changed=True)
        await one.score(request("b", seconds=3))
        assert (await one.features("b"))["card_frauds"] == 0

    tell(story, processes=2)


def test_labels_that_change_at_one_reported_time_are_each_counted(tell: Callable[..., None]) -> None:
    """A warning, its withdrawal and a confirmation may all bear the same day; the history follows the dossier."""

    async def story(one: Scoring) -> None:
        await one.score(request("a"))
        told = [outcome("a", kind, seconds=10) for kind in ("early_fraud_warning", "withdrawn", "confirmed_fraud")]
        await one.reporter.report(told, arrival_ms=START_MS)
        await one.score(request("b", seconds=30))
        assert (await one.features("b"))["card_frauds"] == 1
        await one.reporter.report([outcome("a", "confirmed_legitimate", seconds=10)], arrival_ms=START_MS)
        await one.score(request("c", seconds=40))
        assert (await one.features("c"))["card_frauds"] == 0

    tell(story)


def test_an_issuer_decline_counts_once_however_much_is_told_in_between(tell: Callable[..., None]) -> None:
    """Its report may have been forgotten by then; that it was declined was not."""

    async def story(one: Scoring) -> None:
        await one.score(request("a"))
        declined = outcome("a", "issuer_declined", seconds=1)
        refunds = [outcome("a", "refund", seconds=2 + index) for index in range(40)]
        await one.reporter.report([declined, *refunds, declined], arrival_ms=START_MS)
        await one.score(request("b", seconds=60))
        assert (await one.features("b"))["card_issuer_declines"] == 1

    tell(story)
