"""POST /score/batch: as many results as items, each what a lone request would have got."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.api.schemas import RefusedItem, ScoredItem
from service.api.wire import MAX_BATCH
from tests.api.test_score import JSON, problem, transaction
from tests.serving import Service

NewId = Callable[[str], str]
RESULTS = TypeAdapter(list[ScoredItem | RefusedItem])


def scored(service: Service, items: list[dict[str, object]]) -> list[Any]:
    response = service.client.post("/score/batch", json=items)
    assert response.status_code == 200
    RESULTS.validate_json(response.content)
    results: list[Any] = response.json()
    assert len(results) == len(items)
    return results


def test_a_batch_is_decided_as_if_sent_one_by_one(service: Service, new_id: NewId) -> None:
    """Items see the items before them: the n-th of a card in a batch gets what the n-th lone request gets."""
    service.client.post("/score", json=transaction(new_id, timestamp="2020-01-01T00:00:00Z"))  # no entity is unknown

    def sent(card: str) -> list[dict[str, object]]:
        return [transaction(new_id, card_id=f"{card}-{number % 10}", amount=10 * number) for number in range(100)]

    first, second = sent(new_id("card")), sent(new_id("card"))
    batch = [item["body"] for item in scored(service, first)]
    single = [service.client.post("/score", json=item).json() for item in second]
    for one, other in zip(batch, single, strict=True):
        assert one["probability"] == other["probability"]
        assert one["reasons"] == other["reasons"]
        assert one["decision"] == other["decision"]
    seen = [body["probability"] for body in batch[::10]]  # those of one card
    assert seen == sorted(set(seen))


def test_each_item_is_refused_by_itself(service: Service, new_id: NewId) -> None:
    """A fault, a card number, a conflict and a retry in one batch: the others are decided on."""
    good, retried = transaction(new_id), transaction(new_id)
    service.client.post("/score", json=retried)
    results = scored(
        service,
        [
            good,
            transaction(new_id, amount=-1),
            transaction(new_id, card_id="4111111111111111"),
            retried,
            {**retried, "amount": 2},
            good,
        ],
    )
    assert [result["status"] for result in results] == [200, 422, 422, 200, 409, 200]
    assert [result["replayed"] for result in results if result["status"] == 200] == [False, True, True]
    codes = [result["problem"]["code"] for result in results if result["status"] != 200]
    assert codes == ["invalid_request", "pan_not_allowed", "idempotency_conflict"]
    assert results[5]["body"] == results[0]["body"]


def test_an_item_is_read_as_strictly_as_a_lone_request(service: Service, new_id: NewId) -> None:
    """Keys given twice and numbers that JSON has not are found inside an array too."""
    text = json.dumps(transaction(new_id))
    twice = text.replace('"amount": 1000', '"amount": 1, "amount": 1000')
    not_finite = text.replace("1000", "NaN")
    response = service.client.post("/score/batch", content=f"[{twice},{not_finite}]".encode(), headers=JSON)
    assert [item["problem"]["errors"] for item in response.json()] == [
        [{"field": "amount", "reason": "given twice"}],
        [{"field": "amount", "reason": "a valid integer"}],
    ]


def test_a_full_batch_is_taken(service: Service, new_id: NewId) -> None:
    """1,000 transactions of the longest kind fit."""
    results = scored(service, [transaction(new_id, merchant_id="m" * 64) for _ in range(MAX_BATCH)])
    assert {result["status"] for result in results} == {200}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[", "invalid_json"),
        (b"[]]", "invalid_json"),
        (b"[1,]", "invalid_json"),
        (b"[1 2]", "invalid_json"),
        (b"[1]x", "invalid_json"),
        (b"[\xff]", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[" + b"9" * 100_000 + b"]", "invalid_json"),
        (b"[]", "invalid_request"),
        (b" [ ] ", "invalid_request"),
        (b"[" + b"1," * MAX_BATCH + b"1]", "invalid_request"),
    ],
)
@pytest.mark.parametrize("path", ["/score/batch", "/outcomes"])
def test_an_array_that_cannot_be_read_is_refused_whole(service: Service, body: bytes, code: str, path: str) -> None:
    """Broken JSON, no item, or more than a thousand: nothing is decided."""
    response = service.client.post(path, content=body, headers=JSON)
    assert response.status_code == 422
    assert problem(response).code == code


@pytest.mark.parametrize("body", [b"", b"{}", b"7", b"\xff"])
def test_a_batch_that_is_no_array_is_refused(service: Service, body: bytes) -> None:
    """One transaction goes to /score."""
    response = service.client.post("/score/batch", content=body, headers=JSON)
    assert response.status_code == 422
    assert problem(response).code == "invalid_json"


def test_items_that_are_no_objects_are_refused_one_by_one(service: Service) -> None:
    """Blanks between items do not matter."""
    response = service.client.post("/score/batch", content=b' [ 1 , "a" ,\n[ ] ,null, {} ] ', headers=JSON)
    assert [item["status"] for item in response.json()] == [422] * 5


def test_a_batch_is_read_up_to_two_mebibytes(service: Service) -> None:
    """A larger body is refused unread."""
    response = service.client.post("/score/batch", content=b"[" + b" " * (2 << 20) + b"]", headers=JSON)
    assert response.status_code == 413
    assert problem(response).code == "body_too_large"
