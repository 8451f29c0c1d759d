"""What a request becomes as a row of integers: times that no bad clock can move, ids, hashes and codes."""

import json

import pytest

from service.features.entry import (
    FIELD_COLUMNS,
    MISSING,
    MISSING_COORDINATE,
    Column,
    coordinate,
    entry_id,
    outcome_row,
    token_hash,
    transaction_row,
)
from service.features.entry import Kind as EntryKind
from service.transaction import Transaction, read_transaction
from tests.features.streams import HOUR_MS, MINUTE_MS, SECOND_MS

ARRIVAL_MS = 1_709_249_400_000  # 2024-02-29T23:30:00Z


@pytest.mark.parametrize(
    ("ahead_ms", "effective_ms"),
    [
        (-48 * HOUR_MS, -48 * HOUR_MS),
        (0, 0),
        (4 * MINUTE_MS, 4 * MINUTE_MS),
        (5 * MINUTE_MS, 5 * MINUTE_MS),
        (6 * MINUTE_MS, 5 * MINUTE_MS),
        (23 * HOUR_MS, 5 * MINUTE_MS),
    ],
)
def test_a_clock_that_runs_ahead_moves_time_five_minutes_at_most(ahead_ms: int, effective_ms: int) -> None:
    """The effective time is the event's own, but never more than five minutes after its arrival."""
    row = row_of(transaction(), arrival_ms=ARRIVAL_MS - ahead_ms)
    assert row[Column.TIME] == ARRIVAL_MS - ahead_ms + effective_ms
    assert row[Column.ORIGIN] == row[Column.TIME]


def test_what_a_request_leaves_out_is_missing() -> None:
    """A request with nothing but what is required has every other field missing, and its amount as it is."""
    row = row_of(transaction())
    given = {"amount", "card_id", "merchant_id"}
    for field, column in FIELD_COLUMNS.items():
        assert (row[column] == MISSING[column]) == (field not in given), field
    assert row[Column.AMOUNT] == 1_250


def test_every_field_has_a_value_of_its_own() -> None:
    """No field that a request can carry is lost on the way into its row."""
    row = row_of(
        transaction(
            terminal_id="t-1", device_id="d-1", customer_id="c-1", email_hash="e-1", ip_address="192.0.2.1",
            merchant_category_code="0742", merchant_country="FR", card_country="DE", billing_country="BE",
            shipping_country="AD", ip_country="ZW", latitude=48.85665, longitude=-180,
            channel="recurring", entry_mode="credential_on_file", cvc_check="fail", avs_check="unavailable",
            three_ds="not_used",
        )
    )  # fmt: skip
    assert all(row[column] != MISSING[column] for column in FIELD_COLUMNS.values())
    assert row[Column.MCC] == 742
    assert row[Column.SHIPPING_COUNTRY] == 4
    assert row[Column.IP_COUNTRY] == 673
    assert (row[Column.LATITUDE], row[Column.LONGITUDE]) == (488_566, -1_800_000)
    assert [row[column] for column in CODES] == [4, 5, 1, 3, 3]
    assert len({row[column] for column in TOKENS}) == len(TOKENS)


@pytest.mark.parametrize(("follow_kind", "added"), [("retry", 0), ("after_challenge", 0), ("incremental", 1_250)])
def test_only_an_incremental_follow_up_adds_its_amount(follow_kind: str, added: int) -> None:
    """Every follow-up carries its amount; only an increment adds it to what the payment was."""
    row = row_of(transaction(follows="tx-0", follow_kind=follow_kind))
    assert (row[Column.KIND], row[Column.AMOUNT], row[Column.ADDED]) == (EntryKind.FOLLOW_UP, 1_250, added)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(48.85665, 488_566), (48.85675, 488_568), (-0.00005, 0), (90.0, 900_000), (-180.0, -1_800_000)],
)
def test_coordinates_are_rounded_half_to_even(degrees: float, expected: int) -> None:
    """Ten-thousandths of a degree, the middle to the even neighbour as binary64 has it."""
    assert coordinate(degrees) == expected


def test_a_missing_coordinate_is_no_place() -> None:
    """Neither nothing nor NaN is a coordinate."""
    assert coordinate(None) == coordinate(float("nan")) == MISSING_COORDINATE


def test_ids_have_48_bits_and_are_never_zero() -> None:
    """A thousand ids that differ in their last digits give a thousand ids that share neither low nor high bits."""
    ids = [entry_id(f"tx-{number}", "transaction") for number in range(1_000)]
    assert all(0 < value < 1 << 48 for value in ids)
    assert len({value & 0xFFFFFF for value in ids}) > 990
    assert len({value >> 24 for value in ids}) > 990


def test_tokens_are_hashed_to_halves_that_sets_can_keep() -> None:
    """Hashes fit int64, nothing is 0, and no low half is 0, which would mean missing."""
    hashes = [token_hash(f"card-{number}") for number in range(1_000)]
    assert token_hash(None) == 0
    assert all(-(1 << 63) <= value < 1 << 63 and value & 0xFFFFFFFF for value in hashes)
    assert len(set(hashes)) == len(hashes)


def test_an_outcome_reported_twice_is_one_entry_and_its_reversal_another() -> None:
    """The same report has the same id; a decline has one id however often; a reversal has its own."""
    fraud = outcome(EntryKind.FRAUD_LABEL, delta=1)
    assert fraud == outcome(EntryKind.FRAUD_LABEL, delta=1)
    assert fraud[Column.ID] != outcome(EntryKind.FRAUD_LABEL, delta=-1)[Column.ID]
    assert fraud[Column.ID] != outcome(EntryKind.FRAUD_LABEL, delta=1, later_ms=SECOND_MS)[Column.ID]
    declines = [outcome(EntryKind.ISSUER_DECLINE, delta=0, later_ms=later_ms) for later_ms in (0, SECOND_MS)]
    assert declines[0][Column.ID] == declines[1][Column.ID] != row_of(transaction())[Column.ID]


CODES = (Column.CHANNEL, Column.ENTRY_MODE, Column.CVC_CHECK, Column.AVS_CHECK, Column.THREE_DS)
TOKENS = (
    Column.CARD,
    Column.MERCHANT,
    Column.TERMINAL,
    Column.DEVICE,
    Column.CUSTOMER,
    Column.EMAIL,
    Column.IP,
)


def transaction(**fields: str | float) -> Transaction:
    """A request as the service reads it, at `ARRIVAL_MS`."""
    required = {
        "transaction_id": "tx-1",
        "timestamp": "2024-02-29T23:30:00Z",
        "card_id": "card-1",
        "merchant_id": "m-1",
        "amount": 1_250,
        "currency": "EUR",
    }
    body = json.dumps({**required, **fields}).encode()
    return read_transaction(body, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)


def row_of(request: Transaction, *, arrival_ms: int = ARRIVAL_MS) -> tuple[int, ...]:
    """The row of a request whose amount is in the base currency."""
    return transaction_row(request, arrival_ms=arrival_ms, amount_minor=request.amount)


def outcome(kind: EntryKind, *, delta: int, later_ms: int = 0) -> tuple[int, ...]:
    """The row of an outcome of transaction tx-1."""
    return outcome_row(
        kind,
        transaction_id="tx-1",
        reported_ms=ARRIVAL_MS + later_ms,
        origin_ms=ARRIVAL_MS - HOUR_MS,
        delta=delta,
        keys={Column.CARD: token_hash("card-1")},
    )
