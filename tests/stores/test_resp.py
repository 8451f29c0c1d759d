"""The protocol of Redis as compiled code reads and writes it, beside hiredis, which others wrote."""

from itertools import accumulate

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.joined import Joined
from service.stores.resp import push_and_read, read_lists, reply_ends
from service.stores.wire import Refusal, Reply, parse_replies

strings = st.binary(max_size=40)
leaves = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), strings)
replies = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def written(reply: Reply) -> bytes:
    """A reply as a server writes it."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case Refusal():
            return b"-%b\r\n" % reply.reason.encode()
        case _:
            return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


@given(st.lists(replies, max_size=6), st.data())
def test_whole_replies_are_found_wherever_they_are_cut(sent: list[Reply], data: st.DataObject) -> None:
    """What has come is as many replies as hiredis finds in it, and no byte more."""
    parts = [written(reply) for reply in sent]
    cut = data.draw(st.integers(0, sum(map(len, parts))))
    received = b"".join(parts)[:cut]
    whole = [part for index, part in enumerate(parts) if sum(map(len, parts[: index + 1])) <= cut]
    assert reply_ends(received, len(sent)) == list(accumulate(map(len, whole)))
    assert parse_replies(received[: sum(map(len, whole))]) == sent[: len(whole)]


@given(st.lists(replies, min_size=2, max_size=6))
def test_no_more_replies_are_taken_than_were_asked_for(sent: list[Reply]) -> None:
    """What stands behind them is somebody else's."""
    parts = [written(reply) for reply in sent]
    assert reply_ends(b"".join(parts), len(sent) - 1) == list(accumulate(map(len, parts[:-1])))


@pytest.mark.parametrize("received", [b"HTTP/1.1 400\r\n", b"%1\r\n+a\r\n+b\r\n", b"*1\r\n" * 9 + b":1\r\n"])
def test_what_is_no_reply_is_refused(received: bytes) -> None:
    """Another protocol, its next version, and what no command of ours has for an answer."""
    with pytest.raises(ValueError, match="no mark"):
        reply_ends(received, 1)


def test_statuses_and_errors_are_replies_too() -> None:
    """A line each."""
    received = b"+OK\r\n-MOVED 1 a:1\r\n$0\r\n\r\n*0\r\n*-1\r\n"
    assert len(reply_ends(received, 9)) == 5
    assert reply_ends(received, 9)[-1] == len(received)
    assert parse_replies(received) == [b"OK", Refusal("MOVED 1 a:1"), b"", [], None]


@given(st.lists(st.tuples(strings, st.binary(max_size=300)), max_size=8))
def test_the_commands_are_those_that_hiredis_would_write(appends: list[tuple[bytes, bytes]]) -> None:
    """Byte for byte."""
    expected = b"".join(
        hiredis.pack_command(part)  # type: ignore[arg-type] # its stub allows one part only
        for key, entry in appends
        for part in ((b"RPUSH", key, entry), (b"LRANGE", key, b"0", b"-1"))
    )
    keys, entries = Joined.of([key for key, _ in appends]), Joined.of([entry for _, entry in appends])
    assert push_and_read(keys, entries) == expected


@given(st.lists(st.tuples(st.integers(0, 10**12), st.lists(st.binary(max_size=300), max_size=5)), max_size=8))
def test_lists_come_back_joined(lists: list[tuple[int, list[bytes]]]) -> None:
    """The strings of each, one after the other, and how long it was said to be."""
    read = read_lists(b"".join(written(length) + written([*elements]) for length, elements in lists), len(lists))
    assert read is not None
    joined, lengths = read
    assert joined.strings() == [b"".join(elements) for _, elements in lists]
    assert lengths == [length for length, _ in lists]


@pytest.mark.parametrize(
    "odd",
    [
        [Refusal("MOVED 1 a:1"), [b"a"]],
        [1, Refusal("WRONGTYPE not a list")],
        [1, None],
        [1, [b"a", 2]],
        [b"1", [b"a"]],
        [1, [b"a", None]],
    ],
)
def test_anything_else_among_the_lists_is_left_to_hiredis(odd: list[Reply]) -> None:
    """One refusal, and all of them are read where there are words for it."""
    usual: list[Reply] = [1, [b"a"]]
    assert read_lists(b"".join(map(written, [*usual, *odd, *usual])), 3) is None


def test_strings_are_joined_split_and_spread() -> None:
    """Each stays what it was."""
    joined = Joined.of([b"one", None, b"", b"four"])
    assert joined.strings() == [b"one", None, b"", b"four"]
    assert joined.at([3, 0]) == [b"four", b"one"]
    assert [part.strings() for part in joined.split([1, 0, 3])] == [[b"one"], [], [None, b"", b"four"]]
    assert Joined.together(list(joined.split([2, 2]))).strings() == joined.strings()
    wanted = np.array([False, True, True, False, True, True])
    assert joined.spread(wanted).strings() == [b"", b"one", None, b"", b"", b"four"]
