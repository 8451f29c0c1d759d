"""Overload: whoever there is no room for gets a decision at once, and it counts like any other."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from service.api.schemas import ScoreResponse
from service.backlog import WRITTEN_AT_ONCE, Backlog
from service.batching import MOST_BATCHES, Batcher
from service.scorer import Answer
from service.settings import Settings
from service.stores.base import Append, Appends, Visit
from service.stores.memory import MemoryStore
from tests.api.test_score import transaction
from tests.conftest import ARRIVAL_MS
from tests.raw_http import bodies, connected, post, read_answers, statuses
from tests.scoring import request as payment
from tests.scoring import scoring
from tests.serving import Service, serving
from tests.stores.servers import redis_binary, running, wait_until

NewId = Callable[[str], str]
FALLBACK = ["overload", "idempotency"]


@pytest.fixture(scope="module", params=[("memory", "auto"), ("memory", "off"), ("redis", "auto")], ids=" ".join)
def busy(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server over each kind of store, which is old enough to know of every entity that it is new."""
    kind, fast_lane = request.param
    with ExitStack() as stack:
        url = "memory://" if kind == "memory" else stack.enter_context(running(redis_binary())).url
        settings = Settings(
            model_dir=small_bundle, state_dir=tmp_path_factory.mktemp("busy"), store_url=url, fast_lane=fast_lane
        )
        service = stack.enter_context(serving(settings, lambda: ARRIVAL_MS))
        first = {"transaction_id": "first", "timestamp": "2020-01-01T00:00:00Z", "card_id": "first"}
        service.client.post("/score", json=transaction(str, **first))
        yield service


def crowded(service: Service, sent: dict[str, object]) -> httpx.Response:
    """The answer when there is no room for anybody."""
    scorer = service.running.scorer
    full = Batcher(scorer.score, overflow=scorer.decide_at_once, most_waiting=0, most_batches=0)
    with service.using(replace(service.running, waiting=full)):
        return service.client.post("/score", json=sent)


def written(service: Service, sent: dict[str, object]) -> None:
    """Wait until a decision is kept and its entries are appended."""
    wait_until(lambda: service.client.get(f"/decisions/{sent['transaction_id']}").status_code == 200)


def attempts(service: Service, new_id: NewId, card: object) -> float:
    """How many of a card's transactions are known, by the next one."""
    sent = transaction(new_id, card_id=card)
    assert service.client.post("/score", json=sent).json()["degraded"] == []
    shown = service.client.get(f"/decisions/{sent['transaction_id']}").json()
    known: float = shown["seen"]["numeric"]["card_count_1h"]
    return known


def test_what_there_is_no_room_for_gets_the_fallback_at_once(busy: Service, new_id: NewId) -> None:
    """While others wait, and though they do; they are scored when their turn has come."""
    small = [transaction(new_id, amount=4_999 + late) for late in range(2)]
    with busy.held(most_waiting=2) as held, ExitStack() as stack:
        waiting = [stack.enter_context(connected(busy.port)) for _ in range(MOST_BATCHES + 2)]
        for number, opened in enumerate(waiting, 1):
            opened.sendall(post(json.dumps(transaction(new_id)).encode()))
            wait_until(lambda number=number: held.taken == min(number, MOST_BATCHES))  # type: ignore[misc] # a default binds it
        wait_until(lambda: len(busy.app.state.touchstone.waiting._queue) == 2)
        answers = [ScoreResponse.model_validate_json(busy.client.post("/score", json=sent).content) for sent in small]
        held.let_go()
        for opened in waiting:
            received = read_answers(opened, 1)
            assert statuses(received) == [200]
            assert json.loads(bodies(received)[0])["degraded"] == []
    assert [answer.decision for answer in answers] == ["approve", "review"]  # as the thresholds have it
    for answer in answers:
        assert (answer.probability, answer.score, answer.reasons) == (None, None, [])
        assert answer.degraded == FALLBACK
        assert answer.thresholds.segment == "fallback"


