"""Reading transactions and outcomes: what the contract takes, what it refuses, and what a refusal may say."""

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict

from service.errors import RequestInvalid
from service.transaction import (
    EARLIEST_EVENT_MS,
    LATEST_AHEAD_MS,
    MAX_FAULTS,
    Outcome,
    OutcomeType,
    Transaction,
    parse_instant,
    read_outcome,
    read_transaction,
)
from service.vocabulary import Channel, CheckResult, EntryMode, FollowKind, ThreeDS

ARRIVAL_MS = 1_795_253_400_000  # 2026-11-21T09:30:00Z
VISA = "4111111111111111"

REQUIRED = {
    "transaction_id": "tx-1",
    "timestamp": "2026-11-21T09:29:59Z",
    "card_id": "card-1",
    "merchant_id": "merchant-1",
    "amount": 1250,
    "currency": "EUR",
}
FULL = {
    **REQUIRED,
    "merchant_category_code": "5411",
    "merchant_country": "DE",
    "card_country": "FR",
    "billing_country": "FR",
    "shipping_country": "FR",
    "ip_country": "FR",
    "terminal_id": "t-1",
    "device_id": "d-1",
    "customer_id": "c-1",
    "email_hash": "e-1",
    "ip_address": "2001:db8::1",
    "channel": "ecommerce",
    "entry_mode": "credential_on_file",
    "cvc_check": "pass",
    "avs_check": "unavailable",
    "three_ds": "attempted",
    "latitude": 48.85,
    "longitude": 2.35,
    "follows": "tx-0",
    "follow_kind": "retry",
}
OUTCOME = {
    "transaction_id": "tx-1",
    "type": "confirmed_fraud",
    "occurred_at": "2026-11-01T00:00:00Z",
    "reported_at": "2026-11-02T00:00:00Z",
}

WRONG_VALUES: list[tuple[str, object]] = [
    ("transaction_id", ""),
    ("transaction_id", "x" * 65),
    ("transaction_id", "a b"),
    ("transaction_id", "é"),
    ("transaction_id", "٣"),
    ("transaction_id", "a\n"),
    ("transaction_id", "a\x00"),
    ("transaction_id", 7),
    ("card_id", ["a"]),
    ("merchant_id", {"a": 1}),
    ("timestamp", 1_722_500_000),
    ("timestamp", "1722500000"),
    ("timestamp", "2026-11-20"),
    ("timestamp", "2026-11-20T09:30:00"),
    ("timestamp", "2026-11-21 09:30:00Z"),
    ("timestamp", "2026-11-21T09:30Z"),
    ("timestamp", "2026-11-21T09:30:00+01"),
    ("timestamp", "2026-11-21T09:30:00+05:75"),
    ("timestamp", "2026-11-21T09:30:00+24:00"),
    ("timestamp", "2026-02-30T09:30:00Z"),
    ("timestamp", "2026-11-21T24:00:00Z"),
    ("timestamp", "2026-11-21T09:30:60Z"),
    ("timestamp", "２０26-11-21T09:30:00Z"),
    ("timestamp", "1999-12-31T23:59:59Z"),
    ("timestamp", "0000-01-01T00:00:00Z"),
    ("timestamp", "2026-11-22T09:30:00.001Z"),
    ("amount", -1),
    ("amount", 10**12 + 1),
    ("amount", 10**400),
    ("amount", 1.0),
    ("amount", 1.5),
    ("amount", "12"),
    ("amount", True),
    ("currency", "eur"),
    ("currency", "EURO"),
    ("currency", "ZZZ"),
    ("currency", 978),
    ("merchant_category_code", "541"),
    ("merchant_category_code", "٥٤١١"),
    ("merchant_category_code", 5411),
    ("merchant_country", "UK"),
    ("card_country", "de"),
    ("billing_country", "DEU"),
    ("shipping_country", "XX"),
    ("ip_country", 1),
    ("ip_address", "256.1.1.1"),
    ("ip_address", "1.2.3"),
    ("ip_address", "01.2.3.4"),
    ("ip_address", "fe80::1%eth0"),
    ("ip_address", "10.0.0.0/8"),
    ("channel", "web"),
    ("channel", "ECOMMERCE"),
    ("entry_mode", 1),
    ("cvc_check", True),
    ("three_ds", ""),
    ("latitude", 90.01),
    ("latitude", "48"),
    ("latitude", True),
    ("longitude", -180.5),
    ("follow_kind", "again"),
    ("follows", "tx-1"),
]
NOT_JSON = [
    b"",
    b"{",
    b"nonsense",
    b"\xff",
    b'{"card_id":"\xff"}',
    b'{"card_id":"\\ud800"}',
    b'{"card_id":"\\udc00\\ud800"}',
    b'{"card_id":"a\x00"}',
    b"\xef\xbb\xbf{}",
    b"{'card_id':'a'}",
    b'{"card_id":"a",}',
    b"[" * 5000,
    b'{"a":' * 3000,
    b'{"amount":' + b"9" * 16000 + b"}",
    json.dumps(FULL).encode() + b"{}",
    json.dumps(FULL).encode("utf-16"),
]
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "1e3"]
NO_OBJECTS = [b"[]", b"null", b"7", b'"card_id"', b"true"]


