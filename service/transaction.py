"""What a payment system tells us: a transaction to decide on, and later its outcomes, read from strict JSON."""

import hashlib
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from service.card_number import looks_like_card_number
from service.decoder import Decoder, OneOf
from service.errors import Fault, RequestInvalid
from service.faults import plain_name, reason
from service.vocabulary import COUNTRIES, CURRENCIES, Channel, CheckResult, EntryMode, FollowKind, ThreeDS

MAX_AMOUNT_MINOR = 10**12
EARLIEST_EVENT_MS = 946_684_800_000  # 2000-01-01T00:00Z
LATEST_AHEAD_MS = 24 * 3600 * 1000  # later than this after its arrival, an event time is a mistake
MAX_FAULTS = 32  # of one request: enough to mend it in one go, bounded whatever is sent

TOKEN_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"  # noqa: S105 - a pattern, not a password
RFC3339_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_is_rfc3339 = re.compile(RFC3339_PATTERN).fullmatch
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_is_ipv4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch  # ten times faster than ipaddress
_in_ip_alphabet = re.compile(r"[0-9A-Fa-f:.]{2,45}").fullmatch  # keeps IPv6 zones, which may hold any character, out
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OutcomeType(StrEnum):
    """What later became known about a transaction."""

    AUTHORISED = "authorised"
    ISSUER_DECLINED = "issuer_declined"
    REVERSED = "reversed"
    DISPUTE = "dispute"
    EARLY_FRAUD_WARNING = "early_fraud_warning"
    REFUND = "refund"
    CONFIRMED_FRAUD = "confirmed_fraud"
    CONFIRMED_LEGITIMATE = "confirmed_legitimate"
    WITHDRAWN = "withdrawn"


def parse_instant(text: object) -> int:
    """Epoch milliseconds of an RFC 3339 instant; finer fractions are cut off, leap seconds refused.

    Raises:
        PydanticCustomError: not a string, not RFC 3339, or not on the calendar.
    """
    if isinstance(text, str) and _is_rfc3339(text):
        try:
            since = datetime.fromisoformat(text.upper()) - _EPOCH
            return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
        except ValueError:
            pass  # the 30th of February: answered below, without Python's wording
    raise PydanticCustomError("instant", "an RFC 3339 date and time with offset, like 2026-11-21T09:30:00.250Z")


