"""The served model in torch: raw features in, the log-odds and the probability of fraud out."""

import numpy as np
import torch
from torch import Tensor, nn

from training.losses import recover_logit
from training.network import FraudNetwork
from training.teacher import Blend


class ServedModel(nn.Module):
    """What is exported: the network, the loss's inverse, trees beside it if any stay, the fitted line in log-odds.

    The corrections are buffers: they hold numbers that were computed, not learned by gradient.
    """

    gamma: float
    slope: Tensor
    intercept: Tensor

    def __init__(
        self,
        network: FraudNetwork,
        *,
        gamma: float,
        alpha: float | None,
        beta: float,
        slope: float = 1.0,
        intercept: float = 0.0,
        blend: Blend | None = None,
    ) -> None:
        super().__init__()
        assert slope > 0, f"calibration must keep the ranking, got slope {slope}"
        self.network = network
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.blend = blend
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32))
        self.register_buffer("intercept", torch.tensor(intercept, dtype=torch.float32))

    def forward(self, numeric: Tensor, categorical: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-odds and probability of fraud, (batch,) each; `told` is what the trees say, for who knows it already."""
        own = self.corrected(self.network(numeric, categorical))
        if self.blend is not None:
            if told is None:
                sums = self.blend.teacher.log_odds(numeric.numpy(), categorical.numpy())
                told = torch.from_numpy(sums.astype(np.float32))
            own = self.blend.mixed(own, told)
        logit = self.slope * own + self.intercept
        return logit, probability_of(logit)

    def corrected(self, raw: Tensor) -> Tensor:
        """The network's log-odds, with nothing beside and no line behind."""
        return recover_logit(raw, gamma=self.gamma, alpha=self.alpha, beta=self.beta)


def probability_of(logit: Tensor) -> Tensor:
    """The logistic function, written out.

    onnxruntime 1.31 approximates Sigmoid to 1.3e-7 absolute: wrong by 1 % at one in a million, and not ascending there.
    """
    return 1 / (1 + torch.exp(-logit.clamp(min=-80.0)))
