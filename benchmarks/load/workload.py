"""What the contenders are sent: simulated payments in the order of their event times, each naming all four entities."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.load.contender import Contender, Payment
from benchmarks.load.prepared import Supply
from benchmarks.payments import request_bodies
from service.bundle import Bundle
from service.model import OnnxModel
from training.examples import replay_offline
from training.simulate import SimulationConfig, simulate

CARDS = 5_000
DAYS_PER_MILLION = 220  # each card pays about once a day
SEED = 1
VECTORS = 20_000  # payments whose features are computed for those who compute none
PAST = timedelta(days=400)  # a store that is so old knows a new card when it sees one


@dataclass(frozen=True, slots=True)
class Workload:
    """Payments, and the bundle that stateless contenders are sent the features of.

    Attributes:
        frame: canonical transactions; the first one is long ago, so that no store is too young to know a new card.
        bundle: the one that is served.
        vectors: of the first `VECTORS` payments, for those who compute none.
    """

    frame: pl.DataFrame
    bundle: Bundle
    vectors: list[Payment]

    @classmethod
    def simulate(cls, bundle: Bundle, *, transactions: int, vectors: int = VECTORS) -> "Workload":
        """Draw so many payments."""
        days = 1 + transactions * DAYS_PER_MILLION // 1_000_000
        frame = with_distant_past(
            with_all_entities(simulate(SimulationConfig(transactions=transactions, days=days, seed=SEED, cards=CARDS)))
        )
        return cls(frame, bundle, _with_vectors(frame[1 : 1 + vectors], bundle))

    def supply(self, contender: Contender, directory: Path) -> Supply:
        """The requests of a contender."""
        path = directory / f"{contender.name}.requests"
        if contender.stateless:
            return Supply(path, map(contender.request, self.vectors), again=True)
        return Supply(path, (contender.request(Payment(body)) for body in request_bodies(self.frame)))

    def probabilities(self, first: int, count: int) -> list[float]:
        """What onnxruntime, asked directly, says of so many vectors from one on; after the last comes the first."""
        payments = [self.vectors[number % len(self.vectors)] for number in range(first, first + count)]
        numeric = np.array([payment.numeric for payment in payments], np.float32)
        categorical = np.array([payment.categorical for payment in payments], np.int64)
        _, probabilities = OnnxModel.load(self.bundle).run(numeric, categorical)
        return [float(probability) for probability in probabilities]


def with_all_entities(frame: pl.DataFrame) -> pl.DataFrame:
    """The same payments, where what lacks a device or a terminal has one of its own, and none follows another."""
    return frame.drop("follows", "follow_kind").with_columns(
        device_id=pl.coalesce("device_id", pl.format("device-of-{}", "card_id")),
        terminal_id=pl.coalesce("terminal_id", pl.format("terminal-of-{}", "merchant_id")),
    )


def with_distant_past(frame: pl.DataFrame) -> pl.DataFrame:
    """The same payments after one of long ago, of entities of its own."""
    names = ("transaction_id", "card_id", "merchant_id", "terminal_id", "device_id")
    first = frame[:1].with_columns(pl.col("timestamp") - PAST, *(pl.lit("long-ago").alias(name) for name in names))
    return pl.concat([first, frame])


def _with_vectors(frame: pl.DataFrame, bundle: Bundle) -> list[Payment]:
    """Payments with the model's input: None for what is missing among the numbers."""
    examples = replay_offline(frame, bundle.plan, bundle.currencies)
    rows = zip(request_bodies(frame), examples.numeric.tolist(), examples.categorical.tolist(), strict=True)
    return [
        Payment(body, [None if np.isnan(value) else value for value in numeric], categorical)
        for body, numeric, categorical in rows
    ]
