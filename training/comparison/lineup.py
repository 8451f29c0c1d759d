"""From the configuration of a contender to the contender."""

from typing import assert_never

from service.features.plan import Plan
from training.comparison.boosting import BoostedTrees
from training.comparison.classical import Forest, LogisticRegression
from training.comparison.config import ContenderConfig, ContestConfig, NetworkContender, changed
from training.comparison.contender import Contender
from training.comparison.networks import NetworkWithLoss
from training.comparison.records import Json
from training.config import FitConfig, SamplerConfig


def contender(config: ContenderConfig, contest: ContestConfig, base: FitConfig, plan: Plan) -> Contender:
    """Whoever is configured, ready to learn."""
    match config.kind:
        case "network":
            return NetworkWithLoss(
                changed(base.network, config.network),
                config.loss,
                _sampler(config, base),
                plan.entity_features,
                base.threads,
                base.device,
                teacher=config.teacher,
                tuned=config.tuned,
            )
        case "lightgbm" | "xgboost" | "catboost":
            return BoostedTrees(config.kind, contest.search.most_rounds, base.threads)
        case "forest":
            return Forest(base.threads)
        case "logistic":
            return LogisticRegression()
        case _:
            assert_never(config.kind)


def trials(config: ContenderConfig, contest: ContestConfig) -> int:
    """How many settings a contender may try: as many as everybody else, or its own as configured."""
    as_configured = isinstance(config, NetworkContender) and not config.tuned
    return 1 if as_configured else contest.search.trials


def section(config: ContenderConfig, base: FitConfig) -> dict[str, Json]:
    """All that a contender's results depend on, what it takes from the base configuration included."""
    settings: dict[str, Json] = config.model_dump(mode="json")
    if isinstance(config, NetworkContender):
        settings["network"] = changed(base.network, config.network).model_dump(mode="json")
        settings["sampler"] = _sampler(config, base).model_dump(mode="json")
    return settings


def _sampler(config: NetworkContender, base: FitConfig) -> SamplerConfig:
    return config.sampler or base.sampler
