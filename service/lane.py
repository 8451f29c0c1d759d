"""The fast lane: answers POST /score from the bytes that the HTTP parser gives, without scope, task and events.

It takes what plainly is a request for /score and leaves everything else to the app, which has the same endpoint: other
paths, what is refused or cannot be read, HTTP/1.0, chunked bodies, a request behind one that is not answered yet, a
client that does not read. What it answers is the app's answer, byte for byte.
"""

import inspect
from collections.abc import Iterable
from hashlib import sha256
from typing import ClassVar

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.admission import Admission
from service.api.problems import Problems, problem_response
from service.api.running import Running
from service.api.score import read_request
from service.api.wire import json_headers
from service.errors import RequestInvalid
from service.heads import Heads
from service.protocol import GuardedProtocol
from service.scorer import Answer

PATH = "/score"
_URL = PATH.encode()

# SHA-256 of the source of the uvicorn classes whose attributes the lane uses, by the versions it was written for.
WRITTEN_FOR = frozenset({"1f0ad26f71ba02a760f1965589e05ae7e93ec5eb5a25b6c0d796f71630a3a051"})  # 0.54.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def protocol_of(app: FastAPI, *, fast_lane: bool, written_for: frozenset[str] = WRITTEN_FOR) -> type[GuardedProtocol]:
    """What uvicorn is to speak with clients of an app: with the lane if it is wanted, and fits this uvicorn."""
    if not fast_lane:
        return GuardedProtocol
    if _digest([HttpToolsProtocol, RequestResponseCycle, FlowControl]) not in written_for:
        _log.warning("fast_lane_left_out", reason="it was written for another uvicorn", uvicorn=uvicorn.__version__)
        return GuardedProtocol
    return type("LaneProtocol", (LaneProtocol,), {"served": app, "heads": Heads()})


class LaneProtocol(GuardedProtocol):
    """One connection. A request in the lane stands where uvicorn keeps its cycle, so that uvicorn waits for it."""

    served: ClassVar[FastAPI]
    heads: ClassVar[Heads]

    _passage: "_Passage | None" = None  # the request in the lane that is being received
    _segment = b""  # what is being parsed

    def data_received(self, data: bytes) -> None:
        """Take a request whose head is known into the lane, and let all else be parsed."""
        if not self._take_known(data):
            self._segment = data
            super().data_received(data)

    def head_complete(self) -> None:
        """Take the request into the lane, or leave it to the app."""
        if not self._is_plain():
            super().head_complete()
            return
        headers = dict(self.headers)
        admission: Admission = self.served.state.admission
        if b"content-length" not in headers or admission.refusal(PATH, headers) is not None:
            super().head_complete()
            return
        passage = _Passage(self, admission.request_id(headers), keep_alive=self.parser.should_keep_alive())
        passage.is_lasting = passage.keep_alive and b"x-request-id" not in headers
        self._passage = passage
        self.cycle = self._passage  # type: ignore[assignment] # it has what uvicorn looks at

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body; `Admission` bounds the whole."""
        if self._passage is None:
            super().on_body(body)
        else:
            self._passage.body += body

    def body_complete(self) -> None:
        """Let what was taken be scored, or leave it to the app after all: that has the words for what is wrong."""
        passage, self._passage = self._passage, None
        if passage is None:
            super().body_complete()
            return
        parts: Running = self.served.state.touchstone
        try:
            request = read_request(passage.body, parts, parts.now_ms())
        except RequestInvalid:
            passage.response_complete = True
            super().head_complete()
            self.cycle.keep_alive &= passage.keep_alive  # the server may have begun to shut down
            super().on_body(passage.body)
            super().body_complete()
            return
        except Exception as error:  # noqa: BLE001 - a defect of ours, which the parser would take for one of the client's
            passage.deliver(error)
            return
        if passage.is_lasting and self._received == len(self._segment):
            self.heads.learn(self._segment, len(passage.body), parts.keys)
        parts.waiting.enqueue(request, passage.deliver)

    def _take_known(self, segment: bytes) -> bool:
        """Whether a segment is a whole request that the parser need not see, and is on its way."""
        parts: Running | None = self.served.state.touchstone
        if parts is None or self._under_way or self.transport.is_closing() or not self._is_free():
            return False
        body = self.heads.body_of(segment, parts.keys)
        if body is None:
            return False
        try:
            request = read_request(body, parts, parts.now_ms())
        except Exception:  # noqa: BLE001 - raised again on the usual way, where it is answered
            return False
        passage = _Passage(self, self.served.state.admission.new_request_id(), keep_alive=True)
        self.cycle = passage  # type: ignore[assignment] # it has what uvicorn looks at
        parts.waiting.enqueue(request, passage.deliver)
        return True

    def _is_plain(self) -> bool:
        """Whether nothing about the request, but for its headers, keeps it from the lane."""
        return (
            self.url == _URL
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and self._is_free()
            and self.limit_concurrency is None
        )

    def _is_free(self) -> bool:
        """Whether nobody waits for an answer, nor leaves one unread."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused


class _Passage:
    """A request on its way through the lane."""

    __slots__ = ("_protocol", "_request_id", "body", "disconnected", "is_lasting", "keep_alive", "response_complete")

    def __init__(self, protocol: LaneProtocol, request_id: str, *, keep_alive: bool) -> None:
        self.body = b""
        self.disconnected = False
        self.keep_alive = keep_alive
        self.is_lasting = False  # whether the same head would mean the same another time
        self.response_complete = False
        self._protocol = protocol
        self._request_id = request_id

    @property
    def message_event(self) -> "_Passage":
        """What uvicorn sets when the client has left; nobody waits for it here."""
        return self

    def set(self) -> None:
        """See `message_event`."""

    def deliver(self, result: Answer | Exception) -> None:
        """Answer."""
        if self.disconnected or self._protocol.transport.is_closing():
            return
        if isinstance(result, Answer):
            self._send(200, json_headers(result.body, replayed=result.replayed), result.body)
            return
        problems: Problems = self._protocol.served.state.problems
        response = problem_response(problems.raised(result, path=PATH, request_id=self._request_id))
        self._send(response.status_code, response.raw_headers, bytes(response.body))

    def _send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        protocol = self._protocol
        lines = [b"%b: %b\r\n" % header for header in (*protocol.server_state.default_headers, *headers)]
        last = b"x-request-id: %b\r\n" % self._request_id.encode()
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        protocol.transport.write(b"".join((STATUS_LINE[status], *lines, last, closing, b"\r\n", body)))
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


def _digest(classes: Iterable[type]) -> str:
    """Of the classes' source; of nothing where there is none."""
    try:
        return sha256("".join(map(inspect.getsource, classes)).encode()).hexdigest()
    except OSError:
        return ""
