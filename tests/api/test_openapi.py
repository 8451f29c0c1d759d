"""The OpenAPI document: it describes what the service does, no more and no less."""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from service.api.openapi import OUTCOME_EXAMPLE, TRANSACTION_EXAMPLE
from service.api.problems import KINDS, ProblemCode
from service.api.schemas import ScoreResponse
from tests.serving import Service
from tests.test_transaction import FULL, REQUIRED

UNDOCUMENTED = {"/openapi.json", "/docs"}  # the documentation itself


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get("/openapi.json").json()
    return found


def test_every_route_is_in_the_document_and_every_operation_is_a_route(
    service: Service, document: dict[str, Any]
) -> None:
    """No endpoint is hidden, and none is promised that is not there."""
    described = {(path, method.upper()) for path, operations in document["paths"].items() for method in operations}
    for path, method in described:
        response = service.client.request(method, path.replace("{transaction_id}", "none"))
        assert response.status_code not in {405, 501}, (method, path)
    for path in document["paths"]:
        methods = {method for described_path, method in described if described_path == path}
        for other in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods:
            assert service.client.request(other, path.replace("{transaction_id}", "none")).status_code == 405, path
    plain = {route.path for route in service.app.routes if isinstance(route, Route)}  # FastAPI describes its own
    assert plain - document["paths"].keys() == UNDOCUMENTED


def test_the_described_request_is_the_contract(document: dict[str, Any]) -> None:
    """The transaction's schema has the fields of the contract, names those that are required, and allows no other."""
    schema = document["components"]["schemas"]["Transaction"]
    assert schema["properties"].keys() == FULL.keys()
    assert set(schema["required"]) == REQUIRED.keys()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["timestamp"]["format"] == "date-time"
    assert schema["properties"]["amount"]["maximum"] == 10**12


def test_the_described_outcome_is_the_contract(document: dict[str, Any]) -> None:
    """It asks for what every outcome says, allows what may come along, and bounds an amount as a transaction's."""
    schema = document["components"]["schemas"]["Outcome"]
    required = {"transaction_id", "type", "occurred_at", "reported_at"}
    keys = {"timestamp", "card_id", "merchant_id", "terminal_id", "device_id"}
    assert schema["properties"].keys() == required | keys | {"fraud", "amount", "currency"}
    assert set(schema["required"]) == required
    assert schema["additionalProperties"] is False
    transaction = document["components"]["schemas"]["Transaction"]["properties"]
    for name, bounds in (("amount", ("type", "minimum", "maximum")), ("currency", ("type", "pattern"))):
        taken, null = schema["properties"][name]["anyOf"]
        assert {bound: taken[bound] for bound in bounds} == {bound: transaction[name][bound] for bound in bounds}
        assert null == {"type": "null"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No schema is named that the document does not hold, and FastAPI's own error shape is gone."""

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    named = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert named <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_closed_lists_are_in_the_document(document: dict[str, Any]) -> None:
    """Programs can branch on every code and every degraded value there is."""
    schemas = document["components"]["schemas"]
    assert set(schemas["ProblemCode"]["enum"]) == {code.value for code in ProblemCode}
    assert {"card", "merchant", "terminal", "device", "currency", "duplicate"} <= set(
        schemas["ScoreResponse"]["properties"]["degraded"]["items"]["enum"]
    )


def test_every_error_is_described_as_a_problem(document: dict[str, Any]) -> None:
    """Each operation says that what it does not answer as asked it answers with problem details."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            for status, response in operation["responses"].items():
                if status == "default" or status >= "400":
                    assert response["content"] == problem, (method, path, status)
            assert "default" in operation["responses"]


def test_the_examples_run(service: Service, document: dict[str, Any]) -> None:
    """What /docs offers to send is accepted, and answered as described."""

    def example(path: str) -> object:
        body: object = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        return body

    scored = service.client.post("/score", json=example("/score"))
    assert scored.status_code == 200
    ScoreResponse.model_validate_json(scored.content)
    assert example("/score") == TRANSACTION_EXAMPLE
    batch = service.client.post("/score/batch", json=example("/score/batch"))
    assert [item["status"] for item in batch.json()] == [200]
    assert example("/outcomes") == OUTCOME_EXAMPLE
    assert service.client.post("/outcomes", json=example("/outcomes")).status_code == 200


def test_the_documentation_page_is_served(service: Service) -> None:
    """/docs is there, and reads the document of this service."""
    page = service.client.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


def test_models_names_the_model_in_use(service: Service) -> None:
    """GET /models shows the bundle that is served, with its certificate."""
    [model] = service.client.get("/models").json()
    manifest = service.running.bundle.manifest
    assert (model["name"], model["version"], model["provider"]) == (manifest.name, manifest.version, "cpu")
    assert model["spec_sha256"] == manifest.spec_sha256
    assert model["inputs"] == {"numeric": list(manifest.numeric), "categorical": list(manifest.categorical)}
    assert model["expected_calibration_error"]["served"] == manifest.certificate.served.expected_calibration_error


def test_the_page_about_the_interface_leaves_nothing_out(document: dict[str, Any]) -> None:
    """docs/api.md names every endpoint, and every problem code with its status."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in page
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| ([0-9]{3}) \|", page, re.MULTILINE))
    assert listed == {code.value: str(kind.status) for code, kind in KINDS.items()}
    assert listed.keys() == {code.value for code in ProblemCode}
