"""The Fraud Detection Handbook's published protocol: 7 days of fitting, 7 of delay, 7 of testing, week by week."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from service.errors import DataInvalid
from training.comparison.folds import Fold, published_folds
from training.comparison.networks import NetworkWithLoss
from training.comparison.parts import FoldParts
from training.config import FitConfig
from training.evaluate import ranking
from training.examples import Examples

FIT_DAYS = 7
PUBLISHED = {  # chapters 5 and 7, means over four folds: average precision, AUC, card precision at 100
    "book: XGBoost": (0.687, 0.869, 0.303),
    "book: feed-forward network": (0.675, 0.876, 0.303),
}


@dataclass(frozen=True, slots=True)
class Week:
    """One fold's result."""

    fit_until: datetime
    average_precision: float
    roc_auc: float
    card_precision_at_100: float


def run_published(
    examples: Examples,
    network: NetworkWithLoss,
    *,
    fit_days: float = FIT_DAYS,
    seed: int,
    say: Callable[[str], None],
) -> list[Week]:
    """Fit and test on every fold that the data reaches to the end of.

    As published: the settings were fixed beforehand, all epochs run; cards whose fraud was known seven days before a
    test day are taken out of that day.

    Args:
        examples: the Handbook's; as published, each fraud was reported after 7 days.
        network: with its loss and sampler.
        fit_days: length of the fit, which ends where the book's does.
        seed: of the fits.
        say: told each result.

    Raises:
        DataInvalid: the data end before the first test does.
    """
    weeks = []
    for fold in published_folds(fit_days, int(examples.event_time_ms[-1])).test:
        weeks.append(_week(examples, network, fold, seed))
        say(f"fit until {weeks[-1].fit_until:%Y-%m-%d}: AP {weeks[-1].average_precision:.4f}")
    if not weeks:
        raise DataInvalid("the data end before the protocol's first test does, on 2018-08-14")
    return weeks


def handbook_network(config: FitConfig, entity_features: Sequence[slice]) -> NetworkWithLoss:
    """The network of a fit configuration, nothing about it to be searched."""
    return NetworkWithLoss(
        config.network,
        config.loss,
        config.sampler,
        entity_features,
        config.threads,
        config.device,
        teacher=config.teacher,
        tuned=False,
    )


def _week(examples: Examples, network: NetworkWithLoss, fold: Fold, seed: int) -> Week:
    parts = FoldParts.of(examples, fold)
    fit, test = parts.fit("natural", seed=seed)[0], parts.test()
    log_odds = network.fit(fit, {}, steps=network.network.epochs, seed=seed)(test.numeric, test.categorical)
    figures = ranking(examples, parts.rows.test, test.labels, log_odds)
    return Week(
        datetime.fromtimestamp(fold.fit_until_ms / 1000, UTC),
        figures["average_precision"],
        figures["roc_auc"],
        figures["card_precision_at_100"],
    )
