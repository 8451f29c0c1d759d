"""What every request must satisfy before an endpoint reads it, and what every answer carries."""

import re
from collections.abc import Callable

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import ProblemCode, Problems, problem_response
from service.card_number import looks_like_card_number

MAX_BODY_BYTES = 2 * 1024 * 1024  # a batch of 1,000 transactions of 2 KiB
MAX_SCORE_BYTES = 16 * 1024  # a transaction with every field at its longest has 1.6 KB
_LIMITS = {"/score": MAX_SCORE_BYTES}  # by path; all others have MAX_BODY_BYTES
_ALWAYS_OPEN = frozenset({"/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

log = structlog.get_logger(__name__)


class Guard:
    """The one middleware, around everything, in plain ASGI: request id, readiness, media type, size, last resort.

    A body that is compressed, not JSON or too large is refused before it is read; one whose size is not announced
    is cut off while it is read.
    """

    def __init__(
        self, app: ASGIApp, *, problems: Problems, is_ready: Callable[[], bool], new_request_id: Callable[[], str]
    ) -> None:
        self._app = app
        self._problems = problems
        self._is_ready = is_ready
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let an HTTP request through to the app, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = self._request_id(headers.get(b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        identity = (b"x-request-id", request_id.encode())
        started = False

        async def send_identified(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], identity]
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            problem = self._problems.problem(refusal, request_id=request_id)
            await problem_response(problem)(scope, receive, send_identified)
            return  # the server discards what still comes of the body, so that the client can read this
        try:
            await self._app(scope, _bounded(scope, headers, receive), send_identified)
        except ClientDisconnect:
            return  # nobody is there to answer
        except Exception:
            if started:
                raise  # too late for a problem: the server cuts the connection
            log.exception("request_failed_unexpectedly", request_id=request_id, path=scope["path"])
            problem = self._problems.problem(ProblemCode.INTERNAL_ERROR, request_id=request_id)
            await problem_response(problem)(scope, receive, send_identified)

    def _request_id(self, sent: bytes | None) -> str:
        """The client's, if it is a token that cannot be a card number; else a new one."""
        if sent is not None and _REQUEST_ID.fullmatch(sent) and not looks_like_card_number(sent.decode()):
            return sent.decode()
        return self._new_request_id()

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ProblemCode | None:
        if not self._is_ready() and scope["path"] not in _ALWAYS_OPEN:
            return ProblemCode.NOT_READY
        if not _has_body(headers):
            return None
        if b"content-encoding" in headers or not _is_json(headers.get(b"content-type", b"")):
            return ProblemCode.UNSUPPORTED_MEDIA_TYPE
        if int(headers.get(b"content-length", b"0")) > _limit(scope):
            return ProblemCode.BODY_TOO_LARGE
        return None


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _is_json(content_type: bytes) -> bool:
    return content_type == b"application/json" or content_type.split(b";")[0].strip().lower() == b"application/json"


def _limit(scope: Scope) -> int:
    return _LIMITS.get(scope["path"], MAX_BODY_BYTES)


def _bounded(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
    """The same body, cut off at the limit; an announced length is enforced by the HTTP parser already."""
    if b"transfer-encoding" not in headers:
        return receive
    limit, taken = _limit(scope), 0

    async def receive_bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413)
        return message

    return receive_bounded
