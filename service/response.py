"""The body of a decision's answer (docs/api.md): as it is sent, and packed into half of that for a store to keep."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from msgspec import Struct

from service.decision import Decision
from service.thresholds_document import DEFAULT_SEGMENT

# What every response has, as single bytes that no JSON in ASCII contains: half of its size. New fragments go to the
# end, and none is ever changed: old records are read with the same list. Longer ones stand before their parts.
_FRAGMENTS = (
    b'{"transaction_id":"',
    b'","decision_id":"d-',
    b'","decision":"approve","probability":',
    b'","decision":"challenge","probability":',
    b'","decision":"review","probability":',
    b'","decision":"decline","probability":',
    b',"score":',
    b',"reasons":[],"thresholds":{"version":',
    b',"reasons":[{"code":"',
    b'}],"thresholds":{"version":',
    b',"segment":"default"},"model":{"name":"',
    b',"segment":"',
    b'"},"model":{"name":"',
    b'","version":"',
    b'","sha256":"',
    b'"},"degraded":[],"scored_at":"',
    b'"},"degraded":["',
    b'"],"scored_at":"',
    b'Z","latency_ms":',
    b'","contribution":',
    b',"value":',
    b',"description":"',
    b'"},{"code":"',
)
_CODES = tuple(bytes([0x80 + index]) for index in range(len(_FRAGMENTS)))
_PACKING = tuple(zip(_FRAGMENTS, _CODES, strict=True))
_PLAIN, _PACKED = b"\x00", b"\x01"


class Response(NamedTuple):
    """One body, in both forms."""

    body: bytes
    packed: bytes

    @classmethod
    def of(cls, body: bytes) -> "Response":
        """Pack a body; one that is not ASCII stays as it is."""
        packed = body
        if not body.isascii():
            return cls(body, _PLAIN + body)
        for fragment, code in _PACKING:
            packed = packed.replace(fragment, code)
        return cls(body, _PACKED + packed)

    @classmethod
    def unpack(cls, packed: bytes) -> "Response":
        """The body that was packed."""
        form, body = packed[:1], packed[1:]
        if form == _PACKED:
            for fragment, code in _PACKING:
                body = body.replace(code, fragment)
        return cls(body, packed)


class Content(Struct, frozen=True, gc=False):
    """What an answer says besides the model's name.

    Attributes:
        transaction_id: the request's; like the other ids nothing that JSON would escape.
        decision_id: d- and hexadecimal digits.
        decision: its word.
        probability: calibrated; None where there is none, as for the score.
        score: 0 to 999.
        reasons: what orjson can write.
        thresholds_version: which one decided.
        segment: of these thresholds.
        degraded: what was missing.
        scored_at: RFC 3339, in UTC with a Z.
        latency_ms: how long it took.
    """

    transaction_id: str
    decision_id: str
    decision: str
    probability: float | None
    score: int | None
    reasons: Sequence[object]
    thresholds_version: int
    segment: str
    degraded: Sequence[str]
    scored_at: str
    latency_ms: float


class ResponseWriter:
    """Writes the answers of one model.

    Most of them give no reasons, lack nothing and come from the default thresholds. These are written by templates that
    were packed beforehand: packing is the larger part of the work.
    """

    def __init__(self, *, name: str, version: str, sha256: str) -> None:
        self._model = orjson.dumps({"name": name, "version": version, "sha256": sha256})
        self._templates = {decision.word: self._template(decision.word) for decision in Decision}

    def write(self, content: Content) -> Response:
        """An answer."""
        if content.reasons or content.degraded or content.segment != DEFAULT_SEGMENT:
            return Response.of(_body(content, self._model))
        values = (
            content.transaction_id.encode(),
            content.decision_id[2:].encode(),
            orjson.dumps(content.probability),
            orjson.dumps(content.score),
            orjson.dumps(content.thresholds_version),
            content.scored_at[:-1].encode(),
            orjson.dumps(content.latency_ms),
        )
        body, packed = self._templates[content.decision]
        return Response(body % values, packed % values)

    def _template(self, decision: str) -> Response:
        """Of answers that give no reasons and lack nothing: what differs between them is a gap."""
        gaps: list[Any] = [orjson.Fragment(gap) for gap in (b'"%b"', b'"d-%b"', b'"%bZ"', b"%b")]
        name, identity, instant, number = gaps
        content = Content(
            name, identity, decision, number, number, (), number, DEFAULT_SEGMENT, (), instant, latency_ms=number
        )
        return Response.of(_body(content, self._model.replace(b"%", b"%%")))


def _body(content: Content, model: bytes) -> bytes:
    return orjson.dumps(
        {
            "transaction_id": content.transaction_id,
            "decision_id": content.decision_id,
            "decision": content.decision,
            "probability": content.probability,
            "score": content.score,
            "reasons": content.reasons,
            "thresholds": {"version": content.thresholds_version, "segment": content.segment},
            "model": orjson.Fragment(model),
            "degraded": content.degraded,
            "scored_at": content.scored_at,
            "latency_ms": content.latency_ms,
        }
    )
