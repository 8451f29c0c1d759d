"""Every error of the HTTP interface as one documented shape: RFC 9457 problem details with a stable code."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import (
    Fault,
    FaultsError,
    IdempotencyConflict,
    NotFound,
    NotWritable,
    OutcomeKeysNeeded,
    RequestInvalid,
    StoreUnavailable,
    ThresholdsInvalid,
    TouchstoneError,
    VersionConflict,
    VersionNeeded,
)
from service.faults import plain_name, reason
from service.telemetry import Telemetry

MEDIA_TYPE = "application/problem+json"
_RETRY_LATER = {"Retry-After": "1"}  # seconds; where the same request may succeed then

log = structlog.get_logger(__name__)


class ProblemCode(StrEnum):
    """What a program may branch on: the closed list of reasons for not answering as asked."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    PAN_NOT_ALLOWED = "pan_not_allowed"
    THRESHOLDS_INVALID = "thresholds_invalid"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    DECISION_EXPIRED = "decision_expired"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    VERSION_NEEDED = "version_needed"
    VERSION_CONFLICT = "version_conflict"
    NOT_WRITABLE = "not_writable"
    STORE_UNAVAILABLE = "store_unavailable"
    UNAUTHENTICATED = "unauthenticated"
    NOT_READY = "not_ready"
    INTERNAL_ERROR = "internal_error"


class Kind(NamedTuple):
    """What is the same for every problem of one code."""

    status: int
    title: str
    headers: Mapping[str, str] = {}


