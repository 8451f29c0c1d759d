"""The share of the gradient that comes from easy legitimate rows."""

import math
from typing import get_args

import pytest
import torch

from training.gradients import Easy, gradient_share, gradient_sizes
from training.losses import Loss, settle_loss

LOSSES = (
    settle_loss("bce", gamma=0.0, alpha=None, frauds=1, legitimate=99),
    settle_loss("weighted_bce", gamma=0.0, alpha=None, frauds=1, legitimate=99),
    settle_loss("focal", gamma=2.0, alpha=None, frauds=1, legitimate=99),
    settle_loss("focal", gamma=0.5, alpha=0.75, frauds=1, legitimate=99),
    settle_loss("focal", gamma=3.0, alpha="class_weights", frauds=1, legitimate=99),
)
EASY = get_args(Easy)


def logit(p: float) -> float:
    """Log-odds."""
    return math.log(p / (1 - p))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_sizes_are_those_of_autograd(loss: Loss) -> None:
    """Both classes, logits from -80 to 80, the slope that autograd finds; torch's softplus is a line above 20."""
    logits = torch.linspace(-80, 80, 641, dtype=torch.float64).repeat(2).requires_grad_()
    targets = torch.cat([torch.zeros(641), torch.ones(641)])
    (slope,) = torch.autograd.grad(loss(logits, targets) * len(logits), logits)
    torch.testing.assert_close(gradient_sizes(logits.detach(), targets, loss), slope.abs(), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("easy", EASY)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_share_is_that_of_autograd_s_gradients(loss: Loss, easy: Easy) -> None:
    """Adding up autograd's gradients over the rows that the definition names gives the same share."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1_000, generator=generator, dtype=torch.float64).mul(2).sub(2)
    targets = (torch.rand(1_000, generator=generator) < 0.05).float()
    traced = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(traced, targets), traced)
    legitimate = targets == 0
    tenth_hardest = float(logits[legitimate].sort().values[int(0.9 * int(legitimate.sum()))])
    bound = logit(0.1) if easy == "below_0.1" else tenth_hardest
    expected = float(slope[legitimate & (logits < bound)].abs().sum() / slope.abs().sum())
    assert gradient_share(logits, targets, loss, easy) == pytest.approx(expected, rel=1e-9)


def test_a_worked_example() -> None:
    """Ten legitimate rows, nine of them at p = .05 and one at .5, and a fraud at .2; cross-entropy's slope is |p - y|.

    Easy either way are the nine: 9 · .05 = .45 of .45 + .5 + .8 = 1.75. Focal loss with gamma 1 has the slope
    (1 - p_t)·(1 - p_t - p_t·log p_t): .05·(.05 + .95·.051293) = .0049364, .5·(.5 + .5·.693147) = .4232868 and
    .8·(.8 + .2·1.609438) = .8975101.
    """
    logits = torch.tensor([logit(0.05)] * 9 + [logit(0.5), logit(0.2)])
    targets = torch.tensor([0.0] * 10 + [1.0])
    focal = settle_loss("focal", gamma=1.0, alpha=None, frauds=1, legitimate=10)
    for easy in EASY:
        assert gradient_share(logits, targets, LOSSES[0], easy) == pytest.approx(0.45 / 1.75, rel=1e-6)
        assert gradient_share(logits, targets, focal, easy) == pytest.approx(0.0444276 / 1.3652245, rel=1e-5)


def test_the_two_definitions_differ_where_a_loss_inflates_its_output() -> None:
    """Raise every logit alike and no row is below .1 any more, while the easiest nine in ten are still the easiest."""
    logits, targets = torch.linspace(-9, -3, 101), torch.tensor([0.0] * 100 + [1.0])
    shares = {easy: gradient_share(logits + 8, targets, LOSSES[0], easy) for easy in EASY}
    assert shares["below_0.1"] < 0.1
    assert shares["easiest_90"] > 0.5


def test_the_scale_of_a_loss_does_not_change_a_share() -> None:
    """Balanced weights and class weights differ in the size of every gradient and in no share."""
    logits, targets = torch.linspace(-6, 3, 200), (torch.arange(200) % 20 == 0).float()
    balanced, weighted = (
        settle_loss("focal", gamma=2.0, alpha=alpha, frauds=10, legitimate=190)
        for alpha in ("balanced", "class_weights")
    )
    for easy in EASY:
        shares = [gradient_share(logits, targets, loss, easy) for loss in (balanced, weighted)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-12)


def test_a_share_of_nothing_is_refused() -> None:
    """No rows have no gradient, so there is nothing to take a share of."""
    with pytest.raises(ValueError, match="over 0 rows"):
        gradient_share(torch.zeros(0), torch.zeros(0), LOSSES[0], "below_0.1")
