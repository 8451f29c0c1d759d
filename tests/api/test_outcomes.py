"""POST /outcomes and GET /decisions: what is known later reaches the history, and a decision can be looked at again."""

from collections.abc import Callable

import pytest

from service.api.schemas import OutcomeResult, SeenByModel, StoredDecisionResponse
from tests.api.test_score import problem, transaction
from tests.serving import Service

NewId = Callable[[str], str]


def outcome(transaction_id: object, outcome_type: str = "confirmed_fraud", **more: object) -> dict[str, object]:
    return {
        "transaction_id": transaction_id,
        "type": outcome_type,
        "occurred_at": "2026-11-21T09:29:10Z",
        "reported_at": "2026-11-21T09:29:20Z",
        **more,
    }


def card_features(service: Service, new_id: NewId, card: str) -> dict[str, float | None]:
    """What the next transaction of a card sees of it."""
    sent = transaction(new_id, card_id=card, timestamp="2026-11-21T09:29:40Z")
    assert service.client.post("/score", json=sent).status_code == 200
    shown = service.client.get(f"/decisions/{sent['transaction_id']}")
    return seen(StoredDecisionResponse.model_validate_json(shown.content)).numeric


def seen(shown: StoredDecisionResponse) -> SeenByModel:
    """What the model saw, where the store still has it."""
    assert shown.seen is not None
    return shown.seen


@pytest.mark.parametrize(
    ("report", "feature"),
    [
        ({"outcome_type": "confirmed_fraud"}, "card_frauds"),
        ({"outcome_type": "early_fraud_warning"}, "card_frauds"),
        ({"outcome_type": "dispute", "fraud": True}, "card_frauds"),
        ({"outcome_type": "issuer_declined"}, "card_issuer_declines"),
    ],
)
def test_an_outcome_reaches_the_history_once(
    service: Service, new_id: NewId, report: dict[str, object], feature: str
) -> None:
    """It is counted for the next transaction of the card, once, even if it is told twice."""
    sent = transaction(new_id)
    service.client.post("/score", json=sent)
    told = service.client.post("/outcomes", json=outcome(sent["transaction_id"], **report))  # type: ignore[arg-type]
    assert told.status_code == 200
    assert OutcomeResult.model_validate_json(told.content).changed
    again = service.client.post("/outcomes", json=outcome(sent["transaction_id"], **report))  # type: ignore[arg-type]
    assert not OutcomeResult.model_validate_json(again.content).changed
    assert card_features(service, new_id, str(sent["card_id"]))[feature] == 1


@pytest.mark.parametrize("report", ["refund", "authorised", "reversed", "confirmed_legitimate", "withdrawn"])
def test_an_outcome_without_news_of_fraud_changes_nothing(service: Service, new_id: NewId, report: str) -> None:
    """A refund, or the confirmation of what was taken for granted, moves no feature."""
    sent = transaction(new_id)
    service.client.post("/score", json=sent)
    assert not service.client.post("/outcomes", json=outcome(sent["transaction_id"], report)).json()["changed"]
    assert card_features(service, new_id, str(sent["card_id"]))["card_frauds"] == 0


def test_a_label_can_be_taken_back(service: Service, new_id: NewId) -> None:
    """A dispute that is withdrawn leaves the history as it was."""
    sent = transaction(new_id)
    service.client.post("/score", json=sent)
    service.client.post("/outcomes", json=outcome(sent["transaction_id"], "dispute", fraud=True))
    assert service.client.post("/outcomes", json=outcome(sent["transaction_id"], "withdrawn")).json()["changed"]
    assert card_features(service, new_id, str(sent["card_id"]))["card_frauds"] == 0


