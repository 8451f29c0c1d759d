"""The last resort: what a client sees when an endpoint has a defect, or is not there yet."""

import asyncio
import json
from io import StringIO
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.admission import Admission
from service.api.guard import Guard
from service.api.problems import Problems
from service.app import create_app
from service.telemetry import Telemetry


def get(app: ASGIApp, path: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(request())


def admission() -> Admission:
    """Of a service that is ready for everybody."""
    return Admission(is_ready=lambda: True, keys=lambda: None, new_request_id=lambda: "r-1")


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An endpoint with a defect."""
    raise ZeroDivisionError("secret-detail")


async def broken_late(_scope: Scope, _receive: Receive, send: Send) -> None:
    """One that fails when it has begun to answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ZeroDivisionError("secret-detail")


def test_a_defect_is_answered_without_its_cause_and_logged_with_it(log_stream: StringIO) -> None:
    """500 has the shape of every error; the traceback is in the log under the same request id, and is counted."""
    telemetry = Telemetry(CollectorRegistry())
    guard = Guard(broken, admission=admission(), problems=Problems(telemetry))
    response = get(guard, "/x")
    assert response.status_code == 500
    assert "secret-detail" not in response.text
    problem = response.json()
    assert (problem["code"], problem["request_id"]) == ("internal_error", "r-1")
    [line] = log_stream.getvalue().splitlines()
    logged: dict[str, Any] = json.loads(line)
    assert (logged["event"], logged["request_id"], logged["level"]) == ("request_failed_unexpectedly", "r-1", "error")
    assert "ZeroDivisionError: secret-detail" in logged["exception"]
    assert telemetry.registry.get_sample_value("fraud_problems_total", {"code": "internal_error"}) == 1


def test_a_defect_after_the_answer_began_cuts_the_connection() -> None:
    """Half an answer is never completed by something else."""
    guard = Guard(broken_late, admission=admission(), problems=Problems(Telemetry(CollectorRegistry())))
    with pytest.raises(ZeroDivisionError):
        get(guard, "/x")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/metrics", 200),
        ("/openapi.json", 200),
        ("/docs", 200),
        ("/health/ready", 503),
        ("/score", 503),
        ("/models", 503),
        ("/thresholds", 503),
        ("/nothing", 503),
    ],
)
def test_before_it_is_ready_the_service_is_alive_and_says_when_to_come_back(path: str, status: int) -> None:
    """Liveness, metrics and documentation need nothing; everything else is refused with Retry-After."""
    response = get(create_app(Telemetry(CollectorRegistry())), path)
    assert response.status_code == status
    if status == 503:
        assert response.json()["code"] == "not_ready"
        assert response.headers["retry-after"] == "1"
