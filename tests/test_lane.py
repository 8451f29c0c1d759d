"""POST /score below ASGI: it answers what the app would, and nobody's silence, haste or leaving harms another."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from service.api.admission import MAX_SCORE_BYTES
from service.api.running import Running
from service.batching import Batcher
from service.lane import LaneProtocol, protocol_of
from service.protocol import MAX_HEAD_BYTES, GuardedProtocol
from service.scorer import ScoreRequest
from service.settings import Settings
from tests import test_transaction as reading
from tests.conftest import ARRIVAL_MS
from tests.raw_http import converse, post, statuses, transaction
from tests.serving import Service, serving
from tests.test_transaction import FULL

KEY = "a-key-of-a-test"
ALLOWED = {b"Authorization": f"Bearer {KEY}".encode()}
GET = b"GET /models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-key-of-a-test\r\n\r\n"


@dataclass(frozen=True)
class Pair:
    """Two servers that answer every request in the same way, but one of them without the lane."""

    lane: Service
    asgi: Service

    def answered(self, pieces: Sequence[bytes], expected: Sequence[int]) -> bytes:
        """What both answer to the pieces.

        Args:
            pieces: of bytes, sent one by one.
            expected: the statuses of the answers, without that to the probe which ends the connection.
        """
        received = converse(self.lane.port, pieces, len(expected))
        assert statuses(received)[: len(expected)] == list(expected), received
        assert received == converse(self.asgi.port, pieces, len(expected))
        return received


@pytest.fixture(scope="module")
def pair(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Their clocks stand still, all request ids that they make are the same, and they ask for a key."""
    directory = tmp_path_factory.mktemp("pair")
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"clients": [{"name": "test", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]}))
    with ExitStack() as stack:
        started = []
        for fast_lane in ("auto", "off"):
            settings = Settings.model_validate({
                "model_dir": small_bundle,
                "state_dir": directory / fast_lane,
                "api_keys_file": keys,
                "fast_lane": fast_lane,
            })  # fmt: skip
            service = stack.enter_context(serving(settings, lambda: ARRIVAL_MS))
            service.running.scorer._clock = lambda: 0.0
            service.app.state.admission.new_request_id = lambda: "made-here"
            started.append(service)
        yield Pair(*started)


