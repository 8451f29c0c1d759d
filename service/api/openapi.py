"""The OpenAPI document: FastAPI's own, and the endpoints that FastAPI does not serve."""

from collections.abc import Mapping
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from service.api.problems import MEDIA_TYPE, Problem
from service.api.schemas import OutcomeItem, OutcomeResult, RefusedItem, ScoredItem, ScoreResponse
from service.api.wire import MAX_BATCH
from service.transaction import Outcome, TransactionContract

Document = dict[str, JsonValue]

TRANSACTION_EXAMPLE: Mapping[str, JsonValue] = {
    "transaction_id": "tx-0001",
    "timestamp": "2025-11-21T09:30:00.250Z",
    "card_id": "card-7f3a91",
    "merchant_id": "merchant-042",
    "amount": 12950,
    "currency": "EUR",
    "merchant_category_code": "5732",
    "merchant_country": "DE",
    "card_country": "FR",
    "device_id": "device-c0ffee",
    "channel": "ecommerce",
    "entry_mode": "credential_on_file",
    "cvc_check": "pass",
    "three_ds": "attempted",
}
OUTCOME_EXAMPLE: Mapping[str, JsonValue] = {
    "transaction_id": "tx-0001",
    "type": "dispute",
    "fraud": True,
    "occurred_at": "2025-11-23T00:00:00Z",
    "reported_at": "2025-11-24T08:00:00Z",
    "timestamp": "2025-11-21T09:30:00.250Z",
    "card_id": "card-7f3a91",
    "merchant_id": "merchant-042",
    "device_id": "device-c0ffee",
    "amount": 12950,
    "currency": "EUR",
}

_REPLAYED: Document = {
    "Idempotent-Replayed": {
        "description": "true where the stored answer to an earlier request is given again",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_SCHEMAS_AT = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Make the app's document complete; it is built when it is first asked for."""
    own = app.openapi

    def complete() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(own())
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign] # the way FastAPI documents


def _completed(document: Document) -> Document:
    paths, components = document["paths"], document["components"]
    assert isinstance(paths, dict), paths
    assert isinstance(components, dict), components
    schemas = components["schemas"]
    assert isinstance(schemas, dict), schemas
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape, which ours replaces
        schemas.pop(unused, None)
    schemas.update(_schemas())
    for operations in paths.values():
        assert isinstance(operations, dict), operations
        for operation in operations.values():
            assert isinstance(operation, dict), operation
            responses = operation["responses"]
            assert isinstance(responses, dict), responses
            _answer_with_problems(responses)
    document["paths"] = {**_plain_asgi_paths(), **paths}
    return document


def _schemas() -> Document:
    """The shapes of the endpoints that FastAPI does not see, by name."""
    taken: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (TransactionContract, "validation"),
        (Outcome, "validation"),
    ]
    given: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (model, "serialization")
        for model in (ScoreResponse, ScoredItem, RefusedItem, OutcomeResult, OutcomeItem, Problem)
    ]
    _, document = models_json_schema([*taken, *given], ref_template=_SCHEMAS_AT)
    definitions: Document = document["$defs"]
    return definitions


def _answer_with_problems(responses: Document) -> None:
    """Whatever an operation does not answer as described, it answers with a problem."""
    for status, response in responses.items():
        if status >= "400":
            assert isinstance(response, dict), response
            response["content"] = _problem_content()
    responses["default"] = {"description": "Not answered as asked: see `code`", "content": _problem_content()}


def _plain_asgi_paths() -> Document:
    return {
        "/score": _post(
            "decisions",
            "Decide on a transaction",
            "Answers with the calibrated probability of fraud and what to do about the payment. The same "
            "transaction_id with the same body gets the same answer again, byte for byte, and counts once.",
            body=_example(_ref("Transaction"), dict(TRANSACTION_EXAMPLE)),
            answer=_ref("ScoreResponse"),
            headers=_REPLAYED,
            conflict=True,
        ),
        "/score/batch": _post(
            "decisions",
            "Decide on many transactions",
            f"1 to {MAX_BATCH} transactions in, as many results out, in order, as if they had been sent one by one.",
            body=_example(_array(_ref("Transaction")), [dict(TRANSACTION_EXAMPLE)]),
            answer=_array({"anyOf": [_ref("ScoredItem"), _ref("RefusedItem")]}),
        ),
        "/outcomes": _post(
            "outcomes",
            "Report what turned out",
            f"One outcome, or an array of 1 to {MAX_BATCH}, answered by an array of results in the same order. If the "
            "decision is no longer held (`decision_expired`) send the transaction's timestamp, ids and amount along.",
            body=_example({"anyOf": [_ref("Outcome"), _array(_ref("Outcome"))]}, dict(OUTCOME_EXAMPLE)),
            answer={"anyOf": [_ref("OutcomeResult"), _array({"anyOf": [_ref("OutcomeItem"), _ref("RefusedItem")]})]},
        ),
    }


def _post(  # an operation is its parts
    tag: str,
    summary: str,
    description: str,
    *,
    body: Document,
    answer: Document,
    headers: Document | None = None,
    conflict: bool = False,
) -> Document:
    content: Document = {"application/json": {"schema": answer}}
    responses: Document = {
        "200": {"description": "Answered", "headers": headers or {}, "content": content},
        "413": {"description": "The body is too large"},
        "415": {"description": "The body is compressed or not application/json"},
        "422": {"description": "The body does not follow the contract; `errors` names each field at fault"},
        "503": {"description": "The service is starting"},
    }
    if conflict:
        responses["409"] = {"description": "The transaction_id was used with another body"}
    _answer_with_problems(responses)
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "description": description,
            "operationId": summary.lower().replace(" ", "_"),
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": responses,
        }
    }


def _ref(model: str) -> Document:
    return {"$ref": _SCHEMAS_AT.format(model=model)}


def _array(items: Document) -> Document:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_BATCH}


def _example(schema: Document, example: JsonValue) -> Document:
    return {"schema": schema, "example": example}


def _problem_content() -> Document:
    return {MEDIA_TYPE: {"schema": _ref("Problem")}}
