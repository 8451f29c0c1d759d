"""The samplers, and that what each did to the odds of fraud is undone, or said not to be."""

import re
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from service.errors import DataInvalid
from training.config import (
    AllRowsConfig,
    LossConfig,
    SamplerConfig,
    SmoteConfig,
    UndersampleConfig,
)
from training.losses import Loss, LossName, recover_logit, settle_loss
from training.network import Codes, Floats, Mask, NumericEncoding
from training.samplers import Correction, Sample, correction, draw_sample, synthetic_frauds

LOSSES = (
    LossConfig(name="bce"),
    LossConfig(name="weighted_bce"),
    *(LossConfig(gamma=gamma, alpha=None) for gamma in (0.5, 2.0, 5.0)),
    *(LossConfig(gamma=2.0, alpha=alpha) for alpha in (0.25, 0.75)),
    *(LossConfig(gamma=gamma, alpha="balanced") for gamma in (1.0, 3.0)),
    *(LossConfig(gamma=gamma, alpha="class_weights") for gamma in (1.0, 3.0)),
)
EXACT: tuple[SamplerConfig, ...] = (
    AllRowsConfig(),
    UndersampleConfig(legitimate_kept=0.3),
    UndersampleConfig(legitimate_kept=0.02),
    UndersampleConfig(legitimate_kept=0.3, drawn="once"),
)
POSTERIORS = torch.cat([torch.logspace(-6, -1, 26), torch.linspace(0.1, 0.999, 26)]).double()
FRAUDS, LEGITIMATE = 40, 3_960


def rows(seed: int = 5) -> tuple[Floats, Codes, Mask]:
    """40 frauds in 4,000 rows; feature 1 is missing now and then, feature 2 in every fraud, feature 3 never varies."""
    draws = np.random.default_rng(seed)
    labels = np.zeros(FRAUDS + LEGITIMATE, np.bool_)
    labels[draws.choice(len(labels), FRAUDS, replace=False)] = True
    numeric = np.exp(draws.normal(0, 1, (len(labels), 4)) + labels[:, None]).astype(np.float32)
    numeric[draws.random(len(labels)) < 0.3, 1] = np.nan
    numeric[labels, 2] = np.nan
    numeric[:, 3] = 7.0
    categorical = np.stack([draws.integers(-1, 3, len(labels)), np.where(labels, 500, 2)], axis=1)
    return numeric, categorical, labels


def settle(loss: LossConfig, sampler: SamplerConfig) -> tuple[Loss, Sample]:
    """A pair with its numbers settled on the same rows, as the training loop does it."""
    sample = draw_sample(sampler, *rows(), np.random.default_rng(3))
    settled = settle_loss(
        loss.name, gamma=loss.gamma, alpha=loss.alpha, frauds=sample.frauds, legitimate=sample.legitimate
    )
    return settled, sample


def minimiser(loss: Loss, kept: float, posterior: Tensor) -> Tensor:
    """The logits of least expected loss where fraud has these posteriors and a share of the legitimate is shown.

    By halving between the signs of autograd's gradient, so that nothing of the closed form is used.
    """
    low, high = torch.full_like(posterior, -59.0), torch.full_like(posterior, 59.0)
    ones, zeros = torch.ones_like(posterior), torch.zeros_like(posterior)
    for _ in range(80):
        middle = ((low + high) / 2).requires_grad_()
        (pull,), (push,) = (torch.autograd.grad(loss(middle, targets), middle) for targets in (ones, zeros))
        ascends = posterior * pull + kept * (1 - posterior) * push > 0
        middle = middle.detach()
        low, high = torch.where(ascends, low, middle), torch.where(ascends, middle, high)
    return (low + high) / 2


