"""The short way to a transaction: what is usual goes there, and nobody can tell it from what pydantic read."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from random import Random
from typing import Annotated

import pytest
from annotated_types import MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple
from pydantic import ConfigDict, create_model

from benchmarks.payments import request_bodies
from service import transaction
from service.api.openapi import TRANSACTION_EXAMPLE
from service.decoder import Decoder
from service.errors import Fault, RequestInvalid
from service.transaction import Transaction, TransactionContract, read_transaction
from tests.test_transaction import (
    ARRIVAL_MS,
    DOCUMENTS,
    FULL,
    JSON_VALUES,
    NO_OBJECTS,
    NOT_JSON,
    REQUIRED,
    WRONG_VALUES,
    read,
)
from training.simulate import SimulationConfig, simulate

STRICT = ConfigDict(strict=True, extra="forbid")
SHORT_WAY = Decoder(TransactionContract, Transaction)
NO_WAY: Decoder[object] = Decoder(create_model("Nothing", __config__=STRICT), object)  # takes no body with a member

compact = partial(json.dumps, separators=(",", ":"))
SMALLEST = compact(REQUIRED).encode()
LARGEST = compact(FULL).encode()

Read = tuple[str, bytes] | tuple[str, tuple[Fault, ...]]


def agreed(body: bytes) -> Transaction | None:
    """What the short way makes of a body, once the reader was seen to do the same with it and without it."""
    for allow_card_numbers in (False, True):
        with_it = read_or_refused(body, allow_card_numbers=allow_card_numbers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction, "_DECODER", NO_WAY)
            assert with_it == read_or_refused(body, allow_card_numbers=allow_card_numbers)
    return SHORT_WAY.decode(body)


def read_or_refused(body: bytes, *, allow_card_numbers: bool) -> Read:
    """All that can be told of a reading: the values with their types and the digest, or the faults with their code."""
    try:
        taken = read_transaction(body, arrival_ms=ARRIVAL_MS, allow_card_numbers=allow_card_numbers)
    except RequestInvalid as error:
        return error.code, error.faults
    return repr(astuple(taken)), taken.digest()


@pytest.mark.parametrize("document", [TRANSACTION_EXAMPLE, REQUIRED, FULL, {**dict.fromkeys(FULL), **REQUIRED}])
@pytest.mark.parametrize("written", [compact, json.dumps, partial(json.dumps, indent="\t")])
def test_what_is_usual_goes_the_short_way(document: Mapping[str, object], written: Callable[[object], str]) -> None:
    """The documented example, the smallest body, the largest and one full of nulls need no pydantic."""
    assert agreed(written(dict(document)).encode()) is not None


@pytest.mark.parametrize("offset", ["Z", "z", "+00:00", "+05:30", "-08:00"])
def test_times_of_every_zone_go_the_short_way(offset: str) -> None:
    """The plus sign of a time's offset is taken for what it is."""
    assert agreed(compact({**REQUIRED, "timestamp": f"2026-11-21T04:29:59.5{offset}"}).encode()) is not None


def test_simulated_payments_go_the_short_way() -> None:
    """Whatever the simulator pays with is usual."""
    payments = simulate(SimulationConfig(transactions=2_000, days=10, seed=1))
    assert None not in map(agreed, request_bodies(payments))


@settings(max_examples=200)
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_members_go_the_short_way_in_any_order(document: dict[str, object], random: Random) -> None:
    """Values arrive in their fields, whatever is absent, null or elsewhere."""
    members = list(document.items())
    random.shuffle(members)
    assert agreed(compact(dict(members)).encode()) == read(document)


