"""The losses and their closed-form inverse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.losses import Loss, focal_loss, recover_logit, settle_loss, stationary_bias

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
ALPHAS = (None, 0.25, 0.75)
LOGITS = (-80.0, -20.0, -3.0, -0.5, 0.0, 0.5, 3.0, 20.0, 80.0)


def naive_loss(z: Tensor, y: float, gamma: float, alpha: float | None) -> Tensor:
    """Focal loss as the paper writes it, for float64 and moderate logits."""
    p = torch.sigmoid(z)
    p_t = p if y else 1 - p
    weight = 1.0 if alpha is None else (alpha if y else 1 - alpha)
    return -weight * (1 - p_t) ** gamma * torch.log(p_t)


def gradient(z: float, y: float, gamma: float, alpha: float | None, dtype: torch.dtype) -> float:
    """Slope of one example's loss by autograd."""
    logit = torch.tensor([z], dtype=dtype, requires_grad=True)
    focal_loss(logit, torch.tensor([y], dtype=dtype), gamma=gamma, alpha=alpha).backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    assert logit.grad is not None
    return float(logit.grad[0])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_loss_equals_the_paper_formula(gamma: float, alpha: float | None, target: float) -> None:
    """In float64, where the naive formula is still accurate, both give the same number."""
    logits = torch.linspace(-8, 8, 161, dtype=torch.float64)
    for z in logits:
        ours = focal_loss(z[None], torch.tensor([target], dtype=torch.float64), gamma=gamma, alpha=alpha)
        assert float(ours) == pytest.approx(float(naive_loss(z, target, gamma, alpha)), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_float32_gradients_equal_float64_ones_up_to_logit_80(gamma: float, alpha: float | None, target: float) -> None:
    """Where the naive form has NaN gradients, ours are those of double precision."""
    for z in LOGITS:
        single = gradient(z, target, gamma, alpha, torch.float32)
        double = gradient(z, target, gamma, alpha, torch.float64)
        assert math.isfinite(single)
        assert single == pytest.approx(double, rel=2e-5, abs=1e-30)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_gradients_equal_finite_differences(gamma: float, alpha: float | None, target: float) -> None:
    """Autograd's gradient is the slope of the loss."""
    step = 1e-5
    for z in (-6.0, -2.0, -0.3, 0.0, 0.3, 2.0, 6.0):
        above, below = (
            focal_loss(
                torch.tensor([z + d], dtype=torch.float64),
                torch.tensor([target], dtype=torch.float64),
                gamma=gamma,
                alpha=alpha,
            )
            for d in (step, -step)
        )
        slope = float(above - below) / (2 * step)
        assert gradient(z, target, gamma, alpha, torch.float64) == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("z", [-80.0, 80.0])
def test_a_wrong_answer_at_logit_80_is_still_pulled_back(z: float, target: float) -> None:
    """Confidently wrong costs 80 and has gradient 1 away from the truth; confidently right costs nothing."""
    wrong = (z > 0) != (target > 0)
    logit, label = torch.tensor([z]), torch.tensor([target])
    for gamma in GAMMAS:
        assert float(focal_loss(logit, label, gamma=gamma, alpha=None)) == pytest.approx(80.0 if wrong else 0.0)
        assert abs(gradient(z, target, gamma, None, torch.float32)) == pytest.approx(1.0 if wrong else 0.0)


def test_weighted_cross_entropy_weighs_a_class_by_n_over_twice_its_size() -> None:
    """With 2 frauds in 10 rows a fraud weighs 2.5 and a legitimate row 0.625."""
    loss = settle_loss("weighted_bce", gamma=9.0, alpha=None, frauds=2, legitimate=8)
    at_zero = math.log(2)
    assert float(loss(torch.zeros(1), torch.ones(1))) == pytest.approx(2.5 * at_zero)
    assert float(loss(torch.zeros(1), torch.zeros(1))) == pytest.approx(0.625 * at_zero)


def test_class_weights_and_focusing_combine() -> None:
    """`focal` with class weights is n / (2·n_class) times the focal loss; at gamma 0 it is weighted cross-entropy."""
    loss = settle_loss("focal", gamma=2.0, alpha="class_weights", frauds=2, legitimate=8)
    at_zero = 0.5**2 * math.log(2)
    assert float(loss(torch.zeros(1), torch.ones(1))) == pytest.approx(2.5 * at_zero)
    assert float(loss(torch.zeros(1), torch.zeros(1))) == pytest.approx(0.625 * at_zero)
    flat = settle_loss("focal", gamma=0.0, alpha="class_weights", frauds=2, legitimate=8)
    weighted = settle_loss("weighted_bce", gamma=2.0, alpha=0.25, frauds=2, legitimate=8)
    assert (flat.gamma, flat.alpha, flat.scale) == (weighted.gamma, weighted.alpha, weighted.scale)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_logits_cost_what_the_same_logits_cost_in_float32(half: torch.dtype) -> None:
    """Value and gradient are computed in float32, up to logit 80, and only the gradient's own type is narrow."""
    loss = settle_loss("focal", gamma=2.0, alpha=0.75, frauds=1, legitimate=999)
    targets = torch.tensor([0.0, 1.0] * len(LOGITS))
    narrow = torch.tensor(LOGITS).repeat_interleave(2).to(half).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    losses = loss(narrow, targets), loss(wide, targets)
    for each in losses:
        each.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    assert losses[0].dtype == torch.float32
    assert losses[0] == losses[1]
    assert narrow.grad is not None
    assert wide.grad is not None
    assert torch.equal(narrow.grad, wide.grad.to(half))


def test_the_loss_stays_in_float32_under_autocast() -> None:
    """A network whose layers run in bfloat16 still minimises a float32 loss, and all its gradients are finite."""
    layer = torch.nn.Linear(3, 1)
    rows, targets = torch.linspace(-80, 80, 30).reshape(10, 3), torch.tensor([0.0, 1.0] * 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(rows).squeeze(1)
        value = focal_loss(logits, targets, gamma=2.0, alpha=0.75)
    value.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    assert (logits.dtype, value.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad is not None
    assert bool(torch.isfinite(layer.weight.grad).all())


def test_plain_cross_entropy_ignores_gamma_and_alpha() -> None:
    """`bce` is torch's binary cross-entropy, whatever else is configured."""
    loss = settle_loss("bce", gamma=2.0, alpha=0.25, frauds=1, legitimate=9)
    logits, targets = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(loss(logits, targets)) == pytest.approx(float(expected))


def test_a_balanced_alpha_gives_both_classes_the_same_total_weight() -> None:
    """Frauds weigh alpha each, legitimate rows 1 - alpha: 3 · 0.97 = 97 · 0.03."""
    loss = settle_loss("focal", gamma=2.0, alpha="balanced", frauds=3, legitimate=97)
    assert loss == Loss("focal", gamma=2.0, alpha=0.97)


@pytest.mark.parametrize(("gamma", "alpha"), [(-0.1, None), (2.0, 0.0), (2.0, 1.0), (2.0, -3.0)])
def test_impossible_parameters_are_refused(gamma: float, alpha: float | None) -> None:
    """A negative gamma or an alpha outside (0, 1) is an error that names the value."""
    with pytest.raises(ValueError, match=f"got {alpha if gamma >= 0 else gamma}"):
        settle_loss("focal", gamma=gamma, alpha=alpha, frauds=1, legitimate=1)


@pytest.mark.parametrize("beta", [0.0, -0.5, 1.5])
def test_an_impossible_share_of_negatives_is_refused(beta: float) -> None:
    """The share of kept negatives lies in (0, 1]."""
    with pytest.raises(ValueError, match="share of legitimate rows"):
        recover_logit(torch.zeros(1), gamma=2.0, alpha=None, beta=beta)


def exact_recovery(z: float, gamma: float, alpha: float | None, beta: float) -> float:
    """The closed form in Python's own floats, term by term."""

    def softness(value: float) -> float:
        return (max(value, 0.0) + math.log1p(math.exp(-abs(value)))) * math.exp(-value)

    weights = 0.0 if alpha is None else math.log((1 - alpha) / alpha)
    return (
        (gamma + 1) * z + math.log1p(gamma * softness(z)) - math.log1p(gamma * softness(-z)) + weights + math.log(beta)
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("alpha", "beta"), [(None, 1.0), (0.25, 1.0), (0.75, 0.2), (0.999, 0.05)])
def test_the_recovered_logit_is_accurate_in_float32(gamma: float, alpha: float | None, beta: float) -> None:
    """Within 2e-5 of double precision for every |logit| up to 30 (scaled by the slope beyond gamma 2)."""
    z = torch.linspace(-30, 30, 6001, dtype=torch.float32)
    ours = recover_logit(z, gamma=gamma, alpha=alpha, beta=beta)
    exact = torch.tensor([exact_recovery(float(v), gamma, alpha, beta) for v in z], dtype=torch.float64)
    tolerance = 2e-5 * max(1.0, (gamma + 1) / 3)
    assert float((ours.double() - exact).abs().max()) <= tolerance


@given(
    low=st.floats(-59, 58),
    step=st.floats(1e-3, 1),
    gamma=st.sampled_from(GAMMAS),
    alpha=st.sampled_from((None, 0.01, 0.25, 0.999)),
    beta=st.sampled_from((1.0, 0.2, 0.01)),
)
def test_a_larger_logit_always_recovers_a_larger_probability(
    low: float, step: float, gamma: float, alpha: float | None, beta: float
) -> None:
    """The inverse is strictly increasing, so ranking is unchanged."""
    pair = torch.tensor([low, low + step], dtype=torch.float32)
    recovered = recover_logit(pair, gamma=gamma, alpha=alpha, beta=beta)
    assert float(recovered[1]) > float(recovered[0])


@given(
    posterior=st.floats(1e-6, 0.999),
    gamma=st.sampled_from(GAMMAS),
    alpha=st.sampled_from((None, 0.25, 0.75)),
    beta=st.sampled_from((1.0, 0.2)),
)
def test_recovery_inverts_the_minimiser_of_the_expected_loss(
    posterior: float, gamma: float, alpha: float | None, beta: float
) -> None:
    """At the logit whose recovered probability is q, the gradient of the expected loss under q is zero."""
    z = stationary_bias(posterior, gamma=gamma, alpha=alpha, beta=beta)
    pull = posterior * gradient(z, 1.0, gamma, alpha, torch.float64)
    push = beta * (1 - posterior) * gradient(z, 0.0, gamma, alpha, torch.float64)
    assert pull + push == pytest.approx(0.0, abs=1e-9 * max(abs(pull), abs(push), 1e-12))


@given(
    answer=st.floats(1e-6, 0.999),
    gamma=st.sampled_from(GAMMAS),
    alpha=st.sampled_from((None, 0.25, 0.75)),
)
def test_a_teachers_answer_is_what_the_recovered_probability_comes_to(
    answer: float, gamma: float, alpha: float | None
) -> None:
    """Given a probability instead of a label, the loss is smallest at the logit that stands for that probability."""
    z = torch.tensor([stationary_bias(answer, gamma=gamma, alpha=alpha)], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([answer], dtype=torch.float64)
    (slope,) = torch.autograd.grad(focal_loss(z, target, gamma=gamma, alpha=alpha), z)
    pull = abs(answer * gradient(float(z.detach()[0]), 1.0, gamma, alpha, torch.float64))
    assert float(slope[0]) == pytest.approx(0.0, abs=1e-9 * max(pull, 1e-12))


def test_the_bias_starts_at_the_focal_stationary_point() -> None:
    """-2.94 for gamma 2, alpha 0.25 and a prior of one in a thousand, where logit(prior) is -6.91."""
    assert stationary_bias(0.001, gamma=2.0, alpha=0.25) == pytest.approx(-2.94, abs=5e-3)
    assert stationary_bias(0.001, gamma=0.0, alpha=None) == pytest.approx(math.log(0.001 / 0.999))


def test_uncorrected_focal_output_overstates_a_rare_fraud_fifty_fold() -> None:
    """For gamma 2 and alpha 0.25 a true 0.1 % is shown as 5.03 %."""
    shown = 1 / (1 + math.exp(-stationary_bias(0.001, gamma=2.0, alpha=0.25)))
    assert shown == pytest.approx(0.0503, abs=1e-4)
