"""What is kept of a decision comes back as it was, and is small."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.entry import AMOUNT_LIMIT
from service.features.spec import KEY_FIELDS
from service.response import Response
from service.stores.base import DecisionRecord
from service.stores.codec import (
    decode_record,
    encode_record,
)
from service.stores.snapshot import Snapshot

tokens = st.none() | st.text("abcXYZ019._:-", min_size=1, max_size=64)


@given(
    digest=st.binary(min_size=16, max_size=16),
    body=st.binary(max_size=2_000),
    event_time_ms=st.integers(0, 2**47),
    amount_minor=st.integers(0, AMOUNT_LIMIT),
    named=st.tuples(*[tokens] * len(KEY_FIELDS)),
    revs=st.lists(st.integers(-1, 2**31 - 1), max_size=7),
    position=st.sampled_from(["", "1795253400000-0"]),
)
def test_a_record_comes_back(
    *,
    digest: bytes,
    body: bytes,
    event_time_ms: int,
    amount_minor: int,
    named: tuple[str | None, ...],
    revs: list[int],
    position: str,
) -> None:
    """Whatever it holds, with its position behind it or without."""
    record = DecisionRecord(
        digest, Response.of(body), event_time_ms, amount_minor, named, "0a1b2c3d", tuple(revs), position
    )
    assert decode_record(encode_record(record) + position.encode()) == record


def test_a_record_of_the_format_before_is_read() -> None:
    """It says nothing of the amount, and everything else as it did."""
    written = bytes.fromhex(
        "4a00017369787465656e206279746573206f6b0068e5cf8b0100003f2a91bc0200000000ffffffff05000100000000"
        "746f6b2d3174017b226465636973696f6e223a22617070726f7665227d"
    )
    assert decode_record(written + b"1795253400000-0") == DecisionRecord(
        digest=b"sixteen bytes ok",
        response=Response.of(b'{"decision":"approve"}'),
        event_time_ms=1_700_000_000_000,
        amount_minor=0,
        tokens=("tok-1", None, "t", None, None, None, None),
        spec="3f2a91bc",
        revs=(0, -1),
        position="1795253400000-0",
    )


@given(
    request=st.binary(max_size=500),
    features=st.lists(st.floats(width=32), max_size=100),
    codes=st.lists(st.integers(-1, 9_999), max_size=9),
    findings=st.lists(st.integers(0, 127), max_size=7),
)
def test_a_snapshot_comes_back(request: bytes, features: list[float], codes: list[int], findings: list[int]) -> None:
    """To the last bit, missing values included."""
    numeric, categorical = np.array([[1.5] * len(features), features], np.float32), np.array([codes] * 2, np.int64)
    found = np.array([findings] * 2, np.int64)
    _, snapshot = Snapshot.of_batch([b"{}", request], numeric, categorical, found)
    again = Snapshot.decode(snapshot.encoded)
    assert again.request == request
    assert again.numeric.tobytes() == numeric[1].tobytes()
    np.testing.assert_array_equal(again.categorical, categorical[1], strict=True)
    np.testing.assert_array_equal(again.findings, found[1], strict=True)


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x05\x00\x02abcd", struct.pack("<H", 60) + b"\x03" + bytes(59)])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    """Cut off, or of another format."""
    with pytest.raises(ValueError, match="record"):
        decode_record(value)


@pytest.mark.parametrize("value", [b"", bytes(10), b"\x01" + bytes(20)])
def test_what_is_no_snapshot_is_refused(value: bytes) -> None:
    """Cut off, of another format, or with something behind it."""
    with pytest.raises(ValueError, match="snapshot"):
        Snapshot.decode(value)