REPLACED = [
    (LARGEST, b"1250", [b"1.0", b"1e3", b"1e999", b"NaN", b"-0", b"-0.0", b"01", b"+1", b"1.", b'"1"', b"1250 1"]),
    (LARGEST, b"48.85", [b"1", b"1e3", b"1e999", b"NaN", b"-0", b"-0.0", b"0e0", b"1e-400", b"1E+1", b".5", b"90.1"]),
    (
        SMALLEST,
        b"card-1",
        [b"4111111111111111", b"-4111.1111.1111.1111_", b"+1", b"a,b", b"{}", b" ", b"\xff", b"\x7f"],
    ),
    (SMALLEST, b"card-1", [b"\\u0041", b"\\ud800", b'\\"', b"\\\\", b"\xc0\xaf", b"\x00", b'a" "b', b'a","b']),
    (SMALLEST, b"59Z", [b"59+00:00", b"59\\u002b00:00", b"59.5+01:00", b"59+01", b'59Z","follows":"+']),
    (SMALLEST, b":", [b" : ", b"\x0c:", b"::", b"=", b""]),
    (SMALLEST, b",", [b"\r\n\t, ", b",,", b";", b""]),
    (SMALLEST, b"{", [b"", b"{{", b"[{", b"\xef\xbb\xbf{", b"\x00{", b" {", b"//\n{", b"{,", b'{"device_id":null,']),
    (SMALLEST, b"}", [b"", b",}", b"}}", b"} x", b"}\x00", b"}\n", b"]", b',"device_id":"a"', b',"amount":1250}']),
    (SMALLEST, b"}", [b',"x":1}', b',"x":null}', b',"x":[1,{}]}', b',"x":"a,b"}', b',"":1}', b',"event_time_ms":1}']),
    (
        SMALLEST,
        b"}",
        [b',"\\u0061mount":1}', b',"device_id":null,"device_id":null}', b',"device_id":null,"device_id":"d"}'],
    ),
]
HOSTILE = [
    *NOT_JSON,
    *NO_OBJECTS,
    *(compact({**FULL, field: value}).encode() for field, value in WRONG_VALUES),
    *(json.dumps({**FULL, field: value}, ensure_ascii=False).encode() for field, value in WRONG_VALUES),
    *(compact({**FULL, field: None}).encode() for field in FULL),
    *(body.replace(text, other) for body, text, others in REPLACED for other in others),
    SMALLEST.replace(b"tx-1", b"tx+1").replace(b"59Z", b"59+00:00"),
    SMALLEST.replace(b"tx-1", b"tx+1").replace(b"59Z", b"59\\u002b00:00"),
    SMALLEST.decode().encode("utf-16"),
    b'{"card_id":' * 200,
    b"{}",
]


@pytest.mark.parametrize("body", HOSTILE)
def test_the_short_way_leads_to_what_pydantic_says(body: bytes) -> None:
    """Wrong values, bad letters, repeated and unknown keys and broken JSON end as they would end without it."""
    agreed(body)


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(max_examples=500)
@given(st.sampled_from([b"1250", b"48.85", b"2.35"]), NUMBERS | st.floats(-180, 180).map(repr))
def test_a_number_is_the_same_on_both_ways(field: bytes, number: str) -> None:
    """To the last bit, and to the digest; or it is refused on both."""
    agreed(LARGEST.replace(field, number.encode()))


@settings(max_examples=500)
@given(st.dictionaries(st.sampled_from(sorted(FULL)), JSON_VALUES | st.sampled_from([*FULL.values()]), max_size=4))
def test_a_value_is_the_same_on_both_ways(changes: dict[str, object]) -> None:
    """Any JSON value in any field, and the values of other fields in it."""
    agreed(compact({**FULL, **changes}).encode())


PIECES = [b"%c" % letter for letter in b'"{}[],:+-.\\ \n\x00\xff0eEuaZ'] + [
    *(b'"amount":1,', b'"device_id":null,', b',"x":""', b'""', b"null", b"\\u0041", b"e5", b"4111111111111111"),
]


@settings(max_examples=1_000)
@given(st.sampled_from([SMALLEST, LARGEST, json.dumps(FULL).encode()]), st.data())
def test_damage_is_seen_on_both_ways(body: bytes, data: st.DataObject) -> None:
    """A few pieces put in, or put in the place of others, make the same difference to both."""
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        stop = data.draw(st.integers(start, min(start + 3, len(body))))
        body = body[:start] + data.draw(st.sampled_from(PIECES)) + body[stop:]
    agreed(body)


@settings(max_examples=200)
@given(DOCUMENTS, st.floats(-90, 90), st.floats(-180, 180))
def test_the_digest_is_that_of_pydantic_s_json(document: dict[str, object], latitude: float, longitude: float) -> None:
    """Digests are stored, so they are those of the JSON that pydantic writes without nulls, byte for byte."""
    body = compact({**document, "latitude": latitude, "longitude": longitude}).encode()
    written = TransactionContract.model_validate_json(body).model_dump_json(exclude_none=True)
    taken = read_transaction(body, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)
    assert taken.digest() == sha256(written.encode()).digest()[:16]


@pytest.mark.parametrize(
    ("document", "digest"),
    [
        (REQUIRED, "94e5b7e348350d162e40ad85de45c7c5"),
        (FULL, "c883f1230c1565e312ccf1c65dc49a39"),
        ({**REQUIRED, "latitude": -0.0, "longitude": 1.5e-7}, "f96fb9e4a6d0c0498f320aef2ac379e2"),
    ],
)
def test_digests_that_were_stored_stay_valid(document: dict[str, object], digest: str) -> None:
    """A retry of a request that an earlier version answered is a retry."""
    assert read(document).digest().hex() == digest


def test_a_contract_that_the_decoder_does_not_know_is_refused_by_it() -> None:
    """A rule that nobody taught it is not passed over."""
    model = create_model("Even", __config__=STRICT, amount=(Annotated[int, MultipleOf(2)], ...))
    with pytest.raises(TypeError, match="amount: MultipleOf"):
        Decoder(model, dict)