@lru_cache(maxsize=64)  # what arrives together is mostly asked about in the same millisecond
def write_instant(epoch_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    seconds, milliseconds = divmod(epoch_ms, 1000)
    return f"{_write_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)  # and what arrives alone in the same second as others
def _write_second(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().removesuffix("+00:00")


def _ip_address(text: str) -> str:
    if _is_ipv4(text):
        return text
    try:
        if _in_ip_alphabet(text):
            ipaddress.ip_address(text)
            return text
    except ValueError:
        pass  # answered below, without the value that Python's message repeats
    raise PydanticCustomError("ip_address", "an IPv4 or IPv6 address without zone")


Token = Annotated[str, Field(pattern=TOKEN_PATTERN)]
Instant = Annotated[
    int,
    BeforeValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "RFC 3339, with offset"}),
]
Country = Annotated[
    str,
    OneOf(COUNTRIES, "country", "an ISO 3166-1 alpha-2 country code"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Z]{2}$"}),
]
Currency = Annotated[
    str,
    OneOf(CURRENCIES, "currency", "an ISO 4217 currency code"),
    WithJsonSchema({"type": "string", "pattern": "^[A-Z]{3}$"}),
]
IpAddress = Annotated[
    str,
    AfterValidator(_ip_address),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
_STRICT = ConfigDict(
    frozen=True,
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    hide_input_in_errors=True,
    regex_engine="rust-regex",
)


class Transaction(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One authorisation request. Optional fields are None when absent."""

    # What is said about the fields is for `TransactionContract`: a value is not checked when it is made.
    transaction_id: Annotated[Token, Field(description="The idempotency key: the same id and body get the same answer")]
    event_time_ms: Annotated[Instant, Field(alias="timestamp")]  # epoch milliseconds, UTC
    card_id: Annotated[Token, Field(description="A token for the card, never its number")]
    merchant_id: Token
    amount: Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR, description="In minor units of `currency`")]
    currency: Annotated[Currency, Field(description="ISO 4217")]
    merchant_category_code: Annotated[str | None, Field(pattern=r"^[0-9]{4}$", description="ISO 18245")] = None
    merchant_country: Country | None = None
    card_country: Country | None = None
    billing_country: Country | None = None
    shipping_country: Country | None = None
    ip_country: Country | None = None
    terminal_id: Token | None = None
    device_id: Token | None = None
    customer_id: Token | None = None
    email_hash: Token | None = None
    ip_address: IpAddress | None = None
    channel: Channel | None = None
    entry_mode: EntryMode | None = None
    cvc_check: CheckResult | None = None
    avs_check: CheckResult | None = None
    three_ds: ThreeDS | None = None
    latitude: Annotated[float | None, Field(ge=-90, le=90, description="Of the terminal or the IP address")] = None
    longitude: Annotated[float | None, Field(ge=-180, le=180)] = None
    follows: Annotated[Token | None, Field(description="transaction_id of an earlier attempt at the same payment")] = (
        None
    )
    follow_kind: FollowKind | None = None

    def digest(self) -> bytes:
        """16 bytes (of SHA-256) that say whether two requests ask the same, however their JSON was written."""
        return hashlib.sha256(_CANONICAL.encode(self)).digest()[:16]


_SAID: dict[str, Any] = {
    it.name: (it.type, ... if it.required else it.default) for it in msgspec.structs.fields(Transaction)
}
TransactionContract = create_model(  # the same fields and what is said about them, in the hands of pydantic
    "Transaction",
    __config__=_STRICT,
    __doc__=Transaction.__doc__,
    **_SAID,
)


class Outcome(BaseModel):
    """What became known about a transaction.

    The transaction's own fields may come along, because outcomes arrive months later,
    when the record of the decision is gone.
    """

    model_config = _STRICT

    transaction_id: Token
    type: OutcomeType
    fraud: Annotated[bool | None, Field(description="For a dispute, and only there: is fraud its reason?")] = None
    occurred_at_ms: Annotated[Instant, Field(alias="occurred_at")]  # epoch milliseconds, UTC
    reported_at_ms: Annotated[Instant, Field(alias="reported_at")]  # epoch milliseconds, UTC
    event_time_ms: Annotated[Instant | None, Field(alias="timestamp")] = None  # epoch milliseconds, UTC
    card_id: Token | None = None
    merchant_id: Token | None = None
    terminal_id: Token | None = None
    device_id: Token | None = None
    amount: Annotated[
        int | None, Field(ge=0, le=MAX_AMOUNT_MINOR, description="The transaction's, in minor units of `currency`")
    ] = None
    currency: Annotated[Currency | None, Field(description="ISO 4217")] = None


def read_transaction(body: bytes, *, arrival_ms: int, allow_card_numbers: bool) -> Transaction:
    """Parse one transaction.

    Args:
        body: JSON in UTF-8. Its size is the caller's to bound.
        arrival_ms: when the request arrived, UTC epoch milliseconds.
        allow_card_numbers: accept tokens that look like card numbers.

    Raises:
        RequestInvalid: every fault found, none with the value sent.
    """
    transaction = _DECODER.decode(body)
    if transaction is None:
        contract = _validate(TransactionContract, body, allow_card_numbers=allow_card_numbers)
        transaction = Transaction(**contract.__dict__)
    if not allow_card_numbers and any(map(looks_like_card_number, filter(None, _CARD_TOKENS(transaction)))):
        # Which fields they are is asked only where there are any: this is on every request's way.
        _refuse(_card_number_faults(transaction), code="pan_not_allowed")
    _refuse(_transaction_faults(transaction, arrival_ms))
    return transaction


def read_outcome(body: bytes, *, arrival_ms: int, allow_card_numbers: bool) -> Outcome:
    """Parse one outcome; arguments and errors as for `read_transaction`."""
    outcome = _validate(Outcome, body, allow_card_numbers=allow_card_numbers)
    if not allow_card_numbers:
        _refuse(_card_number_faults(outcome), code="pan_not_allowed")
    _refuse(_outcome_faults(outcome, arrival_ms))
    return outcome


Model = TypeVar("Model", bound=BaseModel)

_DECODER = Decoder(TransactionContract, Transaction)
_CANONICAL = msgspec.json.Encoder()
_CARD_NUMBER_FIELDS = ("card_id", "customer_id", "device_id", "email_hash")
_CARD_TOKENS: Callable[[Transaction], tuple[str | None, ...]] = attrgetter(*_CARD_NUMBER_FIELDS)


def _validate(model: type[Model], body: bytes, *, allow_card_numbers: bool) -> Model:
    try:
        read = model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(model, body, error, allow_card_numbers=allow_card_numbers) from None  # it holds the input
    if body.count(b",") + 1 != len(read.model_fields_set):  # no value that is taken holds a comma
        raise RequestInvalid([Fault(_repeated_key(body), "given twice")])
    return read


def _repeated_key(body: bytes) -> str:
    """The first key that stands twice; the slow parse that only a doubtful body costs."""
    pairs: list[tuple[str, object]] = json.loads(body, object_pairs_hook=list)
    keys = Counter(key for key, _ in pairs)
    return next(key for key, count in keys.items() if count > 1)


def _transaction_faults(transaction: Transaction, arrival_ms: int) -> list[Fault]:
    faults = _time_faults("timestamp", transaction.event_time_ms, arrival_ms)
    if (transaction.latitude is None) is not (transaction.longitude is None):
        absent = "latitude" if transaction.latitude is None else "longitude"
        faults.append(Fault(absent, "latitude and longitude go together"))
    if (transaction.follows is None) is not (transaction.follow_kind is None):
        absent = "follows" if transaction.follows is None else "follow_kind"
        faults.append(Fault(absent, "follows and follow_kind go together"))
    if transaction.follows == transaction.transaction_id:
        faults.append(Fault("follows", "another transaction than this one"))
    return faults


def _outcome_faults(outcome: Outcome, arrival_ms: int) -> list[Fault]:
    faults = [
        *_time_faults("occurred_at", outcome.occurred_at_ms, arrival_ms),
        *_time_faults("reported_at", outcome.reported_at_ms, arrival_ms),
        *_time_faults("timestamp", outcome.event_time_ms, arrival_ms),
    ]
    if (outcome.type is OutcomeType.DISPUTE) is (outcome.fraud is None):
        faults.append(Fault("fraud", "true or false for a dispute, absent for every other type"))
    if (outcome.amount is None) is not (outcome.currency is None):
        absent = "amount" if outcome.amount is None else "currency"
        faults.append(Fault(absent, "amount and currency go together"))
    return faults


def _time_faults(field: str, time_ms: int | None, arrival_ms: int) -> list[Fault]:
    if time_ms is None or EARLIEST_EVENT_MS <= time_ms <= arrival_ms + LATEST_AHEAD_MS:
        return []
    return [Fault(field, "from 2000-01-01 to 24 hours after now")]


def _card_number_faults(read: object) -> list[Fault]:
    return [
        Fault(field, "a token, never a card number")
        for field in _CARD_NUMBER_FIELDS
        if isinstance(token := getattr(read, field, None), str) and looks_like_card_number(token)
    ]


def _refuse(faults: Sequence[Fault], *, code: str = "invalid_request") -> None:
    if faults:
        raise RequestInvalid(faults[:MAX_FAULTS], code=code)


def _invalid(
    model: type[BaseModel], body: bytes, error: ValidationError, *, allow_card_numbers: bool
) -> RequestInvalid:
    """What pydantic found, in our words and without the input."""
    found = error.errors(include_url=False)[:MAX_FAULTS]
    if found[0]["type"] == "json_invalid":
        return RequestInvalid([Fault("body", f"JSON: {found[0]['ctx']['error']}")], code="invalid_json")
    known = [field.alias or name for name, field in model.model_fields.items()]
    faults = [_fault(fault, known) for fault in found]
    values = from_json(body)
    if isinstance(values, dict) and not allow_card_numbers:
        pans = _card_number_faults(SimpleNamespace(**values))
        refused = {pan.path for pan in pans}
        if pans:
            return RequestInvalid([*pans, *(f for f in faults if f.path not in refused)], code="pan_not_allowed")
    return RequestInvalid(faults)


def _fault(found: ErrorDetails, known: Sequence[str]) -> Fault:
    if not found["loc"]:
        return Fault("body", "a JSON object")
    field = str(found["loc"][0])
    return _unknown_field(field, known) if found["type"] == "extra_forbidden" else Fault(field, reason(found))


def _unknown_field(name: str, known: Sequence[str]) -> Fault:
    safe = plain_name(name)
    close = get_close_matches(safe.lower(), known, n=1)
    return Fault(safe, f"unknown; did you mean {close[0]}?" if close else "unknown")