def read(document: object, *, allow_card_numbers: bool = False) -> Transaction:
    return read_transaction(json.dumps(document).encode(), arrival_ms=ARRIVAL_MS, allow_card_numbers=allow_card_numbers)


def refused(body: bytes | dict[str, Any]) -> RequestInvalid:
    """The error that a body is refused with."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestInvalid) as caught:
        read_transaction(sent, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)
    return caught.value


def paths(error: RequestInvalid) -> set[str]:
    return {fault.path for fault in error.faults}


def test_every_field_arrives_as_its_type() -> None:
    """A full request becomes a transaction whose enumerations are ours and whose time is epoch milliseconds."""
    transaction = read(FULL)
    assert transaction.event_time_ms == ARRIVAL_MS - 1000
    assert transaction.channel is Channel.ECOMMERCE
    assert transaction.entry_mode is EntryMode.CREDENTIAL_ON_FILE
    assert transaction.cvc_check is CheckResult.PASS
    assert transaction.avs_check is CheckResult.UNAVAILABLE
    assert transaction.three_ds is ThreeDS.ATTEMPTED
    assert transaction.follow_kind is FollowKind.RETRY
    assert (transaction.latitude, transaction.longitude) == (48.85, 2.35)
    given = {**FULL, "event_time_ms": transaction.event_time_ms}
    del given["timestamp"]
    assert to_builtins(transaction) == given


def test_an_optional_field_may_be_absent_or_null() -> None:
    """Absent and null are the same transaction, and the same request to the idempotency check."""
    absent = read(REQUIRED)
    null = read({**REQUIRED, **dict.fromkeys(FULL.keys() - REQUIRED.keys())})
    assert absent == null
    assert absent.digest() == null.digest()
    assert {name for name, value in asdict(absent).items() if value is None} == FULL.keys() - REQUIRED.keys()


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_may_be_neither_absent_nor_null(field: str) -> None:
    """Each required field is named when it is missing, and when it is null."""
    assert paths(refused({name: value for name, value in FULL.items() if name != field})) == {field}
    assert paths(refused({**FULL, field: None})) == {field}


@pytest.mark.parametrize(("field", "value"), WRONG_VALUES)
def test_a_wrong_value_is_refused_by_name_and_without_the_value(field: str, value: object) -> None:
    """Whatever does not fit its field is refused, naming that field alone and never repeating what was sent."""
    error = refused({**FULL, field: value})
    assert paths(error) == {field}
    if isinstance(value, str) and len(value) > 3:  # shorter ones occur in any sentence
        assert value not in str(error)


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("field", ["amount", "latitude"])
def test_numbers_that_json_has_not_are_refused(field: str, number: str) -> None:
    """NaN, the infinities and what overflows to them are refused where a number belongs; an amount has no exponent."""
    body = json.dumps({**FULL, field: "?"}).replace('"?"', number).encode()
    assert paths(refused(body)) == {field}


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_json_is_refused_as_such(body: bytes) -> None:
    """Broken JSON, wrong encodings, lone surrogates and bottomless nesting have one code of their own."""
    error = refused(body)
    assert error.code == "invalid_json"
    assert paths(error) == {"body"}


@pytest.mark.parametrize("body", NO_OBJECTS)
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    """A transaction is an object, nothing else."""
    assert refused(body).faults[0].path == "body"


def test_an_unknown_field_is_named_with_the_field_it_resembles() -> None:
    """A typing mistake in a field's name is refused and explained."""
    body = {**REQUIRED, "amuont": 1}
    assert [(fault.path, fault.reason) for fault in refused(body).faults] == [
        ("amuont", "unknown; did you mean amount?")
    ]