@pytest.mark.parametrize("sampler", EXACT, ids=repr)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_every_exact_inverse_returns_the_posterior_at_the_population_minimiser(
    loss: LossConfig, sampler: SamplerConfig
) -> None:
    """Over posteriors from one in a million to .999, in float64, to within 1e-6 of the posterior itself."""
    settled, sample = settle(loss, sampler)
    undo = correction(settled, sample)
    assert undo.inexact is None
    kept = sample.legitimate / LEGITIMATE
    recovered = torch.sigmoid(undo(minimiser(settled, kept, POSTERIORS)))
    torch.testing.assert_close(recovered, POSTERIORS, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_without_the_sampler_s_part_the_posterior_would_be_wrong(loss: LossConfig) -> None:
    """At a fiftieth of the legitimate rows the odds come out fifty times too high, so the test above can fail."""
    settled, sample = settle(loss, UndersampleConfig(legitimate_kept=0.02))
    assert sample.beta == pytest.approx(0.02, rel=0.02)
    at = minimiser(settled, sample.beta, POSTERIORS)
    blind = recover_logit(at, gamma=settled.gamma, alpha=settled.alpha, beta=1.0)
    torch.testing.assert_close(torch.exp(blind - torch.logit(POSTERIORS)), torch.full_like(blind, 1 / sample.beta))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_smote_has_no_exact_inverse_and_says_why(loss: LossConfig) -> None:
    """Its correction undoes the loss and the number of frauds, and gives the reason why that is not all."""
    settled, sample = settle(loss, SmoteConfig(frauds_per_legitimate=0.1))
    undo = correction(settled, sample)
    assert undo == Correction(settled.gamma, settled.alpha, FRAUDS / 396, sample.inexact)
    assert undo.inexact is not None
    assert "SMOTE" in undo.inexact


def test_after_smote_fraud_is_expected_where_there_was_none() -> None:
    """Between two kinds of fraud, where no fraud ever was, the shifted odds are still those of one kind's own place."""
    draws = np.random.default_rng(0)
    at = np.concatenate([np.linspace(0, 3, 3_000), 0.5 + 0.1 * draws.random(20), 2.5 + 0.1 * draws.random(20)])
    labels = np.arange(len(at)) >= 3_000
    numeric = np.expm1(at)[:, None].astype(np.float32)
    sample = draw_sample(
        SmoteConfig(frauds_per_legitimate=0.5, neighbours=39), numeric, np.zeros((len(at), 0), np.int64), labels, draws
    )

    def odds(low: float, high: float) -> float:
        inside = (np.log1p(sample.numeric[:, 0]) >= low) & (np.log1p(sample.numeric[:, 0]) < high)
        return sample.beta * float(sample.labels[inside].sum() / (~sample.labels[inside]).sum())

    assert not labels[(at >= 1) & (at < 2)].any()
    assert odds(1, 2) > 0.005
    assert odds(0.4, 0.7) < 0.7 * 20 / 300


def test_an_epoch_shows_all_frauds_and_the_share_of_the_others() -> None:
    """Drawn anew, two epochs show different legitimate rows; drawn once, the same; none twice."""
    _, categorical, labels = rows()
    named = np.arange(len(labels), dtype=np.float32)[:, None]
    shown: dict[str, list[set[int]]] = {}
    for drawn in ("each_epoch", "once"):
        draws = np.random.default_rng(1)
        config = TypeAdapter[SamplerConfig](SamplerConfig).validate_python(
            {"name": "undersample", "legitimate_kept": 0.25, "drawn": drawn}
        )
        sample = draw_sample(config, named, categorical, labels, draws)
        epochs = [sample.numeric[sample.epoch(draws), 0].astype(int) for _ in range(2)]
        shown[drawn] = [set(epoch.tolist()) for epoch in epochs]
        for epoch in epochs:
            assert len(epoch) == len(set(epoch.tolist())) == FRAUDS + LEGITIMATE // 4
            assert labels[epoch].sum() == FRAUDS
        assert sample.beta == 0.25
    assert shown["each_epoch"][0] != shown["each_epoch"][1]
    assert shown["once"][0] == shown["once"][1]


def test_smote_keeps_every_row_and_adds_frauds_up_to_the_ratio() -> None:
    """The rows of the fit come first and are untouched; what follows are frauds."""
    numeric, categorical, labels = rows()
    sample = draw_sample(SmoteConfig(frauds_per_legitimate=0.1), numeric, categorical, labels, np.random.default_rng(2))
    assert (sample.frauds, sample.legitimate) == (396, LEGITIMATE)
    np.testing.assert_array_equal(sample.numeric[: len(labels)], numeric)
    np.testing.assert_array_equal(sample.categorical[: len(labels)], categorical)
    np.testing.assert_array_equal(sample.labels[: len(labels)], labels)
    assert sample.labels[len(labels) :].all()
    assert (sample.numeric.dtype.name, sample.categorical.dtype.name) == ("float32", "int64")


def test_invented_frauds_lie_between_frauds_as_the_network_sees_them() -> None:
    """Inside the box of the real ones, missing where all of them are, and with codes that they have."""
    numeric, categorical, labels = rows()
    made, codes = synthetic_frauds(
        numeric, categorical, labels, count=500, neighbours=5, draws=np.random.default_rng(4)
    )
    assert (made.shape, codes.shape) == ((500, 4), (500, 2))
    assert np.isnan(made[:, 2]).all()
    assert 0 < np.isnan(made[:, 1]).sum() < 500
    np.testing.assert_allclose(made[:, 3], 7.0, rtol=1e-6)
    real = numeric[labels, 0]
    assert made[:, 0].min() >= real.min() * (1 - 1e-5)
    assert made[:, 0].max() <= real.max() * (1 + 1e-5)
    assert len(np.unique(made[:, 0])) > 450
    assert set(codes[:, 0].tolist()) <= set(categorical[labels, 0].tolist())
    assert (codes[:, 1] == 500).all()


def test_smote_is_that_of_imbalanced_learn_over_all_rows() -> None:
    """Leaving out the legitimate rows, which it does not look at, changes no number."""
    from imblearn.over_sampling import SMOTENC  # noqa: PLC0415 - loads scikit-learn

    numeric, categorical, labels = rows()
    made, codes = synthetic_frauds(numeric, categorical, labels, count=60, neighbours=5, draws=np.random.default_rng(6))
    encoding = NumericEncoding.for_data(numeric, bins=0)
    table = np.hstack([encoding(torch.from_numpy(numeric)).numpy(), categorical]).astype(np.float64)
    seed = int(np.random.default_rng(6).integers(2**31))
    oversampler = SMOTENC(list(range(4, 10)), sampling_strategy={1: FRAUDS + 60}, k_neighbors=5, random_state=seed)
    expected = oversampler.fit_resample(table, labels.astype(int))[0][len(labels) :]
    again = encoding(torch.from_numpy(made)).numpy()
    present = expected[:, 4:8] == 0
    np.testing.assert_allclose(again[:, :4][present], expected[:, :4][present], atol=1e-5)
    np.testing.assert_array_equal(again[:, 4:], expected[:, 4:8])
    np.testing.assert_array_equal(codes, expected[:, 8:])


def test_many_invented_frauds_are_made_in_parts_that_differ() -> None:
    """Beyond what fits one call, the next call draws other numbers."""
    numeric, categorical, labels = rows()
    made, _ = synthetic_frauds(numeric, categorical, labels, count=5_000, neighbours=5, draws=np.random.default_rng(4))
    assert len(np.unique(made[:, 0])) > 4_900


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SmoteConfig(neighbours=40), "between 40 neighbours needs more frauds than that, got 40"),
        (SmoteConfig(frauds_per_legitimate=0.01), "nothing to add: 40 frauds among 3960"),
    ],
)
def test_smote_refuses_what_it_cannot_do(config: SmoteConfig, message: str) -> None:
    """Too few frauds for the neighbours, or frauds enough already, is an error in the data that names the counts."""
    with pytest.raises(DataInvalid, match=message):
        draw_sample(config, *rows(), np.random.default_rng(0))


