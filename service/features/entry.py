"""An entry: one event in an entity's log, as a row of integers and as packed bytes."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from service.features.compiled import Bytes, Int, Ints, compiled, int64, unsigned
from service.features.packed import read_integer, write_integer
from service.vocabulary import COUNTRIES, Channel, CheckResult, EntryMode, FollowKind, ThreeDS

if TYPE_CHECKING:  # the engine runs without pydantic
    from service.transaction import Transaction

CLOCK_TOLERANCE_MS = 5 * 60 * 1000  # an event may claim to be this far ahead of its arrival, no further
AMOUNT_LIMIT = (1 << 48) - 1  # minor units of the base currency; what six bytes hold, 2.8 trillion euros
COORDINATE_SCALE = 10_000  # coordinates are kept in 10^-4 degree, about 11 m
MISSING_COORDINATE = -(1 << 23)  # the least value three bytes hold


class Kind(IntEnum):
    """What an entry says. Zero is not a kind, so that a zeroed row is none."""

    ATTEMPT = 1
    FOLLOW_UP = 2
    FRAUD_LABEL = 3
    ISSUER_DECLINE = 4
    VOID = 5


class Column(IntEnum):
    """Position of a field in an event row (int64).

    Times are epoch milliseconds, money is minor units of the base currency. Tokens are 64-bit hashes whose low half is
    not zero; 0 means missing, as it does for countries. Codes and the merchant category code are -1 when missing,
    coordinates `MISSING_COORDINATE`.
    """

    KIND = 0
    ID = 1
    TIME = 2
    ORIGIN = 3
    AMOUNT = 4
    ADDED = 5
    DELTA = 6
    CARD = 7
    MERCHANT = 8
    TERMINAL = 9
    DEVICE = 10
    CUSTOMER = 11
    EMAIL = 12
    IP = 13
    MCC = 14
    MERCHANT_COUNTRY = 15
    CARD_COUNTRY = 16
    BILLING_COUNTRY = 17
    SHIPPING_COUNTRY = 18
    IP_COUNTRY = 19
    LATITUDE = 20
    LONGITUDE = 21
    CHANNEL = 22
    ENTRY_MODE = 23
    CVC_CHECK = 24
    AVS_CHECK = 25
    THREE_DS = 26


COLUMNS = tuple(column.name for column in Column)

FIELD_COLUMNS = {  # the request's field names, as the spec uses them
    "amount": Column.AMOUNT,
    "card_id": Column.CARD,
    "merchant_id": Column.MERCHANT,
    "terminal_id": Column.TERMINAL,
    "device_id": Column.DEVICE,
    "customer_id": Column.CUSTOMER,
    "email_hash": Column.EMAIL,
    "ip_address": Column.IP,
    "merchant_category_code": Column.MCC,
    "merchant_country": Column.MERCHANT_COUNTRY,
    "card_country": Column.CARD_COUNTRY,
    "billing_country": Column.BILLING_COUNTRY,
    "shipping_country": Column.SHIPPING_COUNTRY,
    "ip_country": Column.IP_COUNTRY,
    "latitude": Column.LATITUDE,
    "longitude": Column.LONGITUDE,
    "channel": Column.CHANNEL,
    "entry_mode": Column.ENTRY_MODE,
    "cvc_check": Column.CVC_CHECK,
    "avs_check": Column.AVS_CHECK,
    "three_ds": Column.THREE_DS,
}

_CODES = {Column.MCC, Column.CHANNEL, Column.ENTRY_MODE, Column.CVC_CHECK, Column.AVS_CHECK, Column.THREE_DS}
_COORDINATES = {Column.LATITUDE, Column.LONGITUDE}
MISSING = np.array(  # by column: the value that says "not given"
    [MISSING_COORDINATE if column in _COORDINATES else -1 if column in _CODES else 0 for column in Column], np.int64
)

CHANNELS = {word.value: code for code, word in enumerate(Channel)}
ENTRY_MODES = {word.value: code for code, word in enumerate(EntryMode)}
CHECK_RESULTS = {word.value: code for code, word in enumerate(CheckResult)}
THREE_DS = {word.value: code for code, word in enumerate(ThreeDS)}
COUNTRY_CODES = {code: 1 + 26 * (ord(code[0]) - 65) + ord(code[1]) - 65 for code in COUNTRIES}  # 1..676, stable


def or_missing(codes: Mapping[str, int], missing: int) -> dict[str | None, int]:
    """Codes of words that may be left out: one look instead of a call, in each of a dozen fields."""
    return dict([(None, missing), *codes.items()])


_CHANNEL = or_missing(CHANNELS, -1)
_ENTRY_MODE, _CHECK_RESULT, _THREE_DS = (or_missing(codes, -1) for codes in (ENTRY_MODES, CHECK_RESULTS, THREE_DS))
_COUNTRY = or_missing(COUNTRY_CODES, 0)
_ATTEMPT, _FOLLOW_UP = int(Kind.ATTEMPT), int(Kind.FOLLOW_UP)


def transaction_row(transaction: "Transaction", *, arrival_ms: int, amount_minor: int) -> tuple[int, ...]:
    """The event row of a transaction.

    Args:
        transaction: a checked request.
        arrival_ms: when it reached us; for history, its event time.
        amount_minor: the amount in minor units of the base currency; more than `AMOUNT_LIMIT` counts as that.

    Returns:
        One integer per `Column`.
    """
    time_ms = min(transaction.event_time_ms, arrival_ms + CLOCK_TOLERANCE_MS)
    amount_minor = min(amount_minor, AMOUNT_LIMIT)
    follow_kind = transaction.follow_kind
    return (
        _ATTEMPT if follow_kind is None else _FOLLOW_UP,
        entry_id(transaction.transaction_id, "transaction"),
        time_ms,
        time_ms,
        amount_minor,
        amount_minor if follow_kind is FollowKind.INCREMENTAL else 0,
        0,
        token_hash(transaction.card_id),
        token_hash(transaction.merchant_id),
        token_hash(transaction.terminal_id),
        token_hash(transaction.device_id),
        token_hash(transaction.customer_id),
        token_hash(transaction.email_hash),
        token_hash(transaction.ip_address),
        category_code(transaction.merchant_category_code),
        _COUNTRY[transaction.merchant_country],
        _COUNTRY[transaction.card_country],
        _COUNTRY[transaction.billing_country],
        _COUNTRY[transaction.shipping_country],
        _COUNTRY[transaction.ip_country],
        coordinate(transaction.latitude),
        coordinate(transaction.longitude),
        _CHANNEL[transaction.channel],
        _ENTRY_MODE[transaction.entry_mode],
        _CHECK_RESULT[transaction.cvc_check],
        _CHECK_RESULT[transaction.avs_check],
        _THREE_DS[transaction.three_ds],
    )


def outcome_row(
    kind: Kind,
    *,
    transaction_id: str,
    reported_ms: int,
    origin_ms: int,
    delta: int,
    keys: Mapping[Column, int],
    number: int = 0,
    amount_minor: int = 0,
) -> tuple[int, ...]:
    """The event row of an outcome: a label that changed by `delta`, or an issuer decline.

    Args:
        kind: `FRAUD_LABEL` or `ISSUER_DECLINE`.
        transaction_id: the transaction it is about.
        reported_ms: when it was reported, already limited to arrival + tolerance.
        origin_ms: the transaction's effective event time.
        delta: new label − old label; 0 for an issuer decline.
        keys: the transaction's entities, by column; whoever appends the row to logs that they know needs none.
        number: how many changes of the label came before.
        amount_minor: the transaction's amount in minor units of the base currency, 0 where it is unknown; more than
            `AMOUNT_LIMIT` counts as that. Only a label carries it, and no part of it is in the entry's id.
    """
    assert kind in {Kind.FRAUD_LABEL, Kind.ISSUER_DECLINE}, kind
    row = MISSING.tolist()
    row[Column.KIND] = int(kind)
    row[Column.ID] = outcome_id(transaction_id, kind, delta=delta, reported_ms=reported_ms, number=number)
    row[Column.TIME], row[Column.ORIGIN], row[Column.DELTA] = reported_ms, origin_ms, delta
    if kind is Kind.FRAUD_LABEL:
        row[Column.AMOUNT] = min(amount_minor, AMOUNT_LIMIT)
    for column, value in keys.items():
        row[column] = value
    return tuple(row)


def void_row(row: Sequence[int], *, rev: int) -> tuple[int, ...]:
    """The event row that takes back what one log counted of a transaction, but should not have.

    Args:
        row: the transaction's own row.
        rev: where it stands in that log; the same mistake is taken back once.
    """
    void = MISSING.tolist()
    void[Column.KIND] = int(Kind.VOID)
    void[Column.ID] = entry_id(f"{row[Column.ID]:x}", f"void@{rev}")
    void[Column.TIME] = void[Column.ORIGIN] = row[Column.TIME]
    attempt = row[Column.KIND] == Kind.ATTEMPT
    void[Column.AMOUNT] = row[Column.AMOUNT] if attempt else row[Column.ADDED]
    void[Column.DELTA] = -1 if attempt else 0
    return tuple(void)


def entry_id(transaction_id: str, purpose: str) -> int:
    """48 mixed bits that name an entry, never 0. Sequential ids share bits; a digest does not (BLAKE2b)."""
    digest = hashlib.blake2b(f"{purpose}:{transaction_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") or 1


def outcome_id(transaction_id: str, kind: Kind, *, delta: int, reported_ms: int, number: int = 0) -> int:
    """The id of an outcome's entry: a transaction is declined once, but its label may change and change back.

    Several changes may have been reported at the same time; `number` counts those that came before.
    """
    if kind is Kind.ISSUER_DECLINE:
        return entry_id(transaction_id, kind.name)
    again = f"#{number}" if number else ""
    return entry_id(transaction_id, f"{kind.name}{delta:+d}@{reported_ms}{again}")


@lru_cache(maxsize=65_536)  # merchants and terminals come back; 65,536 of them are about 10 MB
def token_hash(token: str | None) -> int:
    """64 bits of a token as a signed integer; 0 is missing, and the low half is never 0 (sets keep that half)."""
    if token is None:
        return 0
    value = int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little", signed=True)
    return value if value & 0xFFFFFFFF else value | 1


def category_code(code: str | None) -> int:
    """An ISO 18245 merchant category as a number, -1 when missing."""
    return -1 if code is None else int(code)


def coordinate(degrees: float | None) -> int:
    """Degrees in 10⁻⁴ degree, rounded half to even; `MISSING_COORDINATE` when missing."""
    return MISSING_COORDINATE if degrees is None or math.isnan(degrees) else round(degrees * COORDINATE_SCALE)


# ---------------------------------------------------------------- packed bytes
# An entry is its kind in one byte, then the columns its entity needs, little-endian. Which columns, how many bytes
# and whether they are signed stands in the plan's layout table: rows of (column, width, signed), per entity and kind.
# The first two are always id and time, six bytes each.

ID_AT, TIME_AT = 1, 7


@compiled
def write_entry(row: Ints, layout: Ints, first: Int, last: Int, out: Bytes, offset: Int) -> Int:
    """Pack `row` by layout[first:last] into out[offset:]. Returns the offset behind it."""
    out[offset] = np.uint8(row[0])
    offset += 1
    for item in range(first, last):
        offset = write_integer(row[layout[item, 0]], layout[item, 1], out, offset)
    return offset


@compiled
def read_entry(buffer: Bytes, offset: Int, layout: Ints, first: Int, last: Int, row: Ints) -> Int:
    """Unpack an entry into `row`, leaving columns it does not carry. Returns the offset behind it."""
    row[0] = int64(buffer[offset])
    offset += 1
    for item in range(unsigned(first), unsigned(last)):
        width = layout[item, 1]
        value = read_integer(buffer, offset, width)
        if layout[item, 2] != 0 and value >> (8 * width - 1) != 0:
            value -= int64(1) << (8 * width)
        row[unsigned(layout[item, 0])] = value
        offset += width
    return offset