@pytest.mark.parametrize("name", [VISA, "4111 1111 1111 1111", "a" * 41, "x\n", "é", "", "<script>"])
def test_an_unknown_field_whose_name_may_be_a_value_is_not_repeated(name: str) -> None:
    """A name that is not plain letters may be a card number in the wrong place, so it is not echoed."""
    error = refused({**REQUIRED, name: 1})
    assert not name or name not in str(error)
    assert [fault.reason for fault in error.faults] == ["unknown"]


def test_the_attribute_name_of_the_event_time_is_no_field() -> None:
    """Only the contract's names are taken, not those of our own attributes."""
    assert "event_time_ms" in paths(refused({**REQUIRED, "event_time_ms": ARRIVAL_MS}))


def test_faults_are_listed_together_and_bounded() -> None:
    """All faults come in one answer, but a body of a thousand mistakes is not answered by a thousand lines."""
    assert paths(refused({"amount": -1})) == REQUIRED.keys()
    many = {"".join(chr(97 + int(digit)) for digit in str(number)): 1 for number in range(1000)}
    assert len(refused(many).faults) == MAX_FAULTS


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({**REQUIRED, "latitude": 1.0}, "longitude"),
        ({**REQUIRED, "longitude": 1.0}, "latitude"),
        ({**REQUIRED, "follows": "tx-0"}, "follow_kind"),
        ({**REQUIRED, "follow_kind": "retry"}, "follows"),
    ],
)
def test_fields_that_go_together_are_both_needed(document: dict[str, object], field: str) -> None:
    """Half a pair is refused, naming the half that is missing."""
    assert paths(refused(document)) == {field}


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-21T09:30:00Z", ARRIVAL_MS),
        ("2026-11-21T10:30:00+01:00", ARRIVAL_MS),
        ("2026-11-21t09:30:00z", ARRIVAL_MS),
        ("2026-11-21T09:30:00-00:00", ARRIVAL_MS),
        ("2026-11-21T09:30:00.1Z", ARRIVAL_MS + 100),
        ("2026-11-21T09:30:00.0019999Z", ARRIVAL_MS + 1),
        ("2026-11-21T09:30:00.123456789Z", ARRIVAL_MS + 123),
    ],
)
def test_an_instant_is_read_to_the_millisecond(text: str, epoch_ms: int) -> None:
    """Offsets are honoured and finer fractions are cut off."""
    assert parse_instant(text) == epoch_ms


@given(
    st.datetimes(datetime(2000, 1, 2), datetime(2026, 1, 1)),  # noqa: DTZ001 - the zone is drawn apart
    st.integers(-23 * 60, 23 * 60),
)
def test_an_instant_means_the_same_in_every_zone(local: datetime, offset_minutes: int) -> None:
    """The epoch millisecond of a text is that of the moment it names, computed exactly."""
    sign, minutes = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    text = local.isoformat(timespec="milliseconds") + f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    moment = local.replace(tzinfo=UTC, microsecond=local.microsecond // 1000 * 1000)
    expected = moment - timedelta(minutes=offset_minutes) - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_instant(text) == expected / timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("event_ms", "accepted"),
    [
        (EARLIEST_EVENT_MS, True),
        (EARLIEST_EVENT_MS - 1, False),
        (ARRIVAL_MS + LATEST_AHEAD_MS, True),
        (ARRIVAL_MS + LATEST_AHEAD_MS + 1, False),
    ],
)
def test_event_times_are_bounded(event_ms: int, *, accepted: bool) -> None:
    """From the year 2000, so that history can be replayed, to a day ahead, so that a bad clock is noticed."""
    text = datetime.fromtimestamp(event_ms / 1000, UTC).isoformat(timespec="milliseconds")
    if accepted:
        assert read({**REQUIRED, "timestamp": text}).event_time_ms == event_ms
    else:
        assert paths(refused({**REQUIRED, "timestamp": text})) == {"timestamp"}


@pytest.mark.parametrize(
    "number",
    [
        VISA,
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111_1111:1111-1111",
        "-4111.1111.1111.1111_",
        "4222222222222",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "6011111111111117",
        "30569309025904",
        "3530111333300000",
        "6200000000000005",
        "6759649826438453",
        "2200000000000004",
    ],
)
@pytest.mark.parametrize("field", ["card_id", "customer_id", "device_id", "email_hash"])
def test_a_card_number_is_refused_and_not_repeated(field: str, number: str) -> None:
    """A valid number of a card network, with or without separators, never passes for a token."""
    error = refused({**REQUIRED, field: number})
    assert error.code == "pan_not_allowed"
    assert paths(error) == {field}
    assert number not in str(error)
    assert asdict(read({**REQUIRED, field: number}, allow_card_numbers=True))[field] == number