KINDS: Mapping[ProblemCode, Kind] = {
    ProblemCode.INVALID_JSON: Kind(422, "The body is not JSON"),
    ProblemCode.INVALID_REQUEST: Kind(422, "The request does not follow the contract"),
    ProblemCode.PAN_NOT_ALLOWED: Kind(422, "What looks like a card number stands where a token belongs"),
    ProblemCode.THRESHOLDS_INVALID: Kind(422, "The thresholds document cannot be used"),
    ProblemCode.IDEMPOTENCY_CONFLICT: Kind(409, "The transaction_id was used with another body"),
    ProblemCode.DECISION_EXPIRED: Kind(404, "The decision is no longer held: send the transaction's keys as well"),
    ProblemCode.NOT_FOUND: Kind(404, "There is nothing here"),
    ProblemCode.METHOD_NOT_ALLOWED: Kind(405, "This resource does not take this method"),
    ProblemCode.BODY_TOO_LARGE: Kind(413, "The body is too large"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: Kind(415, "Bodies are application/json, not compressed"),
    ProblemCode.VERSION_NEEDED: Kind(428, "Say which version you changed"),
    ProblemCode.VERSION_CONFLICT: Kind(412, "Somebody published in between"),
    ProblemCode.NOT_WRITABLE: Kind(503, "The state directory cannot be written"),
    ProblemCode.STORE_UNAVAILABLE: Kind(503, "The store did not answer in time", _RETRY_LATER),
    ProblemCode.UNAUTHENTICATED: Kind(401, "Send a key as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}),
    ProblemCode.NOT_READY: Kind(503, "The service is starting", _RETRY_LATER),
    ProblemCode.INTERNAL_ERROR: Kind(500, "The service has a defect; its log has the request_id"),
}

_CODES: Mapping[type[TouchstoneError], ProblemCode] = {  # RequestInvalid names its own
    ThresholdsInvalid: ProblemCode.THRESHOLDS_INVALID,
    IdempotencyConflict: ProblemCode.IDEMPOTENCY_CONFLICT,
    OutcomeKeysNeeded: ProblemCode.DECISION_EXPIRED,
    NotFound: ProblemCode.NOT_FOUND,
    VersionNeeded: ProblemCode.VERSION_NEEDED,
    VersionConflict: ProblemCode.VERSION_CONFLICT,
    NotWritable: ProblemCode.NOT_WRITABLE,
    StoreUnavailable: ProblemCode.STORE_UNAVAILABLE,
}

_CODES_BY_STATUS: Mapping[int, ProblemCode] = {  # what the HTTP layer itself refuses
    400: ProblemCode.INVALID_REQUEST,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
    413: ProblemCode.BODY_TOO_LARGE,
    415: ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    401: ProblemCode.UNAUTHENTICATED,
    503: ProblemCode.NOT_READY,
}


class FieldFault(BaseModel):
    """One thing that is wrong with a request."""

    field: Annotated[str, Field(examples=["amount"], description="The field's name or path; body for the whole")]
    reason: Annotated[str, Field(examples=["a valid integer"], description="What was expected; never what was sent")]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(frozen=True)

    type: Annotated[str, Field(examples=["urn:touchstone:problem:invalid_request"])]
    title: str
    status: int
    code: ProblemCode
    detail: str
    errors: list[FieldFault]
    request_id: str

    def to_json(self) -> bytes:
        """The document on the wire."""
        return orjson.dumps(self.model_dump(mode="json"))


class Problems:
    """Turns errors into problems, and counts them: the only place that does either."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def of(self, error: TouchstoneError, *, request_id: str) -> Problem:
        """The problem that an error of ours is to a client.

        Raises:
            KeyError: the error is not one a request can cause.
        """
        faults = error.faults if isinstance(error, FaultsError) else ()
        detail = f"{len(faults)} found; see errors" if faults else str(error)
        code = ProblemCode(error.code) if isinstance(error, RequestInvalid) else _CODES[type(error)]
        return self.problem(code, detail, faults, request_id=request_id)

    def problem(self, code: ProblemCode, detail: str = "", faults: Sequence[Fault] = (), *, request_id: str) -> Problem:
        """A problem with the status and title of its code, counted."""
        self._telemetry.observe_problem(code.value)
        return Problem(
            type=f"urn:touchstone:problem:{code}",
            title=KINDS[code].title,
            status=KINDS[code].status,
            code=code,
            detail=detail or KINDS[code].title,
            errors=[FieldFault(field=fault.path, reason=fault.reason) for fault in faults],
            request_id=request_id,
        )

    def raised(self, error: Exception, *, path: str, request_id: str) -> Problem:
        """The problem of a request that failed; where that is no error of ours, its cause stands in the log only."""
        if isinstance(error, TouchstoneError):
            return self.of(error, request_id=request_id)
        log.error("request_failed_unexpectedly", request_id=request_id, path=path, exc_info=error)
        return self.problem(ProblemCode.INTERNAL_ERROR, request_id=request_id)

    def item(self, error: TouchstoneError, *, request_id: str) -> bytes:
        """What stands in an array of results for an item that was refused."""
        problem = self.of(error, request_id=request_id)
        return b'{"status":%d,"problem":%b}' % (problem.status, problem.to_json())

    def answer_for(self, app: FastAPI) -> None:
        """Make every error an app's endpoints raise a problem, the framework's own included."""
        app.add_exception_handler(TouchstoneError, self._touchstone_error)
        app.add_exception_handler(HTTPException, self._http_exception)
        app.add_exception_handler(RequestValidationError, self._validation_error)

    async def _touchstone_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, TouchstoneError), error
        return problem_response(self.of(error, request_id=request_id(request)))

    async def _http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), error
        code = _CODES_BY_STATUS[error.status_code]
        return problem_response(self.problem(code, request_id=request_id(request)), error.headers)

    async def _validation_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), error
        found = error.errors()
        unread = any(fault["type"] == "json_invalid" for fault in found)
        code = "invalid_json" if unread else "invalid_request"
        faults = [Fault(_path(fault["loc"]), reason(fault)) for fault in found]
        return problem_response(self.of(RequestInvalid(faults, code=code), request_id=request_id(request)))


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as a response."""
    kind = KINDS[problem.code]
    return Response(problem.to_json(), kind.status, {**(headers or {}), **kind.headers}, MEDIA_TYPE)


def request_id(request: Request) -> str:
    """The id that `Guard` gave the request."""
    given: str = request.state.request_id
    return given


def _path(location: Sequence[str | int]) -> str:
    """Where in the request, without its first part (body, path, query) and without names that may hold a value."""
    parts = [plain_name(str(part)) for part in location[1:] if not isinstance(part, int)]
    return ".".join(parts) or "body"
