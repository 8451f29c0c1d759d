"""A dossier: what it makes of an outcome, and that documents of every version are read."""

import orjson
import pytest

from service.dossier import Dossier
from service.features.entry import AMOUNT_LIMIT, Column, Kind
from service.features.spec import KEY_FIELDS
from tests.scoring import START_MS, outcome

TOKENS = ("card", "merchant", *(None,) * (len(KEY_FIELDS) - 2))
WITHOUT_AMOUNT = (
    b'{"event_time_ms":1795253400000,"tokens":["card","merchant",null,null,null,null,null],"label":1,"changes":1,'
    b'"declined":false,"reports":[{"type":"confirmed_fraud","fraud":null,"occurred_at_ms":1795253401000,'
    b'"reported_at_ms":1795253401000,"arrived_at_ms":1795253400000}],'
    b'"pending":{"kind":3,"delta":1,"reported_ms":1795253401000,"number":0}}'
)
"""A document as it was written before dossiers knew amounts."""


def test_a_dossier_comes_back() -> None:
    """From the document that a store keeps, with everything in it, and as the same bytes again."""
    told = (outcome("a", "issuer_declined", seconds=1), outcome("a", seconds=2), outcome("a", "withdrawn", seconds=3))
    dossier = Dossier(START_MS, TOKENS, 1_250)
    for item in told:
        dossier = dossier.settled().take(item, arrival_ms=START_MS)
        assert Dossier.from_json(dossier.to_json()) == dossier
        assert Dossier.from_json(dossier.to_json()).to_json() == dossier.to_json()
    assert (dossier.amount_minor, len(dossier.reports)) == (1_250, 3)


def test_a_document_without_an_amount_is_read() -> None:
    """It is that of amount 0: so was its label counted, and so is it taken back."""
    dossier = Dossier.from_json(WITHOUT_AMOUNT)
    assert dossier == Dossier(START_MS, TOKENS, 0).take(outcome("a", seconds=1), arrival_ms=START_MS)
    withdrawn = dossier.settled().take(outcome("a", "withdrawn", seconds=2), arrival_ms=START_MS)
    assert [amounts(it) for it in (dossier, withdrawn)] == [(1, 0), (-1, 0)]


@pytest.mark.parametrize("amount_minor", [0, 1_250, AMOUNT_LIMIT, AMOUNT_LIMIT + 1])
def test_a_label_that_is_taken_back_takes_back_its_amount(amount_minor: int) -> None:
    """The entries of a fraud and of its withdrawal have opposite signs and the same amount, at most the limit."""
    fraud = Dossier(START_MS, TOKENS, amount_minor).take(outcome("a", seconds=1), arrival_ms=START_MS)
    withdrawn = fraud.settled().take(outcome("a", "withdrawn", seconds=2), arrival_ms=START_MS)
    counted = min(amount_minor, AMOUNT_LIMIT)
    assert [amounts(it) for it in (fraud, withdrawn)] == [(1, counted), (-1, counted)]


def test_only_a_label_says_an_amount() -> None:
    """An issuer's decline is counted, never summed."""
    declined = Dossier(START_MS, TOKENS, 1_250).take(outcome("a", "issuer_declined", seconds=1), arrival_ms=START_MS)
    row = declined.row("a")
    assert (row[Column.KIND], row[Column.AMOUNT]) == (Kind.ISSUER_DECLINE, 0)


def test_the_amount_is_no_part_of_an_entry_s_id() -> None:
    """It stays what it was before entries knew amounts, so that no label is counted again."""
    rows = [
        Dossier(START_MS, TOKENS, amount).take(outcome("a", seconds=1), arrival_ms=START_MS).row("a")
        for amount in (0, 1_250)
    ]
    assert rows[0][Column.ID] == rows[1][Column.ID] == 63_106_614_271_042
    assert rows[0][Column.AMOUNT] != rows[1][Column.AMOUNT]


def test_the_news_say_what_was_counted() -> None:
    """Whoever collects outcomes learns the amount that the histories have."""
    dossier = Dossier(START_MS, TOKENS, 1_250).take(outcome("a", seconds=1), arrival_ms=START_MS)
    news = orjson.loads(dossier.news("a"))
    assert (news["transaction_id"], news["amount_minor"], news["type"]) == ("a", 1_250, "confirmed_fraud")


def amounts(dossier: Dossier) -> tuple[int, int]:
    """What the pending entry adds to the label, and its amount."""
    row = dossier.row("a")
    return int(row[Column.DELTA]), int(row[Column.AMOUNT])