def test_a_card_number_is_refused_as_one_whatever_else_is_wrong() -> None:
    """Other faults, or separators that no token may have, do not hide that a card number was sent."""
    for number in (VISA, "4111 1111 1111 1111"):
        error = refused({"card_id": number, "amount": "x"})
        assert error.code == "pan_not_allowed"
        assert number not in str(error)


@pytest.mark.parametrize(
    "token",
    [
        "4111111111111112",  # check digit
        "411111111111",  # too short
        "41111111111111111115",  # too long
        "card-4111111111111111",  # not the whole value
        "9111111111111111",  # no network
    ],
)
def test_a_token_that_only_resembles_a_card_number_is_taken(token: str) -> None:
    """Numeric tokens pass unless length, network and check digit are all those of a card."""
    assert read({**REQUIRED, "card_id": token}).card_id == token


def test_other_ids_may_be_numeric() -> None:
    """Order and merchant numbers are no card numbers, whatever their check digit."""
    assert read({**REQUIRED, "transaction_id": VISA, "merchant_id": VISA, "terminal_id": VISA}).merchant_id == VISA


@given(st.ip_addresses().map(str) | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}", fullmatch=True))
def test_an_ip_address_is_what_the_standard_library_takes_for_one(text: str) -> None:
    """The short way for IPv4 takes no other addresses than the long one."""
    try:
        ip_address(text)
    except ValueError:
        assert paths(refused({**REQUIRED, "ip_address": text})) == {"ip_address"}
    else:
        assert read({**REQUIRED, "ip_address": text}).ip_address == text


def encoded(text: str, *, escaped: bool) -> str:
    """A JSON string of the text, plain or with every character escaped."""
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"' if escaped else json.dumps(text)


DOCUMENTS = st.builds(
    lambda optional, nulls: {
        **REQUIRED,
        **{name: None if name in nulls else FULL[name] for name in optional},
    },
    st.sets(st.sampled_from(sorted(FULL.keys() - REQUIRED.keys()))),
    st.sets(st.sampled_from(sorted(FULL.keys() - REQUIRED.keys()))),
).filter(
    lambda document: all(
        (document.get(one) is None) == (document.get(other) is None)
        for one, other in (("latitude", "longitude"), ("follows", "follow_kind"))
    )
)


@settings(max_examples=300)
@given(DOCUMENTS, st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_key_given_twice_is_found_however_it_is_written(
    document: dict[str, object], random: Random, times: int
) -> None:
    """A valid document is taken in any order and escaping; with any key repeated it is refused, naming such a key."""
    pairs = list(document.items())
    pairs += [random.choice(pairs) for _ in range(times)]
    random.shuffle(pairs)
    members = []
    for name, value in pairs:
        text = encoded(value, escaped=random.random() < 0.5) if isinstance(value, str) else json.dumps(value)
        members.append(encoded(name, escaped=random.random() < 0.5) + random.choice([":", " : "]) + text)
    body = ("{" + random.choice([",", ", ", "\n,"]).join(members) + "}").encode()
    if times == 0:
        expected = read(document)
        taken = read_transaction(body, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)
        assert taken == expected
        assert taken.digest() == expected.digest()
    else:
        error = refused(body)
        assert [fault.reason for fault in error.faults] == ["given twice"]
        assert sum(name == error.faults[0].path for name, _ in pairs) > 1


def test_a_key_given_twice_is_refused_even_if_only_the_dropped_value_was_wrong() -> None:
    """The value that a parser would drop is no way around the rules."""
    body = json.dumps(REQUIRED).replace('"amount": 1250', '"amount": 999999, "amount": 1250').encode()
    assert [(fault.path, fault.reason) for fault in refused(body).faults] == [("amount", "given twice")]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(FULL)) | st.text(max_size=12), JSON_VALUES, max_size=8))