@pytest.mark.parametrize(
    "document",
    [
        {"name": "none", "legitimate_kept": 0.5},
        {"name": "undersample", "legitimate_kept": 0.0},
        {"name": "smote", "legitimate_kept": 0.5},
        {"name": "tomek"},
        {},
    ],
)
def test_a_sampler_takes_its_own_options_only(document: dict[str, object]) -> None:
    """An option of another sampler, a share of nothing and an unknown name are errors, not silently another model."""
    with pytest.raises(ValidationError):
        TypeAdapter[SamplerConfig](SamplerConfig).validate_python(document)


def documented(undo: Correction) -> str:
    """A correction as the page writes it."""
    shape = "F(z)" if undo.gamma > 0 else "z"
    formula = shape + (" + A" if undo.alpha is not None else "") + (" + log β" if undo.beta < 1 else "")
    return formula if undo.inexact is None else f"none; {formula} is applied"


def test_the_documented_table_has_every_pair_and_its_inverse() -> None:
    """docs/losses.md has one row per loss and sampler, with its correction or the word that it has none."""
    page = (Path(__file__).parent.parent.parent / "docs" / "losses.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)`[^|]*\| `(\w+)` \| ([^|]+) \|$", page, flags=re.MULTILINE)
    samplers: tuple[SamplerConfig, ...] = (AllRowsConfig(), UndersampleConfig(), SmoteConfig())
    assert found == [
        (loss, sampler.name, documented(correction(*settle(LossConfig(name=loss), sampler))))
        for loss, sampler in product(get_args(LossName), samplers)
    ]
