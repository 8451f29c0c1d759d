"""The answer as bytes: what is sent is what was always sent, and what is kept is half of it."""

import orjson
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from service.decision import Decision
from service.response import Content, Response, ResponseWriter

WRITER = ResponseWriter(name="100%b", version="1.0.0", sha256="a" * 64)
REASON = {"code": "unusual_amount", "contribution": 1.25, "value": None, "description": "much"}

contents = st.builds(
    Content,
    transaction_id=st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
    decision_id=st.from_regex(r"d-[0-9a-f]{24}", fullmatch=True),
    decision=st.sampled_from([decision.word for decision in Decision]),
    probability=st.none() | st.floats(0, 1),
    score=st.none() | st.integers(0, 999),
    reasons=st.lists(st.just(REASON), max_size=2),
    segment=st.just("default") | st.text(max_size=20),
    degraded=st.lists(st.sampled_from(["card", "merchant", "idempotency"]), max_size=2).map(tuple),
    scored_at=st.just("2026-11-22T01:00:00.123Z"),
)
batches = st.lists(contents, min_size=1, max_size=4)


@given(batch=batches, thresholds_version=st.integers(0, 2**31), latency_ms=st.floats(0, 1e4))
def test_an_answer_says_what_it_was_given(batch: list[Content], thresholds_version: int, latency_ms: float) -> None:
    """Whether a template wrote it or not, its JSON has every value, those of its batch, and the model's name."""
    responses = WRITER.write(batch, thresholds_version=thresholds_version, latency_ms=latency_ms)
    for content, response in zip(batch, responses, strict=True):
        written = orjson.loads(response.body)
        left = asdict(content) | {"degraded": [*content.degraded], "latency_ms": latency_ms}
        thresholds = {"version": thresholds_version, "segment": left.pop("segment")}
        model = {"name": "100%b", "version": "1.0.0", "sha256": "a" * 64}
        assert written == left | {"thresholds": thresholds, "model": model}
        assert list(written) == [
            *("transaction_id", "decision_id", "decision", "probability", "score", "reasons", "thresholds", "model"),
            *("degraded", "scored_at", "latency_ms"),
        ]


@given(batch=batches)
def test_a_packed_answer_comes_back(batch: list[Content]) -> None:
    """What a template packed beforehand is what packing the whole gives."""
    for response in WRITER.write(batch, thresholds_version=3, latency_ms=0.5):
        assert response == Response.of(response.body) == Response.unpack(response.packed)


@given(body=st.binary())
def test_any_bytes_come_back(body: bytes) -> None:
    """ASCII or not."""
    assert Response.unpack(Response.of(body).packed).body == body


def test_a_usual_answer_loses_half_its_size() -> None:
    """What every answer has is kept in a byte each; the rest is ids, digests and numbers."""
    content = Content(
        *("tx-000001234", "d-0123456789abcdef01234567", "approve", 0.00012345678901234, 12, (), "default", ()),
        "2026-11-22T01:00:00.123Z",
    )
    [response] = WRITER.write([content], thresholds_version=0, latency_ms=0.512)
    assert len(response.packed) < 0.55 * len(response.body)