def test_a_retry_of_a_fallback_gets_the_same_bytes(busy: Service, new_id: NewId) -> None:
    """At once, and once it is kept."""
    sent = transaction(new_id)
    first = crowded(busy, sent)
    assert first.json()["degraded"] == FALLBACK
    assert "idempotent-replayed" not in first.headers
    for _ in range(2):
        again = busy.client.post("/score", json=sent)
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        written(busy, sent)
    assert busy.client.post("/score", json={**sent, "amount": 1}).status_code == 409


def test_a_retry_that_overtakes_the_writing_gets_the_same_bytes(small_bundle: Path, tmp_path: Path) -> None:
    """A fallback is known to its own process as soon as it is given."""

    async def act() -> None:
        one = scoring(small_bundle, MemoryStore(max_entities=100, max_decisions=100), tmp_path)
        given = one.scorer.decide_at_once(payment("tx"))
        retried = await one.score(payment("tx"))
        await one.scorer.close()
        assert isinstance(given, Answer)
        assert retried.body == given.body
        assert retried.replayed

    asyncio.run(act())


def test_a_fallback_counts_once(busy: Service, new_id: NewId) -> None:
    """Whether it is retried in the crowd or afterwards, the card has one transaction more."""
    card = new_id("card")
    before = attempts(busy, new_id, card)
    sent = transaction(new_id, card_id=card)
    crowded(busy, sent)
    crowded(busy, sent)
    written(busy, sent)
    busy.client.post("/score", json=sent)
    assert attempts(busy, new_id, card) == before + 2  # itself, and the one that counted before


def test_a_fallback_counts_even_if_too_many_wait_to_be_written(small_bundle: Path, tmp_path: Path) -> None:
    """Where there is no room in the queue of what is written later, nothing is lost unnoticed."""

    async def act() -> None:
        store = MemoryStore(max_entities=100, max_decisions=100)
        one = scoring(small_bundle, store, tmp_path)
        scorer = one.scorer
        scorer._backlog = Backlog(store, scorer._ledger, one.telemetry, most_waiting=0)
        await one.score(payment("first", seconds=-(10**7)))
        for number in range(2 * WRITTEN_AT_ONCE):
            scorer.decide_at_once(payment(f"tx-{number}"))
        assert len(scorer._backlog) == WRITTEN_AT_ONCE
        await scorer.close()
        await one.score(payment("last", seconds=1))
        assert (await one.features("last"))["card_count_1h"] == 2 * WRITTEN_AT_ONCE

    asyncio.run(act())


@pytest.mark.parametrize("most_waiting", [0, 100])
def test_a_defect_in_the_writing_is_heard(small_bundle: Path, tmp_path: Path, most_waiting: int) -> None:
    """It is logged and counted for each decision it hits, which waits no longer; those that come later are written."""

    async def act() -> None:
        store = Defective(max_entities=100, max_decisions=100)
        one = scoring(small_bundle, store, tmp_path)
        scorer = one.scorer
        scorer._backlog = Backlog(store, scorer._ledger, one.telemetry, most_waiting=most_waiting)
        with capture_logs() as logged:
            for number in range(WRITTEN_AT_ONCE + 1):
                scorer.decide_at_once(payment(f"lost-{number}"))
            await scorer.close()
        assert {line["event"] for line in logged} == {"backlog_not_written"}
        assert sum(line["decisions"] for line in logged) == WRITTEN_AT_ONCE + 1
        assert one.metric("fraud_decisions_unwritten_total") == WRITTEN_AT_ONCE + 1
        assert len(scorer._backlog) == 0
        store.defects = False
        given = scorer.decide_at_once(payment("kept"))
        await scorer.close()
        assert isinstance(given, Answer)
        assert (await one.score(payment("kept"))).body == given.body
        assert not (await one.score(payment("lost-0"))).replayed

    asyncio.run(act())


