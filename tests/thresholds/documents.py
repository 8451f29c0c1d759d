"""Documents and transactions for the tests of thresholds."""

import json
from typing import Any

from service.thresholds import Thresholds, parse_thresholds
from service.transaction import Transaction, read_transaction

Json = dict[str, Any]  # as it comes from outside, before anything is known about it


def document(*, default: Json | None = None, segments: list[Json] | None = None, fallback: Json | None = None) -> Json:
    """A valid document in euros."""
    return {
        "currency": "EUR",
        "default": {"review_at": {"probability": 0.2}} if default is None else default,
        "segments": [] if segments is None else segments,
        "fallback": {"decision": "review", "approve_below_amount": 5000} if fallback is None else fallback,
    }


def thresholds(source: object) -> Thresholds:
    return parse_thresholds(source, base_currency="EUR")


def transaction(**fields: str) -> Transaction:
    """A transaction with the required fields and these, read as the service reads one."""
    required = {
        "transaction_id": "t-1",
        "timestamp": "2026-11-21T09:30:00Z",
        "card_id": "card-1",
        "merchant_id": "merchant-1",
        "amount": 1000,
        "currency": "EUR",
    }
    body = json.dumps({**required, **fields}).encode()
    return read_transaction(body, arrival_ms=1_796_000_000_000, allow_card_numbers=False)
