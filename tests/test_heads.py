"""Heads that are known: the same bytes with a body of the same length, for a server that asks for the same keys."""

from hypothesis import given
from hypothesis import strategies as st

from service.heads import MOST_HEADS, Heads
from service.security import ApiKeys

HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 4"
SEGMENT = HEAD + b"\r\n\r\nbody"


def test_what_was_learned_is_known() -> None:
    """With any body of that length, also one that holds an empty line."""
    heads = Heads()
    heads.learn(SEGMENT, 4, None)
    assert heads.body_of(SEGMENT, None) == b"body"
    assert heads.body_of(HEAD + b"\r\n\r\n\r\n\r\n", None) == b"\r\n\r\n"


@given(st.one_of(st.binary(max_size=80), st.integers(0, len(SEGMENT) - 1).map(lambda cut: SEGMENT[:cut])))
def test_anything_else_is_not_known(segment: bytes) -> None:
    """Whatever comes, and wherever a segment is cut."""
    heads = Heads()
    heads.learn(SEGMENT, 4, None)
    for other in (segment, SEGMENT + segment or b"x", b"x" + SEGMENT, HEAD + b"\r\nX: y\r\n\r\nbody"):
        if other != SEGMENT:
            assert heads.body_of(other, None) is None


def test_several_requests_in_one_segment_teach_nothing() -> None:
    """What stands behind the first head is not its body."""
    heads = Heads()
    heads.learn(SEGMENT + SEGMENT, 4, None)
    assert heads.body_of(SEGMENT, None) is None


def test_other_keys_know_nothing() -> None:
    """Who was let in by keys that are no longer asked for is asked again."""
    heads, before, after = Heads(), ApiKeys({b"1": "one"}), ApiKeys({b"2": "two"})
    heads.learn(SEGMENT, 4, before)
    assert heads.body_of(SEGMENT, before) == b"body"
    assert heads.body_of(SEGMENT, after) is None
    heads.learn(SEGMENT.replace(b"x", b"y"), 4, after)
    assert heads.body_of(SEGMENT, after) is None
    assert heads.body_of(SEGMENT, before) is None


def test_the_heads_that_are_known_are_bounded() -> None:
    """The oldest are forgotten; a client that sends another head each time fills no memory."""
    heads = Heads()
    for number in range(MOST_HEADS + 1):
        heads.learn(b"%d\r\n\r\n" % number, 0, None)
    known = [heads.body_of(b"%d\r\n\r\n" % number, None) is not None for number in (0, 1, MOST_HEADS)]
    assert known == [False, True, True]
