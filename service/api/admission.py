"""Admission: what every request must satisfy before it is read, and the id by which it is called."""

import re
from collections.abc import Callable, Mapping

from service.api.problems import ProblemCode
from service.card_number import looks_like_card_number
from service.security import ApiKeys

MAX_BODY_BYTES = 2 * 1024 * 1024  # a batch of 1,000 transactions of 2 KiB
MAX_SCORE_BYTES = 16 * 1024  # a transaction with every field at its longest has 1.6 KB
_LIMITS = {"/score": MAX_SCORE_BYTES}  # by path; all others have MAX_BODY_BYTES
_ALWAYS_OPEN = frozenset({"/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

Headers = Mapping[bytes, bytes]  # names in lower case; of two with the same name, the last


class Admission:
    """Looks at a request's head, and at nothing else."""

    def __init__(
        self,
        *,
        is_ready: Callable[[], bool],
        keys: Callable[[], ApiKeys | None],
        new_request_id: Callable[[], str],
    ) -> None:
        """Tell it where to look.

        Args:
            is_ready: whether requests can be answered yet.
            keys: who may send them, once it is ready; None: everybody.
            new_request_id: for a request that brings none.
        """
        self._is_ready = is_ready
        self._keys = keys
        self.new_request_id = new_request_id

    def request_id(self, headers: Headers) -> str:
        """The client's, if it is a token that cannot be a card number; else a new one."""
        sent = headers.get(b"x-request-id")
        if sent is not None and _REQUEST_ID.fullmatch(sent) and not looks_like_card_number(sent.decode()):
            return sent.decode()
        return self.new_request_id()

    def refusal(self, path: str, headers: Headers) -> ProblemCode | None:
        """Why a request is turned away before its body is read; None: it is not."""
        if path not in _ALWAYS_OPEN:
            if not self._is_ready():
                return ProblemCode.NOT_READY
            keys = self._keys()
            if keys is not None and keys.client_of(headers.get(b"authorization")) is None:
                return ProblemCode.UNAUTHENTICATED
        if not _has_body(headers):
            return None
        if b"content-encoding" in headers or not _is_json(headers.get(b"content-type", b"")):
            return ProblemCode.UNSUPPORTED_MEDIA_TYPE
        if int(headers.get(b"content-length", b"0")) > body_limit(path):
            return ProblemCode.BODY_TOO_LARGE
        return None


def body_limit(path: str) -> int:
    """How many bytes the body of a request may have."""
    return _LIMITS.get(path, MAX_BODY_BYTES)


def _has_body(headers: Headers) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _is_json(content_type: bytes) -> bool:
    return content_type == b"application/json" or content_type.split(b";")[0].strip().lower() == b"application/json"