def test_a_decision_shows_what_became_of_it(service: Service, new_id: NewId) -> None:
    """Everything that was reported, in the order of arrival, each once."""
    sent = transaction(new_id)
    service.client.post("/score", json=sent)
    for report in ({}, {"outcome_type": "dispute", "fraud": True}, {"outcome_type": "withdrawn"}, {}):
        service.client.post("/outcomes", json=outcome(sent["transaction_id"], **report))
    response = service.client.get(f"/decisions/{sent['transaction_id']}")
    shown = StoredDecisionResponse.model_validate_json(response.content).outcomes
    assert [(item.type, item.fraud) for item in shown] == [
        ("confirmed_fraud", None),
        ("dispute", True),
        ("withdrawn", None),
    ]
    assert {item.occurred_at for item in shown} == {"2026-11-21T09:29:10.000Z"}


def test_the_keys_of_a_forgotten_transaction_are_needed_once(service: Service, new_id: NewId) -> None:
    """What was reported about it is kept with its keys, so that the next report can do without them."""
    name, card = new_id("tx"), new_id("card")
    keys = {"timestamp": "2026-11-01T00:00:00Z", "card_id": card, "merchant_id": "m"}
    assert service.client.post("/outcomes", json=outcome(name, **keys)).json()["changed"]
    assert service.client.post("/outcomes", json=outcome(name, "withdrawn")).json()["changed"]
    assert card_features(service, new_id, card)["card_frauds"] == 0


def test_an_outcome_of_a_forgotten_transaction_needs_its_keys(service: Service, new_id: NewId) -> None:
    """Without a record the answer says what to send; with the keys it is taken."""
    name, card = new_id("tx"), new_id("card")
    refusal = service.client.post("/outcomes", json=outcome(name))
    assert refusal.status_code == 404
    assert problem(refusal).code == "decision_expired"
    keys = {"timestamp": "2026-11-01T00:00:00Z", "card_id": card, "merchant_id": "m"}
    assert service.client.post("/outcomes", json=outcome(name, **keys)).json()["changed"]
    assert card_features(service, new_id, card)["card_frauds"] == 1


def test_outcomes_come_in_arrays_too(service: Service, new_id: NewId) -> None:
    """Each item has its own result, in order, and is counted by type."""
    sent = transaction(new_id)
    service.client.post("/score", json=sent)
    before = service.metric("fraud_outcomes_total", type="refund")
    response = service.client.post(
        "/outcomes",
        json=[outcome(sent["transaction_id"], "refund"), outcome(new_id("tx")), outcome("x", "no-such-type")],
    )
    assert [item["status"] for item in response.json()] == [200, 404, 422]
    assert response.json()[0]["body"] == {"transaction_id": sent["transaction_id"], "changed": False}
    assert service.metric("fraud_outcomes_total", type="refund") == before + 1


def test_a_decision_is_explained_whatever_it_was(service: Service, new_id: NewId) -> None:
    """An approval has no reasons in its answer, but has them here, with the features the model saw."""
    sent = transaction(new_id, amount=2_000, terminal_id=new_id("terminal"), channel="pos")
    answer = service.client.post("/score", json=sent).json()
    assert (answer["decision"], answer["reasons"]) == ("approve", [])
    response = service.client.get(f"/decisions/{sent['transaction_id']}")
    shown = StoredDecisionResponse.model_validate_json(response.content)
    assert shown.response.model_dump(mode="json") == answer
    assert [reason.code for reason in seen(shown).reasons] == ["unusual_amount"]
    assert seen(shown).numeric["amount"] == 2_000
    assert seen(shown).categorical == {"channel": 1}
    assert shown.outcomes == []
    assert shown.revs == {"card": 0, "terminal": 0}


def test_a_decision_nobody_made_is_not_found(service: Service, new_id: NewId) -> None:
    """Nor is one under a name that can be none."""
    unknown = service.client.get(f"/decisions/{new_id('tx')}")
    assert unknown.status_code == 404
    assert problem(unknown).code == "not_found"
    impossible = service.client.get("/decisions/a%20b")
    assert impossible.status_code == 422
    assert [fault.field for fault in problem(impossible).errors] == ["transaction_id"]