@pytest.fixture(scope="module")
def lane(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server with the lane, open to everybody."""
    settings = Settings(model_dir=small_bundle, state_dir=tmp_path_factory.mktemp("lane"))
    with serving(settings, lambda: ARRIVAL_MS) as started:
        assert issubclass(started.server.config.http_protocol_class, LaneProtocol)
        yield started


def score(name: str, **changes: object) -> bytes:
    """A request that is taken."""
    return post(transaction(name, **changes), ALLOWED)


def score_with(
    name: str, changes: Mapping[bytes, bytes | None], *extra: bytes, line: bytes = b"POST /score HTTP/1.1"
) -> bytes:
    """The same with other headers."""
    return post(transaction(name), {**ALLOWED, **changes}, *extra, line=line)


def score_by(name: str, line: bytes) -> bytes:
    """The same with another request line, at the end of its connection."""
    return score_with(name, {b"Connection": b"close"}, line=line)


def pieces_of(request: bytes, size: int) -> list[bytes]:
    return [request[at : at + size] for at in range(0, len(request), size)]


def chunked(name: str, *, extra: bytes = b"") -> bytes:
    body = transaction(name) + extra
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces_of(body, 5_000))
    return post(chunks + b"0\r\n\r\n", {**ALLOWED, b"Content-Length": None, b"Transfer-Encoding": b"chunked"})


CLOSE = {b"Connection": b"close"}
LINE = b"POST %b HTTP/1.1"

REQUESTS: dict[str, tuple[list[bytes], list[int]]] = {
    "plain": ([score("plain")], [200]),
    "retried": ([score("retried"), score("retried")], [200, 200]),
    "in conflict": ([score("conflict"), score("conflict", amount=1)], [200, 409]),
    "decided without a rate": ([score("rateless", currency="XAF")], [200]),
    "of a card number": ([score("pan", card_id="4111111111111111")], [422]),
    # The media type.
    "without a media type": ([score_with("m1", {b"Content-Type": None})], [415]),
    "of text": ([score_with("m2", {b"Content-Type": b"text/plain"})], [415]),
    "of a patch": ([score_with("m3", {b"Content-Type": b"application/json-patch+json"})], [415]),
    "with a charset": ([score_with("m4", {b"Content-Type": b"Application/JSON ; charset=utf-8"})], [200]),
    "with two media types": ([score_with("m5", {}, b"Content-Type: text/plain")], [415]),
    "compressed": ([score_with("m6", {b"Content-Encoding": b"gzip"})], [415]),
    # The length.
    "without a length": ([score_with("l1", {b"Content-Length": None})], [400]),
    "of length 0": ([post(b"", ALLOWED)], [422]),
    "of length 0 and no media type": ([post(b"", {**ALLOWED, b"Content-Type": None})], [422]),
    "of length 00": ([post(b"", {**ALLOWED, b"Content-Length": b"00"})], [422]),
    "of a negative length": ([score_with("l2", {b"Content-Length": b"-1"})], [400]),
    "of a signed length": ([score_with("l3", {b"Content-Length": b"+130"})], [400]),
    "of a length with blanks": ([score_with("l4", {b"Content-Length": b" %d " % len(transaction("l4"))})], [200]),
    "of a length with zeros": ([score_with("l5", {b"Content-Length": b"000%d" % len(transaction("l5"))})], [200]),
    "of a length in hexadecimal": ([score_with("l6", {b"Content-Length": b"0x82"})], [400]),
    "of a length beyond 64 bits": ([score_with("l7", {b"Content-Length": b"9" * 30})], [400]),
    "of two lengths": ([score_with("l8", {}, b"Content-Length: 5")], [400]),
    "of one length twice": ([score_with("l9", {}, b"content-length: %d" % len(transaction("l9")))], [400]),
    "of a list of lengths": ([score_with("l10", {b"Content-Length": b"5, 5"})], [400]),
    "of the greatest length": ([post(transaction("l11").ljust(MAX_SCORE_BYTES), ALLOWED)], [200]),
    "too long": ([post(transaction("l12").ljust(MAX_SCORE_BYTES + 1), ALLOWED)], [413]),
    "in chunks": ([chunked("c1")], [200]),
    "in too many chunks": ([chunked("c2", extra=b" " * MAX_SCORE_BYTES)], [413]),
    "in chunks and of a length": ([score_with("c3", {b"Transfer-Encoding": b"chunked"})], [400]),
    "in another coding": ([score_with("c4", {b"Content-Length": None, b"Transfer-Encoding": b"gzip"})], [400]),
    "in broken chunks": (
        [post(b"zz\r\n", {**ALLOWED, b"Content-Length": None, b"Transfer-Encoding": b"chunked"})],
        [400],
    ),
    # What HTTP offers besides. The parser reads no body where an upgrade is offered.
    "after asking": ([score_with("h1", {b"Expect": b"100-continue"})], [100, 200]),
    "after asking with a body that is refused": ([post(b"{}", {**ALLOWED, b"Expect": b"100-Continue"})], [100, 422]),
    "expecting something else": ([score_with("h2", {b"Expect": b"a-coffee"})], [200]),
    "offering WebSocket": ([score_with("h3", {b"Connection": b"Upgrade", b"Upgrade": b"websocket"})], [422]),
    "offering HTTP/2": (
        [score_with("h4", {b"Connection": b"Upgrade, HTTP2-Settings", b"Upgrade": b"h2c", b"HTTP2-Settings": b"A"})],
        [422],
    ),
    "naming an upgrade only": ([score_with("h5", {b"Upgrade": b"h2c"})], [200]),
    "of HTTP/1.0": ([score_with("h6", {}, line=b"POST /score HTTP/1.0")], [200]),
    "of HTTP/1.0 kept alive": ([score_with("h7", {b"Connection": b"keep-alive"}, line=b"POST /score HTTP/1.0")], [200]),
    "of HTTP/2.0": ([score_by("h8", b"POST /score HTTP/2.0")], []),
    "of HTTP/1.7": ([score_by("h9", b"POST /score HTTP/1.7")], [400]),
    "with names in lower case": ([score("h10").replace(b"Content-", b"content-").replace(b"Auth", b"auth")], [200]),
    "with names in capitals": ([score("h11").replace(b"Content-Length", b"CONTENT-LENGTH")], [200]),
    "without a host": ([score_with("h12", {b"Host": None})], [200]),
    "with a name that is none": ([score_with("h13", {}, b"no colon here")], [400]),
    "with a blank before the colon": ([score_with("h14", {}, b"X-A : b")], [400]),
    "with a header in two lines": ([score_with("h15", {}, b"X-A: b\r\n c")], [400]),
    "with NUL in a header": ([score_with("h16", {}, b"X-A: b\x00c")], [400]),
    "with lines that end in LF": ([score("h17").replace(b"\r\n", b"\n")], [400]),
    "after an empty line": ([b"\r\n" + score("h18")], [200]),
    "with a head that just fits": ([score_with("h19", {}, b"X-A: " + b"y" * (MAX_HEAD_BYTES - 250))], [200]),
    "with a head that is too large": ([score_with("h20", {}, b"X-A: " + b"y" * MAX_HEAD_BYTES)], [400]),
    # The method and the place.
    "got": ([b"GET /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-key-of-a-test\r\n\r\n"], [405]),
    "got with a body": ([score_by("p1", b"GET /score HTTP/1.1")], [405]),
    "put": ([score_by("p2", b"PUT /score HTTP/1.1")], [405]),
    "asked for its head": ([score_by("p3", b"HEAD /score HTTP/1.1")], [405]),
    "asked for its options": ([score_by("p4", b"OPTIONS /score HTTP/1.1")], [405]),
    "of a method in lower case": ([score_by("p5", b"post /score HTTP/1.1")], [400]),
    "of a method that is none": ([score_by("p6", b"SCORE /score HTTP/1.1")], [400]),
    "with a query": ([score_by("p7", LINE % b"/score?x=1")], [200]),
    "with an empty query": ([score_by("p8", LINE % b"/score?")], [200]),
    "with a fragment": ([score_by("p9", LINE % b"/score#x")], [200]),
    "of an absolute address": ([score_by("p10", LINE % b"http://x/score")], [200]),
    "of an escaped path": ([score_by("p11", LINE % b"/%73core")], [200]),
    "of a path with a slash after it": ([score_by("p12", LINE % b"/score/")], [404]),
    "of a path with two slashes": ([score_by("p13", LINE % b"//score")], [404]),
    "of a path in capitals": ([score_by("p14", LINE % b"/SCORE")], [404]),
    "of no path": ([score_by("p15", LINE % b"*")], [404]),
    "of a path that is no text": ([score_by("p16", LINE % b"/\xff")], [400]),
    # The id and the key.
    "with an id": ([score_with("i1", {b"X-Request-Id": b"trace-1"})], [200]),
    "with an id, refused": ([post(b"{}", {**ALLOWED, b"X-Request-Id": b"trace-1"})], [422]),
    "with an id that is no token": ([score_with("i2", {b"X-Request-Id": b"a b"})], [200]),
    "with an id that is empty": ([score_with("i3", {b"X-Request-Id": b""})], [200]),
    "with an id that is no text": ([score_with("i4", {b"X-Request-Id": b"\xe9"})], [200]),
    "with an id that is a card number": ([score_with("i5", {b"X-Request-Id": b"4111111111111111"})], [200]),
    "with two ids": ([score_with("i6", {b"X-Request-Id": b"one"}, b"x-request-id: two")], [200]),
    "without a key": ([post(transaction("k1"))], [401]),
    "with a wrong key": ([score_with("k2", {b"Authorization": b"Bearer wrong"})], [401]),
    "with a key of another scheme": ([score_with("k3", {b"Authorization": b"Basic " + KEY.encode()})], [401]),
    "with a key that is no text": ([score_with("k4", {b"Authorization": b"Bearer \xe9"})], [401]),
    "with a scheme in capitals": ([score_with("k5", {b"Authorization": b"BEARER  " + KEY.encode()})], [200]),
    "with two keys": ([score_with("k6", {}, b"Authorization: Bearer wrong")], [401]),
    "without a key, in pieces": (pieces_of(post(transaction("k7")), 100), [401]),
    # Connections.
    "the last": ([score_with("n1", CLOSE)], [200]),
    "the last, refused": ([post(b"{}", {**ALLOWED, **CLOSE})], [422]),
    "the last, and another": ([score_with("n2", CLOSE) + score("n3")], [200]),
    "the last, and later another": ([score_with("n4", CLOSE), score("n5")], [200]),
    "to be kept or not": ([score_with("n6", {b"Connection": b"keep-alive, close"})], [200]),
    "several, one by one": (
        [score("n7"), score("n8"), post(b"{}", ALLOWED), score("n9"), GET],
        [200, 200, 422, 200, 200],
    ),
    "byte by byte": (pieces_of(score("n10"), 1), [200]),
    "in pieces": (pieces_of(score("n11"), 7), [200]),
    "refused, in pieces": (pieces_of(post(b"{}" + b" " * 90, ALLOWED), 7), [422]),
    "with its head cut": ([score("n12")[:20], score("n12")[20:]], [200]),
    "with its body cut": ([score("n13")[:-9], score("n13")[-9:]], [200]),
    # Several in one segment.
    "two at once": ([score("s1") + score("s2")], [200, 200]),
    "five at once": ([b"".join(score(f"s3-{number}") for number in range(5))], [200] * 5),
    "the same twice at once": ([score("s4") * 2], [200, 200]),
    "two in conflict at once": ([score("s5") + score("s5", amount=1)], [200, 409]),
    "one for the app behind": ([score("s6") + GET], [200, 200]),
    "one for the app before": ([GET + score("s7")], [200, 200]),
    "one between two for the app": ([GET + score("s8") + GET], [200, 200, 200]),
    "one that is refused before": ([post(b"{}", ALLOWED) + score("s9")], [422, 200]),
    "one that is refused behind": ([score("s10") + post(b"{}", ALLOWED)], [200, 422]),
    "one of text before": ([score_with("s11", {b"Content-Type": None}) + score("s12")], [415, 200]),
    "one without a key behind": ([score("s13") + post(transaction("s14"))], [200, 401]),
    "one that asks behind": ([score("s15") + score_with("s16", {b"Expect": b"100-continue"})], [200, 100, 200]),
    "one and a half": ([score("s17") + score("s18")[:60], score("s18")[60:]], [200, 200]),
    "one and the head of another": ([score("s19") + score("s20")[:-30], score("s20")[-30:]], [200, 200]),
    "one and a head that is too large": (
        [score("s22") + score_with("s23", {}, b"X-A: " + b"y" * MAX_HEAD_BYTES)],
        [400],
    ),
    "one and nonsense": ([score("s21") + b"nonsense\r\n\r\n"], [400]),
    "nonsense": ([b"nonsense\r\n\r\n"], [400]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_answered_as_without_the_lane(pair: Pair, name: str) -> None:
    """Whatever a request is like and however it comes, the bytes that come back are the same, and so is their end.

    Also when it comes again: its head may be known then.
    """
    for _ in range(2):
        pair.answered(*REQUESTS[name])


def parsed_by(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the parser is given from now on."""
    given: list[bytes] = []
    parse = GuardedProtocol.data_received

    def data_received(protocol: GuardedProtocol, data: bytes) -> None:
        given.append(data)
        parse(protocol, data)

    monkeypatch.setattr(GuardedProtocol, "data_received", data_received)
    return given


def test_a_head_is_parsed_once(lane: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request with the same head is answered without the parser, and one with another head is parsed."""
    given = parsed_by(monkeypatch)
    asked = [post(transaction(name), {b"X-Of": b"heads"}) for name in ("head-1", "head-2", "head-33")]
    answers = [converse(lane.port, [request], 1) for request in asked]
    assert [statuses(answer)[0] for answer in answers] == [200, 200, 200]
    assert [name in answer for name, answer in zip((b'"head-1"', b'"head-2"', b'"head-33"'), answers, strict=True)] == [
        True,
        True,
        True,
    ]
    assert [data for data in given if b"heads" in data] == [asked[0], asked[2]]


@pytest.mark.parametrize(
    "changes", [{b"X-Request-Id": b"mine"}, {b"Connection": b"close"}, {b"Authorization": b"Bearer wrong"}]
)
def test_a_head_that_means_something_else_each_time_is_not_known(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, changes: dict[bytes, bytes]
) -> None:
    """An id is the request's own, a closed connection has no next request, and who may not ask is refused again."""
    given = parsed_by(monkeypatch)
    for name in ("other-1", "other-2"):
        asked = score_with(name, changes)
        converse(pair.lane.port, [asked], 1)
        assert asked in given


def test_a_body_that_is_refused_behind_a_known_head_is_refused_with_reasons(pair: Pair) -> None:
    """The parser sees it after all, and the app has the words."""
    taken = transaction("known-1")
    refused = taken.replace(b"13000", b"-3000")
    pair.answered([post(taken, ALLOWED), post(refused, ALLOWED), post(taken, ALLOWED)], [200, 422, 200])


def examples_of(test: Callable[..., None]) -> list[Any]:
    """The values that another test is run with, by its tables."""
    [table] = [mark.args[1] for mark in test.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined] # pytest sets it
    return list(table)


MALFORMED: list[bytes] = [
    *examples_of(reading.test_what_is_not_json_is_refused_as_such),
    *examples_of(reading.test_json_that_is_no_object_is_refused),
    *(
        json.dumps({**FULL, field: value}).encode()
        for field, value in examples_of(reading.test_a_wrong_value_is_refused_by_name_and_without_the_value)
    ),
    *(json.dumps({**FULL, "amount": "?"}).replace('"?"', number).encode() for number in ("NaN", "-Infinity", "1e999")),
    *(json.dumps({**FULL, name: 1}).encode() for name in ("amuont", "4111111111111111", "a" * 41, "é", "<script>", "")),
    json.dumps(FULL).replace('"amount"', '"amount": 1, "amount"').encode(),
    json.dumps({name: value for name, value in FULL.items() if name != "longitude"}).encode(),
    json.dumps({"".join(chr(97 + int(digit)) for digit in str(number)): 1 for number in range(1_000)}).encode(),
    b"[" * 16_000,
]


@pytest.mark.parametrize("body", MALFORMED)
def test_a_body_that_is_refused_is_refused_as_without_the_lane(pair: Pair, body: bytes) -> None:
    """The app has the words for what is wrong, and the lane finds out that they are needed."""
    pair.answered([post(body, ALLOWED)], [422])


def test_before_it_is_ready_the_lane_says_when_to_come_back(pair: Pair) -> None:
    """A request is refused as one to any other endpoint, and so is one that is here half."""
    with pair.lane.using(None), pair.asgi.using(None):
        pair.answered([score("early")], [503])
        pair.answered([post(b"{}")], [503])
    received = pair.answered([score("early")], [200])
    assert b"idempotent-replayed" not in received


def fail(*_: object) -> NoReturn:
    """What no part of the service should do."""
    raise ZeroDivisionError("secret-detail")


async def fail_later(_requests: Sequence[ScoreRequest]) -> NoReturn:
    """The same, when it is awaited."""
    fail()


def broken(running: Running, where: str) -> Running:
    """The parts, one of which has a defect."""
    match where:
        case "reading":
            return replace(running, now_ms=fail)
        case "scoring":
            return replace(running, waiting=Batcher(fail_later, overflow=fail, most_waiting=10))
        case _:
            return replace(
                running, waiting=Batcher(running.scorer.score, overflow=fail, most_waiting=0, most_batches=0)
            )


@pytest.mark.parametrize("where", ["scoring", "reading", "deciding at once"])
def test_a_defect_is_answered_and_logged_as_without_the_lane(pair: Pair, where: str, log_stream: StringIO) -> None:
    """Wherever it is, the client gets a problem without the cause, and the log has it, once, under the same id."""
    with ExitStack() as stack:
        for service in (pair.lane, pair.asgi):
            stack.enter_context(service.using(broken(service.running, where)))
        received = pair.answered(
            [score_with(f"defect-{where.replace(' ', '-')}", {b"X-Request-Id": b"trace-1"}), GET], [500, 200]
        )
    assert b"secret-detail" not in received
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    assert [(line["event"], line["request_id"], line["path"]) for line in lines] == [
        ("request_failed_unexpectedly", "trace-1", "/score")
    ] * 2
    assert all("ZeroDivisionError: secret-detail" in line["exception"] for line in lines)
    assert b"idempotent-replayed" not in pair.answered([score(f"defect-{where.replace(' ', '-')}")], [200])


class Witness:
    """Notes what the app is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.paths: list[str] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the path, and pass it on."""
        self.paths.append(scope["path"])
        await self._app(scope, receive, send)


def seen_by_the_app(service: Service, pieces: Sequence[bytes], answers: int) -> list[str]:
    """The paths of the requests that did not take the lane."""
    stack = service.app.middleware_stack
    assert stack is not None
    witness = Witness(stack)
    service.app.middleware_stack = witness
    try:
        if len(pieces) == answers:  # one by one for certain
            for piece in pieces:
                converse(service.port, [piece], 1)
        else:
            converse(service.port, pieces, answers)
    finally:
        service.app.middleware_stack = stack
    return [path for path in witness.paths if path != "/health/live"]  # which is the probe


@pytest.mark.parametrize(
    ("name", "app"),
    [
        ("plain", 0),
        ("retried", 0),
        ("in conflict", 0),
        ("with a charset", 0),
        ("of the greatest length", 0),
        ("with names in capitals", 0),
        ("with an id", 0),
        ("the last", 0),
        ("byte by byte", 0),
        ("one that is refused before", 2),  # the second waits behind it
        ("two at once", 1),  # the same
        ("one for the app behind", 1),
        ("of a card number", 1),
        ("without a key", 1),
        ("without a media type", 1),
        ("too long", 1),
        ("in chunks", 1),
        ("after asking", 1),
        ("of HTTP/1.0", 1),
        ("with a query", 1),
        ("got", 1),
    ],
)
def test_the_app_is_not_asked_where_the_lane_answers(pair: Pair, name: str, app: int) -> None:
    """A plain request never becomes one of ASGI; what is left to the app is asked of it once."""
    pieces, expected = REQUESTS[name]
    assert len(seen_by_the_app(pair.lane, pieces, len(expected))) == app
    assert len(seen_by_the_app(pair.asgi, pieces, len(expected))) == len(expected) - expected.count(100)


def test_the_lane_fits_the_server_that_is_installed(lane: Service) -> None:
    """The source it was written for is that of the uvicorn in use: after an update, read the difference."""
    assert issubclass(protocol_of(lane.app, fast_lane=True), LaneProtocol)
    assert protocol_of(lane.app, fast_lane=False) is GuardedProtocol


def test_the_lane_is_left_out_where_it_may_not_fit(lane: Service) -> None:
    """With another uvicorn everything goes through the app, and the log says so."""
    with capture_logs() as lines:
        assert protocol_of(lane.app, fast_lane=True, written_for=frozenset({"other"})) is GuardedProtocol
    assert [(line["event"], line["log_level"]) for line in lines] == [("fast_lane_left_out", "warning")]
