"""The body of a decision's answer (docs/api.md): as it is sent, and packed into half of that for a store to keep."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import orjson
from msgspec import Struct, json

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
_FIRST_REASON, _LAST_REASON = b'[{"code":"', b'"}]'  # where the first begins, and the last ends
_IN_REASONS = (b'","contribution":', b',"value":', b',"description":"', b'"},{"code":"')
_REASON_PACKING = tuple((fragment, code) for fragment, code in _PACKING if fragment in _IN_REASONS)
_PLAIN, _PACKED = b"\x00", b"\x01"

MOST_TEMPLATES = 1_024  # of 1 KB each; thresholds have 200 segments at most, and few of all that may be missing is


class Response(Struct, frozen=True, gc=False):
    """One body, in both forms."""

    body: bytes
    packed: bytes

    @classmethod
    def of(cls, body: bytes) -> "Response":
        """Pack a body; one that is not ASCII stays as it is."""
        return cls(body, _PACKED + _pack(body, _PACKING) if body.isascii() else _PLAIN + body)

    @classmethod
    def unpack(cls, packed: bytes) -> "Response":
        """The body that was packed."""
        form, body = packed[:1], packed[1:]
        if form == _PACKED:
            for fragment, code in _PACKING:
                body = body.replace(code, fragment)
        return cls(body, packed)


class Content(Struct, frozen=True, gc=False):
    """What an answer says besides what all answers of its batch do.

    Attributes:
        transaction_id: the request's; like the other ids nothing that JSON would escape.
        decision_id: d- and hexadecimal digits.
        decision: its word.
        probability: calibrated; None where there is none, as for the score.
        score: 0 to 999.
        reasons: what msgspec can write: of each first its code, and last a text.
        segment: of the thresholds that decided.
        degraded: what was missing.
        scored_at: RFC 3339, in UTC with a Z.
    """

    transaction_id: str
    decision_id: str
    decision: str
    probability: float | None
    score: int | None
    reasons: Sequence[object]
    segment: str
    degraded: tuple[str, ...]
    scored_at: str


class ResponseWriter:
    """Writes the answers of one model.

    Most of what they say are a few words: the decision's, the segment's, those of what was missing. For each set of
    words there is a template that was packed beforehand: packing is the larger part of the work.
    """

    def __init__(self, *, name: str, version: str, sha256: str) -> None:
        self._model = orjson.dumps({"name": name, "version": version, "sha256": sha256}).replace(b"%", b"%%")
        self._template = lru_cache(MOST_TEMPLATES)(self._write_template)

    def write(self, contents: Sequence[Content], *, thresholds_version: int, latency_ms: float) -> list[Response]:
        """The answers of a batch; its numbers are written at once, since each call costs more than a number.

        Args:
            contents: (n,), at least one: what each of them says.
            thresholds_version: which one decided.
            latency_ms: how long it took.
        """
        version, latency = _numbers([thresholds_version, latency_ms])
        probabilities = _numbers([content.probability for content in contents])
        scores = _numbers([content.score for content in contents])
        return [
            self._write(content, (probability, score), version, latency)
            for content, probability, score in zip(contents, probabilities, scores, strict=True)
        ]

    def _write(self, content: Content, scored: tuple[bytes, bytes], version: bytes, latency: bytes) -> Response:
        """One answer; `scored`: its probability and its score."""
        template = self._template(content.decision, content.segment, content.degraded, bool(content.reasons))
        before: tuple[bytes, ...] = (content.transaction_id.encode(), content.decision_id[2:].encode(), *scored)
        behind = (version, content.scored_at[:-1].encode(), latency)
        if content.reasons:
            reasons = _inside(json.encode(content.reasons))
            plain, packed = (*before, reasons, *behind), (*before, _pack(reasons, _REASON_PACKING), *behind)
        else:
            plain = packed = before + behind
        body = template.body % plain
        return Response(body, template.packed % packed) if body.isascii() else Response.of(body)

    def _write_template(self, decision: str, segment: str, degraded: tuple[str, ...], explained: bool) -> Response:  # noqa: FBT001 - a cache finds what has no name twice as fast
        """Of answers in these words: what else differs between them is a gap."""
        identity, instant, number = (orjson.Fragment(gap) for gap in (b'"d-%b"', b'"%bZ"', b"%b"))
        return Response.of(
            orjson.dumps(
                {
                    "transaction_id": orjson.Fragment(b'"%b"'),
                    "decision_id": identity,
                    "decision": decision,
                    "probability": number,
                    "score": number,
                    "reasons": orjson.Fragment(_FIRST_REASON + b"%b" + _LAST_REASON) if explained else [],
                    "thresholds": {"version": number, "segment": segment.replace("%", "%%")},
                    "model": orjson.Fragment(self._model),
                    "degraded": degraded,
                    "scored_at": instant,
                    "latency_ms": number,
                }
            )
        )


def _numbers(values: Sequence[float | None]) -> list[bytes]:
    """JSON of each."""
    return orjson.dumps(values)[1:-1].split(b",")


def _inside(reasons: bytes) -> bytes:
    """JSON of reasons without what every one has around them."""
    assert reasons.startswith(_FIRST_REASON), reasons
    assert reasons.endswith(_LAST_REASON), reasons
    return reasons[len(_FIRST_REASON) : -len(_LAST_REASON)]


def _pack(body: bytes, packing: Iterable[tuple[bytes, bytes]]) -> bytes:
    for fragment, code in packing:
        body = body.replace(fragment, code)
    return body
