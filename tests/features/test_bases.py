"""Bases at rest: what an earlier version wrote is read, and bytes that nobody wrote do no harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.compaction import base_head, compact, split_base
from service.features.encoding import encode
from service.features.entry import Column
from service.features.joined import Joined
from service.features.kernel import UNAVAILABLE
from service.features.online import fold
from service.features.packed import read_integer, write_integer
from service.features.plan import Plan
from service.features.state import BASE_MARK, VARINT_BASE_MARK
from tests.features.agreement import card_spec, plan_of
from tests.features.streams import HOUR_MS, Rows, Step, rows_of

SPEC = card_spec(
    {
        "count": {"total": "d30.count"},
        "amount": {"total": "d30.amount"},
        "new": {"new": "merchants"},
        "seconds": {"since_last": True},
    },
    windows={"d30": {"length": "30d", "hop": "1d", "sums": ["count", "amount"]}},
    sets={"merchants": {"of": "merchant_id", "capacity": 4, "hop": "1h"}},
    log={"compact_at": 3, "keep": 1, "ring": 4},
)
TILES = card_spec(
    {
        "run": {"run": "d3"},
        "latest": {"latest": "d3.fraud"},
        "earliest": {"earliest": "d3.count"},
        "octaves": {"ratio": "d1", "of": "log"},
        "unusual": {"total": "d1.unusual"},
        "bits": {"entropy": "categories"},
    },
    windows={
        "d1": {"length": "1d", "hop": "1h", "sums": ["count", "amount", "log", "unusual"]},
        "d3": {"length": "3d", "hop": "1d", "delay": "1d", "sums": ["count", "fraud"]},
    },
    sets={
        "categories": {"of": "merchant_id", "capacity": 4, "hop": "12h", "tally": {"sum": "count", "half_life": "32d"}},
    },
    unusual={"window": "d1", "above": 2, "minimum": 1},
    log={"compact_at": 3, "keep": 1, "ring": 4},
)
STEPS = [Step(merchant=1 + index % 3, wait_ms=7 * HOUR_MS, amount=1_000 + index) for index in range(6)]
# The first five steps under that spec, as the version wrote them that kept the ring's ids as varints.
VARINT_BASE = bytes.fromhex(
    "ba7000000061b418babd9aa7040a808ec0f6fa62aaf0d3f4afee3c80b6af96fa62808ec0f6fa6208bab3020aa44e002c06f62e04ae1f000e06"
    "aaf0d3f40ff4d239d4e0a7e91f82d339fed0fbdd0fe6d239000202d2b1a3c7efa730d4e0a7e9dfdc79fed0fbdd8fcb36a8c1cfd2bfb973"
)
BORN_AT_MS = 0


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(SPEC)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of(STEPS)


def test_a_base_of_the_earlier_version_is_read(plan: Plan, rows: Rows) -> None:
    """A log that begins with one gives the features of the whole log, and its next base is of this version."""
    entries = [encode(plan, row, 0) for row in rows]
    whole, log = b"".join(entries), VARINT_BASE + entries[-1]
    assert split_base(log) == (VARINT_BASE, entries[-1])
    expected, found = (fold(plan, rows[-1:], Joined.of([value]), births_ms=[BORN_AT_MS]) for value in (whole, log))
    np.testing.assert_array_equal(found.numeric, expected.numeric)
    assert found.revs.tolist() == expected.revs.tolist() == [[5]]
    assert base_head(plan, 0, VARINT_BASE) == (rows[0, Column.ID], 5)
    assert base_of(plan, log) == base_of(plan, whole)
    assert (VARINT_BASE[0], base_of(plan, whole)[0]) == (VARINT_BASE_MARK, BASE_MARK)


def test_no_byte_of_a_base_can_do_harm(plan: Plan, rows: Rows) -> None:
    """Whichever byte is another one, and wherever a base is cut: the log is folded, or it is unavailable."""
    for base in (VARINT_BASE, base_of(plan, b"".join(encode(plan, row, 0) for row in rows[:-1]))):
        assert_harmless(plan, base, rows[-1:])


def test_no_byte_of_a_base_can_lead_out_of_its_tiles_and_tables(rows: Rows) -> None:
    """The same holds where single tiles are looked at and logarithms are taken of what a base says."""
    plan = plan_of(TILES)
    assert_harmless(plan, base_of(plan, b"".join(encode(plan, row, 0) for row in rows[:-1])), rows[-1:])


@given(value=st.integers(0, 2**63 - 1), width=st.integers(1, 8), before=st.integers(0, 9), behind=st.integers(0, 9))
def test_numbers_come_back_from_their_bytes(value: int, width: int, before: int, behind: int) -> None:
    """Wherever in a buffer a number stands, also at its very end, its bytes are Python's little-endian ones."""
    value %= 1 << (8 * width)
    out = np.full(before + width + behind, 0xEE, np.uint8)
    assert write_integer(value, width, out, before) == before + width
    assert out.tobytes() == b"\xee" * before + value.to_bytes(width, "little") + b"\xee" * behind
    assert read_integer(out, before, width) == value


def assert_harmless(plan: Plan, base: bytes, row: Rows) -> None:
    """Change each byte of a base and cut it everywhere: its log is folded for `row`, or it is unavailable."""
    last = encode(plan, row[0], 0)
    changed = [base[:at] + bytes([byte]) + base[at + 1 :] for at in range(len(base)) for byte in (0, 1, 127, 128, 255)]
    for value in [*changed, *(base[:length] for length in range(1, len(base)))]:
        found = fold(plan, row, Joined.of([value + last]), births_ms=[BORN_AT_MS])
        compact(plan, value + last, 0, keep=0)
        unavailable = bool(found.findings[0, 0] & UNAVAILABLE)
        assert (found.revs[0, 0] < 0) == unavailable
        assert np.isnan(found.numeric).all() or not unavailable


def base_of(plan: Plan, value: bytes) -> bytes:
    """The base that stands for a whole log."""
    done = compact(plan, value, 0, keep=0)
    assert done is not None
    return done.base
