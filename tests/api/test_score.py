"""POST /score over a real connection: the answer, retries, conflicts, and every way to be refused."""

import gzip
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.api.admission import MAX_SCORE_BYTES
from service.api.problems import Problem
from service.api.schemas import ScoreResponse
from tests.serving import Service

NewId = Callable[[str], str]
JSON = {"content-type": "application/json"}


def transaction(new_id: NewId, **changes: object) -> dict[str, object]:
    return {
        "transaction_id": new_id("tx"),
        "timestamp": "2026-11-21T09:29:00Z",
        "card_id": new_id("card"),
        "merchant_id": "m",
        "amount": 1000,
        "currency": "EUR",
        **changes,
    }


def problem(response: httpx.Response) -> Problem:
    """The problem of a refusal, which has its media type and repeats its status and request id."""
    assert response.headers["content-type"] == "application/problem+json"
    document = Problem.model_validate_json(response.content)
    assert document.status == response.status_code
    assert document.request_id == response.headers["x-request-id"]
    assert document.type == f"urn:touchstone:problem:{document.code}"
    return document


def test_a_decision_has_the_declared_shape(service: Service, new_id: NewId) -> None:
    """The answer is the declared response, exactly, and rests on model and thresholds that are in use."""
    sent = transaction(new_id, amount=13_000)
    response = service.client.post("/score", json=sent)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = ScoreResponse.model_validate_json(response.content)
    assert answer.transaction_id == sent["transaction_id"]
    assert answer.decision == "review"
    assert answer.probability == pytest.approx(0.6225, abs=1e-4)  # the logistic function of 13000 / 2000 - 6
    assert answer.score == 622  # the small bundle's table is the probability in thousandths
    assert [reason.code for reason in answer.reasons] == ["unusual_amount"]
    assert answer.model.sha256 == service.running.bundle.model_sha256
    assert answer.thresholds.version == service.running.thresholds.current.number


@pytest.mark.parametrize(
    ("amount", "channel", "decision"),
    [
        (0, "ecommerce", "approve"),
        (11_000, "pos", "review"),
        (11_000, "ecommerce", "challenge"),
        (13_000, "ecommerce", "review"),
        (17_000, "ecommerce", "decline"),
    ],
)
def test_the_decision_follows_the_thresholds(
    service: Service, new_id: NewId, amount: int, channel: str, decision: str
) -> None:
    """The probability is turned into a decision by the document in force."""
    sent = transaction(new_id, amount=amount, channel=channel)
    assert service.client.post("/score", json=sent).json()["decision"] == decision


def test_a_currency_without_a_rate_gets_the_fallback(service: Service, new_id: NewId) -> None:
    """A transaction that cannot be converted is decided on without a probability, and says so."""
    answer = service.client.post("/score", json=transaction(new_id, currency="XAF")).json()
    assert (answer["probability"], answer["score"], answer["reasons"]) == (None, None, [])
    assert answer["thresholds"]["segment"] == "fallback"
    assert "currency" in answer["degraded"]
    ScoreResponse.model_validate(answer)


def test_a_retry_gets_the_same_bytes_and_counts_once(service: Service, new_id: NewId) -> None:
    """However its JSON is written, the same request gets the stored answer, marked, and leaves no second trace."""
    sent = transaction(new_id)
    first = service.client.post("/score", json=sent)
    again = service.client.post(
        "/score", content=json.dumps(dict(reversed(sent.items())), indent=3).encode(), headers=JSON
    )
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    third = transaction(new_id, card_id=sent["card_id"])
    service.client.post("/score", json=third)
    shown = service.client.get(f"/decisions/{third['transaction_id']}").json()
    assert shown["revs"]["card"] == 1


def test_concurrent_retries_get_one_answer(service: Service, new_id: NewId) -> None:
    """Fifty at once: one decides, all get its bytes."""
    sent = transaction(new_id)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: service.client.post("/score", json=sent), range(50)))
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


def test_every_decision_has_a_name_of_its_own(service: Service, new_id: NewId) -> None:
    """Those that are made together too, of payments that differ in their id only."""
    card = new_id("card")
    sent = [transaction(new_id, card_id=card) for _ in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: service.client.post("/score", json=body).json(), sent))
    names = {answer["decision_id"] for answer in answers}
    assert len(names) == len(sent)
    assert all(re.fullmatch("d-[0-9a-f]{24}", name) for name in names)


def test_the_same_id_with_another_body_is_a_conflict(service: Service, new_id: NewId) -> None:
    """It is refused, and the first answer stays."""
    sent = transaction(new_id)
    first = service.client.post("/score", json=sent)
    refusal = service.client.post("/score", json={**sent, "amount": 1001})
    assert refusal.status_code == 409
    assert problem(refusal).code == "idempotency_conflict"
    assert service.client.post("/score", json=sent).content == first.content


