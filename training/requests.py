"""Requests: a data set as the bodies that a client would have sent, one per line in the order of arrival."""

from collections.abc import Iterator

import orjson
import polars as pl

from service.transaction import write_instant
from training.examples import arrivals

REQUEST_FIELDS = (
    *("transaction_id", "timestamp", "card_id", "merchant_id", "amount", "currency", "merchant_category_code"),
    *("merchant_country", "card_country", "billing_country", "shipping_country", "ip_country"),
    *("terminal_id", "device_id", "customer_id", "email_hash", "ip_address"),
    *("channel", "entry_mode", "cvc_check", "avs_check", "three_ds"),
    *("latitude", "longitude", "follows", "follow_kind"),
)
OUTCOME_FIELDS = (
    *("transaction_id", "timestamp", "card_id", "merchant_id", "terminal_id", "device_id"),
    *("amount", "currency"),
)

Body = dict[str, object]

_RFC3339 = "%Y-%m-%dT%H:%M:%S%.3fZ"


class Bodies:
    """Rows of a canonical table as request bodies: absent values are left out, times are RFC 3339."""

    def __init__(self, frame: pl.DataFrame) -> None:
        times = frame["timestamp"].dt.strftime(_RFC3339)
        self._names = [name for name in REQUEST_FIELDS if name in frame.columns]
        self._table = frame.select(self._names).with_columns(timestamp=times)

    def transaction(self, row: int) -> Body:
        """The body of POST /score."""
        values = zip(self._names, self._table.row(row), strict=True)
        return {name: value for name, value in values if value is not None}

    def reported_fraud(self, row: int, reported_ms: int) -> Body:
        """The body of POST /outcomes that says it was fraud, with the transaction's keys and amount."""
        keys = {name: value for name, value in self.transaction(row).items() if name in OUTCOME_FIELDS}
        instant = write_instant(reported_ms)
        return keys | {"type": "confirmed_fraud", "occurred_at": instant, "reported_at": instant}


def collected_lines(decisions: pl.DataFrame, outcomes: pl.DataFrame) -> Iterator[bytes]:
    """What was served, as it was sent: each request, and each outcome of one of these.

    Args:
        decisions: as they were collected (`training.collection.DECISION_SCHEMA`).
        outcomes: the same (`OUTCOME_SCHEMA`).
    """
    sent = decisions.select("transaction_id", "request", at="scored_at", told=pl.lit(False))
    told = outcomes.join(decisions, on="transaction_id", how="semi").with_columns(
        pl.col("occurred_at", "reported_at").dt.strftime(_RFC3339), at="arrived_at", told=pl.lit(True)
    )
    for row in pl.concat([sent, told], how="diagonal").sort("at", "told", maintain_order=True).iter_rows(named=True):
        names = ("transaction_id", "type", "fraud", "occurred_at", "reported_at")
        outcome = {name: row[name] for name in names if row[name] is not None}
        yield orjson.dumps(outcome) if row["told"] else row["request"].encode()


def request_lines(frame: pl.DataFrame) -> Iterator[bytes]:
    """Each transaction as the body of POST /score, and each reported fraud as the body of POST /outcomes.

    Args:
        frame: canonical transactions, each fraud with the time of its report.
    """
    bodies = Bodies(frame)
    order = arrivals(frame)
    columns = (order.source.tolist(), order.time_ms.tolist(), order.is_report.tolist())
    for row, time_ms, is_report in zip(*columns, strict=True):
        yield orjson.dumps(bodies.reported_fraud(row, time_ms) if is_report else bodies.transaction(row))
