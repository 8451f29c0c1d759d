"""Simulated payments of cards that pay about thirty times a month, each naming four entities."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import polars as pl

from benchmarks.payments import request_bodies
from service.scorer import ScoreRequest
from service.transaction import Transaction
from training.simulate import SimulationConfig, simulate

CARDS = 1_000
A_MONTH = (25, 35)  # payments of each card in the first month
HISTORY_DAYS = 30
DRAWN = 8  # times as many cards are simulated, of which those are taken
SEED = 1


@dataclass(frozen=True, slots=True)
class Payments:
    """Canonical transactions in order of time: a first month that is to be history, and what comes after it."""

    history: pl.DataFrame
    later: pl.DataFrame

    @classmethod
    def simulate(cls, *, later: int) -> Self:
        """Draw them, so many later ones. What lacks a device or a terminal gets one of its own."""
        days = HISTORY_DAYS + 1 + later * 5 // (4 * CARDS)  # who paid often for a month pays a little less often then
        config = SimulationConfig(
            transactions=DRAWN * CARDS * days, days=days, seed=SEED, cards=DRAWN * CARDS, merchants=CARDS
        )
        frame = simulate(config).with_columns(
            device_id=pl.coalesce("device_id", pl.format("device-of-{}", "card_id")),
            terminal_id=pl.coalesce("terminal_id", pl.format("terminal-of-{}", "merchant_id")),
        )
        in_history = pl.col("timestamp") < config.start + timedelta(days=HISTORY_DAYS)
        counts = frame.filter(in_history).group_by("card_id").len().filter(pl.col("len").is_between(*A_MONTH))
        cards = counts["card_id"].sort().head(CARDS)
        frame = frame.filter(pl.col("card_id").is_in(cards.implode()))
        payments = cls(frame.filter(in_history), frame.filter(~in_history).head(later))
        assert (len(cards), len(payments.later)) == (CARDS, later), (len(cards), len(payments.later))
        return payments


def score_requests(frame: pl.DataFrame) -> Iterator[ScoreRequest]:
    """Each row as a request that was read and found good, which arrives when the payment happens."""
    times_ms = frame["timestamp"].dt.epoch("ms")
    for body, time_ms in zip(request_bodies(frame), times_ms, strict=True):
        yield ScoreRequest.read(body, arrival_ms=time_ms, allow_card_numbers=False)


def transactions(frame: pl.DataFrame) -> Iterator[Transaction]:
    """Each row as a transaction."""
    return (request.transaction for request in score_requests(frame))
