"""The Fraud Detection Handbook's published protocol: 7 days of fitting, 7 of delay, 7 of testing, week by week."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.currency import CurrencyTable
from service.features.plan import Plan
from training.config import FitConfig
from training.examples import Examples, replay_offline
from training.metrics import average_precision, card_precision_at_k, roc_auc
from training.network import raw_logits
from training.optimise import Part, train
from training.split import DAY_MS

STARTS = tuple(datetime(2018, month, day, tzinfo=UTC) for month, day in ((7, 25), (8, 1), (8, 8), (8, 15)))
WEEK_MS = 7 * DAY_MS
PUBLISHED = {  # chapters 5 and 7, means over four folds: average precision, AUC, card precision at 100
    "book: XGBoost": (0.687, 0.869, 0.303),
    "book: feed-forward network": (0.675, 0.876, 0.303),
}


@dataclass(frozen=True, slots=True)
class Fold:
    """One week's result."""

    start: datetime
    average_precision: float
    roc_auc: float
    card_precision_at_100: float


def run_protocol(
    frame: pl.DataFrame,
    plan: Plan,
    currencies: CurrencyTable,
    config: FitConfig,
    *,
    workers: int,
    say: Callable[[str], None],
) -> list[Fold]:
    """Fit and test on every fold that the data reaches to the end of.

    As published: no tuning slice, the hyper-parameters fixed beforehand; cards whose fraud was known seven days before
    a test day are taken out of that day.

    Args:
        frame: the Handbook's transactions, in canonical form.
        plan: the compiled spec.
        currencies: rates to the base currency.
        config: loss and network.
        workers: cores for computing features.
        say: told each result.
    """
    examples = replay_offline(frame, plan, currencies, threads=workers)
    end_ms = int(examples.event_time_ms[-1])
    folds = []
    for start in STARTS:
        start_ms = int(start.timestamp() * 1000)
        if start_ms + 3 * WEEK_MS - DAY_MS <= end_ms:
            folds.append(_fold(examples, plan, config, start))
            say(f"{start:%Y-%m-%d}: AP {folds[-1].average_precision:.4f}")
    return folds


def _fold(examples: Examples, plan: Plan, config: FitConfig, start: datetime) -> Fold:
    start_ms = int(start.timestamp() * 1000)
    times = examples.event_time_ms
    fit = np.flatnonzero((times >= start_ms) & (times < start_ms + WEEK_MS))
    test = np.flatnonzero((times >= start_ms + 2 * WEEK_MS) & (times < start_ms + 3 * WEEK_MS))
    test = test[~_known_compromised(examples, test, start_ms)]
    trained = train(
        Part(examples.numeric[fit], examples.categorical[fit], examples.labels[fit]), None,
        config.network, config.loss, config.sampler,
        seed=config.seed, threads=config.threads, entity_features=plan.entity_features, tick=lambda: None,
    )  # fmt: skip
    logits = raw_logits(trained.network, examples.numeric[test], examples.categorical[test]).astype(np.float64)
    labels, days = examples.labels[test], times[test] // DAY_MS
    return Fold(
        start,
        average_precision(labels, logits),
        roc_auc(labels, logits),
        card_precision_at_k(days, examples.card[test], labels, logits, 100),
    )


def _known_compromised(examples: Examples, test: NDArray[np.int64], start_ms: int) -> NDArray[np.bool_]:
    """Whether a test row's card had a fraud from the fold's start to seven days before the row's day."""
    days = examples.event_time_ms // DAY_MS
    first_day = start_ms // DAY_MS
    known = np.zeros(len(test), np.bool_)
    for day in np.unique(days[test]):
        seen = examples.labels & (days >= first_day) & (days < day - 7)
        today = days[test] == day
        known[today] = np.isin(examples.card[test][today], examples.card[seen])
    return known