def test_a_refused_request_leaves_its_id_free(service: Service, new_id: NewId) -> None:
    """A mistake can be mended under the same transaction_id."""
    sent = transaction(new_id)
    assert service.client.post("/score", json={**sent, "amount": "1"}).status_code == 422
    assert service.client.post("/score", json=sent).status_code == 200


def test_a_fault_is_named_without_its_value(service: Service, new_id: NewId) -> None:
    """A refusal names field and reason, never what was sent."""
    sent = transaction(new_id, amount="secret-value", card_id="4111111111111111")
    response = service.client.post("/score", json=sent)
    assert response.status_code == 422
    assert problem(response).code == "pan_not_allowed"
    assert {fault.field for fault in problem(response).errors} == {"amount", "card_id"}
    assert "secret-value" not in response.text
    assert "4111111111111111" not in response.text


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({}, b"{}"),
        ({"content-type": "text/plain"}, b"{}"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a=b"),
        ({"content-type": "application/json-patch+json"}, b"{}"),
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(b"{}", mtime=0)),
        ({**JSON, "content-encoding": "identity"}, b"{}"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/score"), ("POST", "/outcomes"), ("PUT", "/thresholds")])
def test_a_body_that_is_not_plain_json_is_refused_unread(
    service: Service, headers: dict[str, str], content: bytes, method: str, path: str
) -> None:
    """Only application/json, never compressed, on every endpoint that takes a body."""
    response = service.client.request(method, path, content=content, headers=headers)
    assert response.status_code == 415
    assert problem(response).code == "unsupported_media_type"


def test_json_may_name_its_charset(service: Service, new_id: NewId) -> None:
    """Parameters of the media type do not matter, nor does its case."""
    content = json.dumps(transaction(new_id)).encode()
    for content_type in ("application/json; charset=utf-8", "Application/JSON"):
        response = service.client.post("/score", content=content, headers={"content-type": content_type})
        assert response.status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_read_up_to_the_limit_and_no_further(service: Service, new_id: NewId, *, announced: bool) -> None:
    """16 KiB are read; one byte more is refused, whether its length was announced or not."""
    body = json.dumps(transaction(new_id)).encode()

    def post(size: int) -> httpx.Response:
        padded = body + b" " * (size - len(body))
        content = padded if announced else iter([padded[:5000], padded[5000:]])
        return service.client.post("/score", content=content, headers=JSON)

    assert post(MAX_SCORE_BYTES).status_code == 200
    refusal = post(MAX_SCORE_BYTES + 1)
    assert refusal.status_code == 413
    assert problem(refusal).code == "body_too_large"
    assert service.client.post("/score", json=transaction(new_id)).status_code == 200


def test_a_body_in_pieces_is_put_together(service: Service, new_id: NewId) -> None:
    """How a client cuts its body does not matter."""
    body = json.dumps(transaction(new_id)).encode()
    response = service.client.post("/score", content=(body[at : at + 7] for at in range(0, len(body), 7)), headers=JSON)
    assert response.status_code == 200


@pytest.mark.parametrize("sent", ["trace-1", "a.b:c_d-e", "x" * 64])
def test_a_request_id_is_given_back(service: Service, sent: str) -> None:
    """A client's own id stands on the answer."""
    response = service.client.get("/health/live", headers={"x-request-id": sent})
    assert response.headers.get_list("x-request-id") == [sent]


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "é", "4111111111111111", "{}"])
def test_a_request_id_that_is_no_token_is_replaced(service: Service, sent: str) -> None:
    """Anything else is not repeated; the answer has an id of ours."""
    response = service.client.get("/health/live", headers=[(b"x-request-id", sent.encode())])
    [given] = response.headers.get_list("x-request-id")
    assert given
    assert given != sent


@pytest.mark.parametrize("path", ["/score", "/score/batch", "/outcomes", "/models", "/health/ready"])
def test_another_method_is_refused_as_a_problem(service: Service, path: str) -> None:
    """405 has the shape of every error, and names the methods there are."""
    response = service.client.delete(path)
    assert response.status_code == 405
    assert problem(response).code == "method_not_allowed"
    assert response.headers["allow"]


@pytest.mark.parametrize("path", ["/nothing", "/score/", "/decisions", "//score"])
def test_an_unknown_path_is_a_problem(service: Service, path: str) -> None:
    """404 too, and nothing is redirected."""
    response = service.client.get(path)
    assert response.status_code == 404
    assert problem(response).code == "not_found"
