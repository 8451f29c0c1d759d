"""The network as a contender: one loss over one sampler."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.comparison.contender import Choice, LogOdds, Point, Reals, Space
from training.config import Device, LossConfig, NetworkConfig, SamplerConfig, TeacherConfig
from training.network import Codes, Floats, raw_logits
from training.optimise import Part, Trained, train


@dataclass(frozen=True, slots=True)
class NetworkWithLoss:
    """Our network, as `fit` would train it.

    Attributes:
        network: its settings before a search.
        loss: what it minimises.
        sampler: over which rows.
        entity_features: by entity, its part of the numeric features.
        threads: torch's threads.
        device: where.
        teacher: whom it learns from beside the labels; fitted to the same rows.
        tuned: whether a search may change its settings.
    """

    network: NetworkConfig
    loss: LossConfig
    sampler: SamplerConfig
    entity_features: Sequence[slice]
    threads: int
    device: Device
    teacher: TeacherConfig | None = None
    tuned: bool = True

    @property
    def defaults(self) -> Choice:
        """As configured."""
        configured = {**self.network.model_dump(), **self.loss.model_dump()}
        return {name: configured[name] for name in self.space()}

    @property
    def patience(self) -> int:
        """Every epoch counts: under one cycle the last ones are the best."""
        return self.network.epochs

    def space(self) -> Space:
        """Size, speed and restraint; the exponent and the weight of a focal loss."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: PLC0415 - half a second that only a contest needs

        if not self.tuned:
            return {}
        network = {
            "width": IntDistribution(32, 512, log=True),
            "dropout": FloatDistribution(0.0, 0.5),
            "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
            "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
        }
        focal = {
            "gamma": FloatDistribution(0.5, 4.0),
            "alpha": CategoricalDistribution((None, 0.25, 0.5, 0.75, 0.9)),
        }
        return network | focal if self.loss.name == "focal" else network

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:
        """One point per epoch."""
        trained = self._trained(fit, choice, watched=watched, stop_after=None, seed=seed)
        for epoch, reached in enumerate(trained.average_precisions, start=1):
            yield Point(epoch, reached)

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:
        """Log-odds by the closed form that undoes loss and sampler; no line is fitted behind it."""
        trained = self._trained(fit, choice, watched=None, stop_after=steps, seed=seed)

        def log_odds(numeric: Floats, categorical: Codes) -> Reals:
            raw = raw_logits(trained.network, numeric, categorical).astype(np.float64)  # float32 would make ties
            return trained.log_odds(raw, numeric, categorical)

        return log_odds

    def _trained(
        self, fit: Part, choice: Choice, *, watched: Part | None, stop_after: int | None, seed: int
    ) -> Trained:
        """The only call of `train`. Patience is off, so that curves of several folds are equally long."""
        network, loss = self._settled(choice)
        return train(
            fit, watched, network, loss, self.sampler,
            teacher_config=self.teacher, stop_after=stop_after, device=self.device,
            seed=seed, threads=self.threads, entity_features=self.entity_features, tick=lambda: None,
        )  # fmt: skip

    def _settled(self, choice: Choice) -> tuple[NetworkConfig, LossConfig]:
        of_loss = {name: value for name, value in choice.items() if name in LossConfig.model_fields}
        of_network = {name: value for name, value in choice.items() if name not in of_loss}
        network = self.network.model_dump() | of_network | {"patience": self.network.epochs}
        loss = self.loss.model_dump() | of_loss
        return NetworkConfig.model_validate(network), LossConfig.model_validate(loss)