def test_any_json_object_is_read_or_refused_without_its_values(changes: dict[str, object]) -> None:
    """Nothing but RequestInvalid ever leaves the reader, and no text that was sent stands in it."""
    said = ""
    try:
        read({**REQUIRED, **changes})
    except RequestInvalid as error:
        said = str(error)
    assert not [value for value in changes.values() if isinstance(value, str) and len(value) > 3 and value in said]


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """No bytes make the reader fail in an unplanned way."""
    refused(body)


@given(st.sampled_from(sorted(set(FULL) - {"latitude", "longitude", "follows", "follow_kind", "timestamp"})))
def test_the_digest_depends_on_every_field(field: str) -> None:
    """Changing or leaving out any field makes another request of it."""
    others = {"amount": 1, "currency": "USD", "ip_address": "10.0.0.1", "merchant_category_code": "5999"}
    value = FULL[field]
    other = others.get(field, "GB" if field.endswith("country") else "other")
    vocabularies = {
        "channel": "pos",
        "entry_mode": "chip",
        "cvc_check": "fail",
        "avs_check": "fail",
        "three_ds": "failed",
    }
    other = vocabularies.get(field, other)
    assume(other != value)
    assert read({**FULL, field: other}).digest() != read(FULL).digest()


def test_a_transaction_cannot_be_changed() -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(AttributeError, match="immutable"):
        read(REQUIRED).amount = 1  # type: ignore[misc] # what the checker refuses, too


def read_one(document: dict[str, object]) -> Outcome:
    return read_outcome(json.dumps(document).encode(), arrival_ms=ARRIVAL_MS, allow_card_numbers=False)


@pytest.mark.parametrize("outcome_type", [*OutcomeType])
def test_every_type_of_outcome_is_read(outcome_type: OutcomeType) -> None:
    """Each type of the contract is taken; a dispute says whether fraud is its reason."""
    fraud = {"fraud": True} if outcome_type is OutcomeType.DISPUTE else {}
    outcome = read_one({**OUTCOME, "type": outcome_type.value, **fraud})
    assert outcome.type is outcome_type
    assert outcome.reported_at_ms - outcome.occurred_at_ms == 24 * 3600 * 1000
    assert outcome.event_time_ms is None


def test_an_outcome_may_carry_the_transaction() -> None:
    """The transaction's time, ids and amount come along for when the record is gone."""
    told = {"card_id": "c", "merchant_id": "m", "terminal_id": "t", "device_id": "d", "amount": 0, "currency": "JPY"}
    outcome = read_one({**OUTCOME, "timestamp": "2026-10-01T00:00:00Z", **told})
    assert outcome.event_time_ms is not None
    assert {name: outcome.model_dump()[name] for name in told} == told


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "dispute"}, "fraud"),
        ({"fraud": True}, "fraud"),
        ({"type": "dispute", "fraud": 1}, "fraud"),
        ({"type": "chargeback"}, "type"),
        ({"occurred_at": "2026-11-23T00:00:00Z"}, "occurred_at"),
        ({"reported_at": 1}, "reported_at"),
        ({"reported_at": None}, "reported_at"),
        ({"timestamp": "1999-01-01T00:00:00Z"}, "timestamp"),
        ({"card_id": VISA}, "card_id"),
        ({"merchant": "m"}, "merchant"),
        ({"amount": 1250}, "currency"),
        ({"currency": "EUR"}, "amount"),
        ({"amount": 1250, "currency": None}, "currency"),
        ({"amount": -1, "currency": "EUR"}, "amount"),
        ({"amount": 10**12 + 1, "currency": "EUR"}, "amount"),
        ({"amount": 12.5, "currency": "EUR"}, "amount"),
        ({"amount": "1250", "currency": "EUR"}, "amount"),
        ({"amount": True, "currency": "EUR"}, "amount"),
        ({"amount": 1250, "currency": "eur"}, "currency"),
        ({"amount": 1250, "currency": "XYZ"}, "currency"),
    ],
)
def test_a_wrong_outcome_is_refused_by_field(change: dict[str, object], field: str) -> None:
    """Outcomes are read as strictly as transactions."""
    with pytest.raises(RequestInvalid) as caught:
        read_one({**OUTCOME, **change})
    assert paths(caught.value) == {field}


def test_a_key_given_twice_in_an_outcome_is_refused() -> None:
    """So are repeated keys."""
    with pytest.raises(RequestInvalid, match="type: given twice"):
        read_outcome(
            json.dumps(OUTCOME).replace("{", '{"type": "refund", ', 1).encode(),
            arrival_ms=ARRIVAL_MS,
            allow_card_numbers=False,
        )
