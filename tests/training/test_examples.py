"""Offline rows are the service's rows: columns encoded at once equal transactions encoded one by one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import polars as pl
import pytest

from service.currency import CurrencyTable, parse_currency_table
from service.features.entry import Column, Kind, outcome_row, transaction_row
from service.transaction import read_transaction
from service.vocabulary import Channel, CheckResult, EntryMode, FollowKind, ThreeDS
from training.examples import KEYS, timeline

ROWS = 500
START = datetime(2026, 1, 1, tzinfo=UTC)
RATES: dict[str, object] = {"base": "EUR", "as_of": "2026-01-01", "rates": {"USD": "0.8613", "JPY": "0.00571"}}


@pytest.fixture(scope="module")
def currencies() -> CurrencyTable:
    return parse_currency_table(RATES)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Transactions in which every field is there now and then, and missing now and then."""
    rng = np.random.default_rng(3)

    def some(values: list[str], share: float = 0.6) -> list[str | None]:
        drawn = rng.integers(0, len(values), ROWS)
        return [values[int(index)] if rng.random() < share else None for index in drawn]

    def degrees(limit: float, present: np.ndarray) -> list[float | None]:
        drawn = np.where(rng.random(ROWS) < 0.3, rng.integers(-9, 9, ROWS) * 0.00005, rng.uniform(-limit, limit, ROWS))
        return [float(value) if here else None for value, here in zip(drawn, present, strict=True)]

    located = rng.random(ROWS) < 0.7
    kinds = some([kind.value for kind in FollowKind], 0.2)
    fraud = rng.random(ROWS) < 0.1
    times = [START + timedelta(milliseconds=int(ms)) for ms in np.sort(rng.integers(0, 10**9, ROWS))]
    names = [f"t{index}" for index in range(ROWS)]
    return pl.DataFrame(
        {
            "transaction_id": names,
            "timestamp": pl.Series(times, dtype=pl.Datetime("ms", "UTC")),
            "card_id": [f"c{index % 7}" for index in range(ROWS)],
            "merchant_id": [f"m{index % 11}" for index in range(ROWS)],
            "amount": rng.integers(0, 10**6, ROWS),
            "currency": [("EUR", "USD", "JPY", "CHF")[int(index)] for index in rng.integers(0, 4, ROWS)],
            "merchant_category_code": some(["0742", "5411", "9999"]),
            "merchant_country": some(["FR", "US", "ZW"]),
            "card_country": some(["FR", "AD"]),
            "billing_country": some(["FR", "DE"]),
            "shipping_country": some(["FR", "GB"]),
            "ip_country": some(["FR", "NG"]),
            "terminal_id": some(["x1", "x2"]),
            "device_id": some(["d1", "d2", "d3"]),
            "customer_id": some(["u1"]),
            "email_hash": some(["e1", "e2"]),
            "ip_address": some(["192.0.2.1", "2001:db8::1"]),
            "channel": some([item.value for item in Channel]),
            "entry_mode": some([item.value for item in EntryMode]),
            "cvc_check": some([item.value for item in CheckResult]),
            "avs_check": some([item.value for item in CheckResult]),
            "three_ds": some([item.value for item in ThreeDS]),
            "latitude": degrees(90, located),
            "longitude": degrees(180, located),
            "follows": [None if kind is None else "t-before" for kind in kinds],
            "follow_kind": kinds,
            "is_fraud": fraud,
            "reported_at": pl.Series(
                [time + timedelta(hours=5) if bad else None for time, bad in zip(times, fraud, strict=True)],
                dtype=pl.Datetime("ms", "UTC"),
            ),
        }
    )


def served_row(values: dict[str, object], currencies: CurrencyTable) -> tuple[int, ...]:
    """What the service makes of the same transaction, from JSON on."""
    time = values.pop("timestamp")
    assert isinstance(time, datetime)
    body = {
        name: value for name, value in values.items() if value is not None and name not in {"is_fraud", "reported_at"}
    }
    transaction = read_transaction(
        orjson.dumps(body | {"timestamp": time.isoformat()}),
        arrival_ms=round(time.timestamp() * 1000),
        allow_card_numbers=False,
    )
    amount = currencies.to_base(transaction.amount, transaction.currency)
    return transaction_row(transaction, arrival_ms=transaction.event_time_ms, amount_minor=amount or 0)


def test_a_table_gives_the_rows_that_serving_gives(frame: pl.DataFrame, currencies: CurrencyTable) -> None:
    """Every column of every row, for every kind of value and for every missing one."""
    line = timeline(frame, currencies)
    own = line.events[:, Column.KIND] <= Kind.FOLLOW_UP
    offline = line.events[own][np.argsort(line.source[own], kind="stable")]
    served = np.array([served_row(values, currencies) for values in frame.iter_rows(named=True)])
    assert (offline == served).all()
    assert set(np.unique(served[:, Column.KIND])) == {Kind.ATTEMPT, Kind.FOLLOW_UP}


def test_labels_arrive_when_they_were_reported(frame: pl.DataFrame, currencies: CurrencyTable) -> None:
    """Each reported fraud is one entry, at its report's place in time, as the service would append it.

    It says what its transaction amounts to in the base currency, 0 where there is no rate.
    """
    line = timeline(frame, currencies)
    labels = np.flatnonzero(line.events[:, Column.KIND] == Kind.FRAUD_LABEL)
    assert len(labels) == frame["is_fraud"].sum()
    assert (np.diff(line.events[:, Column.TIME]) >= 0).all()
    told_minor = []
    for position in labels:
        row = frame.row(int(line.source[position]), named=True)
        origin_ms, reported_ms = (round(row[name].timestamp() * 1000) for name in ("timestamp", "reported_at"))
        keys = {column: int(line.events[position, column]) for column in KEYS.values()}
        told_minor.append(currencies.to_base(row["amount"], row["currency"]))
        assert tuple(line.events[position]) == outcome_row(
            Kind.FRAUD_LABEL,
            transaction_id=row["transaction_id"],
            reported_ms=reported_ms,
            origin_ms=origin_ms,
            delta=1,
            keys=keys,
            amount_minor=told_minor[-1] or 0,
        )
    assert None in told_minor
    assert len(set(told_minor)) > len(told_minor) / 2


def test_at_equal_times_transactions_come_first_and_keep_their_order(currencies: CurrencyTable) -> None:
    """A label that arrives in the same millisecond does not reach a transaction's features."""
    frame = pl.DataFrame(
        {
            "transaction_id": ["a", "b", "c"],
            "timestamp": pl.Series([START, START + timedelta(hours=1), START + timedelta(hours=1)]).cast(
                pl.Datetime("ms", "UTC")
            ),
            "card_id": ["c", "c", "c"],
            "merchant_id": ["m", "m", "m"],
            "amount": [1, 2, 3],
            "currency": ["EUR"] * 3,
            "is_fraud": [True, False, False],
            "reported_at": pl.Series([START + timedelta(hours=1), None, None]).cast(pl.Datetime("ms", "UTC")),
        }
    )
    assert timeline(frame, currencies).source.tolist() == [0, 1, 2, 0]
