"""Losses for rare fraud, and the way back from their logit to a probability.

Every loss here is `weight · (1 - p_t)^gamma · -log p_t`: cross-entropy has gamma = 0 and no weights, class weighting
gamma = 0 and weights, focal loss gamma > 0 with or without weights. So one closed form undoes them all. The choices and
their inverses are a table in docs/losses.md.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["bce", "weighted_bce", "focal"]

Alpha = float | Literal["balanced", "class_weights"] | None
"""How fraud is weighed, as configured. Either word gives both classes the same total weight: `balanced` by weights that
add up to 1, `class_weights` by n / (2·n_class), so that a row weighs 1 on average. Only the gradient's size differs."""

LOGIT_BOUND = 60.0
"""Logits are clipped here before they are corrected: e^60 fits float32, e^89 does not; 1e-26 is as good as nothing."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One member of the family, with its numbers settled for one data set.

    Attributes:
        name: what the configuration called it.
        gamma: how hard to look away from easy examples; 0 is plain cross-entropy.
        alpha: the fraud class's share of the two class weights, in (0, 1); None for no weighting.
        scale: multiplies the whole loss, so that class weights are n / (2·n_class) to the letter.
    """

    name: LossName
    gamma: float
    alpha: float | None
    scale: float = 1.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the batch, a scalar."""
        return self.scale * focal_loss(logits, targets, gamma=self.gamma, alpha=self.alpha)


def settle_loss(name: LossName, *, gamma: float, alpha: Alpha, frauds: int, legitimate: int) -> Loss:
    """Turn a configured loss into numbers, given the class counts of the rows it will see.

    Args:
        name: `bce` ignores gamma and alpha; so does `weighted_bce`, which is `focal` at gamma 0 with class weights.
        gamma: focusing exponent, at least 0.
        alpha: weight of fraud in (0, 1), or how to find it from the counts, or None for no weighting.
        frauds: number of fraudulent rows, at least 1.
        legitimate: number of legitimate rows, at least 1.

    Raises:
        ValueError: gamma is negative or alpha is outside (0, 1).
    """
    assert frauds > 0, f"a loss needs both classes, got {frauds} frauds"
    assert legitimate > 0, f"a loss needs both classes, got {legitimate} legitimate rows"
    if name == "bce":
        gamma, alpha = 0.0, None
    elif name == "weighted_bce":
        gamma, alpha = 0.0, "class_weights"
    rows = frauds + legitimate
    scale = rows * rows / (2 * frauds * legitimate) if alpha == "class_weights" else 1.0
    settled = legitimate / rows if isinstance(alpha, str) else alpha
    _check(gamma, settled)
    return Loss(name, gamma, settled, scale)


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float, alpha: float | None) -> Tensor:
    """Cross-entropy that looks away from easy examples (Lin et al. 2017, eq. 5).

    Computed in log space, 1 - p_t = exp(-softplus(±z)): neither the loss nor its gradient meets log 0 or 0^(gamma - 1).
    Logits of half precision are widened first: their 8 or 11 bits are not enough for a mean over a batch.

    Args:
        logits: (batch,), any real number. Logits, not probabilities: the log is taken stably here.
        targets: (batch,), 0.0 or 1.0, or a teacher's probability of fraud: then the loss to expect if labels were drawn
            from it, whose minimiser stands for that very probability.
        gamma: how hard to look away; 0 is plain cross-entropy.
        alpha: weight of the fraud class in (0, 1), or None for no weighting.

    Returns:
        The mean over the batch, a scalar of at least float32.

    Raises:
        ValueError: gamma is negative or alpha is outside (0, 1).
    """
    _check(gamma, alpha)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    surprise, surprise_if_legitimate = functional.softplus(-wide), functional.softplus(wide)
    if_fraud = torch.exp(-gamma * surprise_if_legitimate) * surprise
    if_legitimate = torch.exp(-gamma * surprise) * surprise_if_legitimate
    if alpha is not None:
        if_fraud, if_legitimate = alpha * if_fraud, (1 - alpha) * if_legitimate
    return (targets * if_fraud + (1 - targets) * if_legitimate).mean()


def recover_logit(logits: Tensor, *, gamma: float, alpha: float | None, beta: float) -> Tensor:
    """The log-odds of fraud that a focal logit stands for.

    Focal loss is classification-calibrated but not proper: its minimiser overstates small risks (Charoenphakdee et al.,
    CVPR 2021, theorem 11). This inverts the minimiser in closed form, extended to class weights and to training on a
    share of the legitimate rows. Strictly increasing, so ranking is unchanged. Exact at the population minimiser only.

    Args:
        logits: (batch,), what the network says; clipped to ±60.
        gamma: the loss's focusing exponent.
        alpha: the loss's weight of fraud, or None.
        beta: share of the legitimate rows that were kept in training, in (0, 1].

    Returns:
        (batch,) logits of the true posterior; within 2e-5 of exact in float32 for |logit| ≤ 30.

    Raises:
        ValueError: gamma is negative, or alpha or beta is out of range.
    """
    shift = math.log(odds_factor(alpha, beta))
    _check(gamma, alpha)
    z = logits.clamp(-LOGIT_BOUND, LOGIT_BOUND)
    corrected = (gamma + 1) * z
    if gamma > 0:
        corrected = corrected + torch.log(1 + gamma * _softness(z)) - torch.log(1 + gamma * _softness(-z))
    return corrected + shift


def odds_factor(alpha: float | None, beta: float) -> float:
    """What class weights and sampling did to the odds of fraud, inverted: beta·(1 - alpha) / alpha.

    Raises:
        ValueError: beta is outside (0, 1].
    """
    if not 0 < beta <= 1:
        raise ValueError(f"beta is the share of legitimate rows kept, in (0, 1], got {beta}")
    return beta if alpha is None else beta * (1 - alpha) / alpha


def stationary_bias(prior: float, *, gamma: float, alpha: float | None, beta: float = 1.0) -> float:
    """The constant logit at which the loss is stationary: its recovered posterior is the class prior.

    Start the output bias here. logit(prior) is far from it: -6.91 against -2.94 at gamma 2, alpha 0.25, prior 0.001.

    Args:
        prior: share of fraud before sampling, in (0, 1).
        gamma: the loss's focusing exponent.
        alpha: the loss's weight of fraud, or None.
        beta: share of the legitimate rows kept.
    """
    assert 0 < prior < 1, f"a class prior lies in (0, 1), got {prior}"
    wanted = math.log(prior / (1 - prior))
    low, high = -LOGIT_BOUND, LOGIT_BOUND
    for _ in range(100):  # halves 120 down to the last bit of a float64
        middle = (low + high) / 2
        at_middle = recover_logit(
            torch.tensor([middle], dtype=torch.float64),
            gamma=gamma,
            alpha=alpha,
            beta=beta,
        )
        low, high = (middle, high) if float(at_middle[0]) < wanted else (low, middle)
    return (low + high) / 2


def _softness(z: Tensor) -> Tensor:
    """softplus(z)·e^(-z), which is log(w) / (w - 1) at w = 1 + e^z, and 1 where e^z vanishes beside 1.

    Written this way because the rounding of w cancels (Kahan), so that it is accurate with the plainest operators: a
    runtime whose Softplus is log(1 + e^z) would give 0 below -17, where this tends to 1.
    """
    w = 1 + torch.exp(z)
    vanished = w == 1
    return torch.where(vanished, 1.0, torch.log(w) / torch.where(vanished, 1.0, w - 1.0))


def _check(gamma: float, alpha: float | None) -> None:
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"alpha is the weight of fraud and lies in (0, 1), got {alpha}")
