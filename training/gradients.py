"""How a loss spends its gradient: the share that comes from legitimate rows which are easy already."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from training.losses import Loss

Easy = Literal["below_0.1", "easiest_90"]
"""Which legitimate rows are easy: those the network's sigmoid puts below 0.1, or the 90 % with the lowest logits. The
first depends on how far a loss inflates its output, the second only on the ranking."""

EASY_BELOW, EASIEST_SHARE = 0.1, 0.9


def gradient_share(logits: Tensor, targets: Tensor, loss: Loss, easy: Easy) -> float:
    """The easy legitimate rows' part of the sum of |∂L/∂logit| over all rows, in [0, 1].

    The state is the caller's: logits at initialisation, of one network for every loss, or of each loss's own. The
    sigmoid is the network's own and not the recovered probability, because it is what the loss sees.

    Args:
        logits: (rows,), of the network.
        targets: (rows,), 0.0 or 1.0.
        loss: whose gradient.
        easy: what counts as easy.

    Raises:
        ValueError: there are no rows, or no row has any gradient.

    Example:
        >>> share = gradient_share(torch.tensor([0.0, -9.0]), torch.tensor([1.0, 0.0]), Loss("bce", 0.0, None),
        ...     "below_0.1")
        >>> f"{share:.6f}"
        '0.000247'
    """
    logits, legitimate = logits.double(), targets <= 0
    sizes = gradient_sizes(logits, targets, loss)
    total = float(sizes.sum())
    if not total > 0:
        raise ValueError(f"a share needs a gradient to be a share of, got {total} over {len(logits)} rows")
    if easy == "below_0.1":
        return float(sizes[legitimate & (torch.sigmoid(logits) < EASY_BELOW)].sum()) / total
    ascending = sizes[legitimate][torch.argsort(logits[legitimate])]
    return float(ascending[: int(EASIEST_SHARE * len(ascending))].sum()) / total


def gradient_sizes(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """|∂/∂logit| of each row's own loss, (rows,) float64: not divided by the number of rows.

    weight · (1 - p_t)^gamma · (1 - p_t - gamma·p_t·log p_t), in log space like the loss itself.
    """
    fraud = targets > 0
    towards_truth = torch.where(fraud, logits.double(), -logits.double())
    doubt = torch.sigmoid(-towards_truth)
    surprise = functional.softplus(-towards_truth)
    sizes = torch.exp(-loss.gamma * functional.softplus(towards_truth)) * (
        doubt + loss.gamma * torch.sigmoid(towards_truth) * surprise
    )
    if loss.alpha is not None:
        sizes = torch.where(fraud, loss.alpha * sizes, (1 - loss.alpha) * sizes)
    return loss.scale * sizes