class Defective(MemoryStore):
    """A store with a programmer's mistake in all that writes, until it is mended."""

    defects = True

    async def visit(self, transaction_ids: Sequence[str], appends: Appends, *, time_ms: int) -> Visit:
        """Fail."""
        assert not self.defects
        return await super().visit(transaction_ids, appends, time_ms=time_ms)

    def defer(self, appends: Sequence[Append]) -> None:
        """Fail."""
        assert not self.defects
        super().defer(appends)


def test_a_decision_that_is_asked_for_again_in_the_crowd_counts_once(busy: Service, new_id: NewId) -> None:
    """However long ago it was decided: a card's log remembers 64 ids, and this one has seen more."""
    card = new_id("card")
    sent = transaction(new_id, card_id=card)
    first = busy.client.post("/score", json=sent)
    busy.client.post("/score/batch", json=[transaction(new_id, card_id=card) for _ in range(100)])
    before = attempts(busy, new_id, card)
    assert crowded(busy, sent).json()["degraded"] == FALLBACK
    settled(busy)
    assert attempts(busy, new_id, card) == before + 1
    assert busy.client.post("/score", json=sent).content == first.content


def test_another_request_under_a_used_id_does_not_count_in_the_crowd_either(busy: Service, new_id: NewId) -> None:
    """Nobody looks whether there is a conflict; but the card it names has no transaction more afterwards."""
    card, sent = new_id("card"), transaction(new_id)
    before = attempts(busy, new_id, card)
    first = busy.client.post("/score", json=sent)
    crowded(busy, {**sent, "card_id": card})
    settled(busy)
    assert attempts(busy, new_id, card) == before + 1
    assert busy.client.post("/score", json=sent).content == first.content


def settled(service: Service) -> None:
    """Wait until all that was decided at once is written down."""
    wait_until(lambda: len(service.running.scorer._backlog) == 0)


def test_an_outcome_of_a_fallback_finds_its_transaction(busy: Service, new_id: NewId) -> None:
    """Fraud that is confirmed later is known of the card."""
    sent = transaction(new_id)
    crowded(busy, sent)
    written(busy, sent)
    reported = {
        "transaction_id": sent["transaction_id"],
        "type": "confirmed_fraud",
        "occurred_at": "2026-11-21T09:29:10Z",
        "reported_at": "2026-11-21T09:29:20Z",
    }
    assert busy.client.post("/outcomes", json=reported).status_code == 200
    next_one = transaction(new_id, card_id=sent["card_id"], timestamp="2026-11-22T09:29:00Z")
    busy.client.post("/score", json=next_one)
    shown = busy.client.get(f"/decisions/{next_one['transaction_id']}").json()
    assert shown["seen"]["numeric"]["card_frauds"] == 1


def test_a_fallback_is_observed_as_one(busy: Service, new_id: NewId) -> None:
    """Whoever watches sees that there was no room."""
    before = busy.metric("fraud_degraded_total", missing="overload")
    crowded(busy, transaction(new_id))
    assert busy.metric("fraud_degraded_total", missing="overload") == before + 1


def test_lone_requests_are_answered_while_a_large_array_is(busy: Service, new_id: NewId) -> None:
    """A thousand items do not keep a lone request waiting until they are all done."""
    items = [transaction(new_id) for _ in range(1_000)]
    done = threading.Event()
    results: list[httpx.Response] = []

    def send_array() -> None:
        with httpx.Client(base_url=busy.client.base_url, timeout=60) as client:
            results.append(client.post("/score/batch", json=items))
        done.set()

    thread = threading.Thread(target=send_array)
    answered = 0
    with connected(busy.port) as opened:
        thread.start()
        while not done.is_set():
            opened.sendall(post(json.dumps(transaction(new_id)).encode()))
            received = read_answers(opened, 1)
            assert statuses(received) == [200]
            assert json.loads(bodies(received)[0])["degraded"] == []
            answered += not done.is_set()
    thread.join()
    assert {item["status"] for item in results[0].json()} == {200}
    assert answered >= 5
