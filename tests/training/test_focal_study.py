"""The focal study: which rows it fits, what it measures on a fit, and that it goes on where it stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.errors import DataInvalid
from training.__main__ import app
from training.config import AllRowsConfig, NetworkConfig
from training.examples import Examples
from training.focal_study import (
    COMMON,
    FPRS,
    LOSSES,
    RUNS_FILE,
    Run,
    Shares,
    StudyConfig,
    cut,
    run_study,
    shares,
    thin,
)
from training.focal_tables import FIGURE_HEADINGS, SHARE_HEADINGS, TABLES_FILE, markdown, tables
from training.hard_cases import hard_recall
from training.losses import settle_loss
from training.metrics import average_precision
from training.network import raw_logits
from training.optimise import Part, train
from training.simulate import SimulationConfig, write_simulation
from training.split import DAY_MS

START = datetime(2026, 1, 1, tzinfo=UTC)
TEST_FROM = START + timedelta(days=9)
DAYS, ROWS_A_DAY = 11, 400
ENTITIES = (slice(0, 2),)
NETWORK = NetworkConfig(width=8, depth=1, batch=256, epochs=2, average_decay=0.9)
STUDY = StudyConfig(NETWORK, (TEST_FROM,), fit_days=4, week_days=2, gap_days=1, one_in=(10, 40), seeds=1)


def examples(seed: int = 7) -> Examples:
    """Eleven days with a row every few minutes and about 8 % fraud that two features give away, reported in a day."""
    draws = np.random.default_rng(seed)
    rows = DAYS * ROWS_A_DAY
    times = round(START.timestamp() * 1000) + np.arange(rows) * (DAY_MS // ROWS_A_DAY)
    numeric = np.exp(draws.normal(0, 1, (rows, 3))).astype(np.float32)
    log_odds = 1.5 * np.log(numeric[:, 0]) + np.log(numeric[:, 2]) - 3.5
    labels = draws.random(rows) < 1 / (1 + np.exp(-log_odds))
    return Examples(
        numeric=numeric,
        categorical=draws.integers(0, 3, (rows, 1)),
        labels=labels,
        reported_at_ms=np.where(labels, times + DAY_MS, -1),
        event_time_ms=times,
        amount_minor=np.full(rows, 100),
        card=np.arange(rows),
        typology=np.zeros(rows, np.int32),
    )


EXAMPLES = examples()


def studied(out: Path, config: StudyConfig = STUDY, tick: Callable[[int], None] = lambda _: None) -> list[Run]:
    """The study of the examples."""
    return run_study(EXAMPLES, ENTITIES, config, out, tick=tick)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """A study from beginning to end, and where it stands."""
    out = tmp_path_factory.mktemp("study")
    return out, studied(out)


def test_the_parts_lie_a_label_delay_apart() -> None:
    """Four days of fitting, one of delay, two of tuning, one of delay, two of testing, and nothing else."""
    week = cut(EXAMPLES, TEST_FROM, STUDY)
    for part, first_day, days in ((week.fit, 1, 4), (week.tune, 6, 2), (week.test, 9, 2)):
        rows = slice(first_day * ROWS_A_DAY, (first_day + days) * ROWS_A_DAY)
        assert part.numeric.tobytes() == EXAMPLES.numeric[rows].tobytes()
        assert part.labels.tolist() == EXAMPLES.labels[rows].tolist()
    assert week.hard.sum() == (week.test.labels.sum() + 1) // 2


def test_a_fraud_that_is_reported_too_late_is_legitimate_except_in_the_test() -> None:
    """Reported after 2.5 days, only frauds of the first half day of tuning are known when the test week begins."""
    reported_at_ms = np.where(EXAMPLES.labels, EXAMPLES.event_time_ms + 5 * DAY_MS // 2, -1)
    late, prompt = (
        cut(replace(EXAMPLES, reported_at_ms=reported_at_ms), TEST_FROM, STUDY),
        cut(EXAMPLES, TEST_FROM, STUDY),
    )
    half_a_day = ROWS_A_DAY // 2
    assert late.fit.labels.tolist() == prompt.fit.labels.tolist()
    assert late.tune.labels[:half_a_day].tolist() == prompt.tune.labels[:half_a_day].tolist()
    assert prompt.tune.labels[half_a_day:].any()
    assert not late.tune.labels[half_a_day:].any()
    assert late.test.labels.tolist() == prompt.test.labels.tolist()


def test_a_part_without_fraud_is_named() -> None:
    """Frauds that were never reported leave the fit rows without one; the message says which rows these are."""
    silent = replace(EXAMPLES, reported_at_ms=np.full(len(EXAMPLES.labels), -1))
    with pytest.raises(DataInvalid, match=r"the fit rows from 2026-01-02T00:00:00\.000 on are 1600 with 0 frauds"):
        cut(silent, TEST_FROM, STUDY)


@pytest.mark.parametrize(
    ("days", "needed"),
    [(-2, "2025-12-31 to 2026-01-09"), (1, "2026-01-03 to 2026-01-12"), (2, "2026-01-04 to 2026-01-13")],
)
def test_a_week_that_the_data_do_not_reach_is_refused(days: int, needed: str) -> None:
    """A shorter fit or test than was asked for would pass for the whole one."""
    with pytest.raises(DataInvalid, match=f"needs data from {needed}, got 2026-01-01 to 2026-01-11"):
        cut(EXAMPLES, TEST_FROM + timedelta(days=days), STUDY)


def test_thinning_leaves_every_legitimate_row_and_the_asked_for_frauds() -> None:
    """One fraud in 40 legitimate rows, to the nearest fraud, in the order of time."""
    part = cut(EXAMPLES, TEST_FROM, STUDY).fit
    legitimate = int((~part.labels).sum())
    left = thin(part, one_in=40, seed=0)
    assert left.numeric[~left.labels].tobytes() == part.numeric[~part.labels].tobytes()
    assert left.labels.sum() == round(legitimate / 40)
    assert is_part_of(left, part)


def test_the_rarer_frauds_are_among_the_less_rare_ones() -> None:
    """With one seed, what is left at 1 in 80 is left at 1 in 40; another seed leaves others."""
    part = cut(EXAMPLES, TEST_FROM, STUDY).fit
    left = thin(part, one_in=40, seed=0)
    assert is_part_of(thin(part, one_in=80, seed=0), left)
    assert not is_part_of(thin(part, one_in=80, seed=1), left)


def test_frauds_that_are_rarer_already_are_all_kept() -> None:
    """Thinning never invents a fraud."""
    part = cut(EXAMPLES, TEST_FROM, STUDY).fit
    assert thin(part, one_in=2, seed=0).numeric.tobytes() == part.numeric.tobytes()


def test_a_rarity_beyond_the_rows_is_refused() -> None:
    """One in a million needs half a million legitimate rows at least, to round up to a fraud."""
    with pytest.raises(DataInvalid, match="one fraud in 1000000 needs"):
        thin(cut(EXAMPLES, TEST_FROM, STUDY).fit, one_in=1_000_000, seed=0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_shares_are_those_of_autograd(name: str) -> None:
    """Shares of easy and of all legitimate rows add up autograd's own gradients; rows below .1 are counted."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1_000, generator=generator, dtype=torch.float64).mul(2).sub(2)
    targets = (torch.rand(1_000, generator=generator) < 0.05).float()
    of = LOSSES[name]
    loss = settle_loss(of.name, gamma=of.gamma, alpha=of.alpha, frauds=50, legitimate=950)
    traced = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(traced, targets), traced)
    sizes, legitimate = slope.abs() / slope.abs().sum(), targets == 0
    below = legitimate & (torch.sigmoid(logits) < 0.1)
    ninth_tenth = logits[legitimate].sort().values[int(0.9 * int(legitimate.sum()))]
    found = shares(logits, targets, loss)
    assert found.below == pytest.approx(float(sizes[below].sum()), rel=1e-6)
    assert found.easiest == pytest.approx(float(sizes[legitimate & (logits < ninth_tenth)].sum()), rel=1e-6)
    assert found.legitimate == pytest.approx(float(sizes[legitimate].sum()), rel=1e-6)
    assert found.rows_below == pytest.approx(int(below.sum()) / int(legitimate.sum()))


def test_at_its_own_start_every_loss_has_half_of_its_gradient_in_each_class(whole: tuple[Path, list[Run]]) -> None:
    """That is what stationary means; nine tenths of the half are the easiest 90 %, to within a row."""
    for run in whole[1]:
        assert run.own_start.legitimate == pytest.approx(0.5, abs=1e-6)
        assert run.own_start.easiest == pytest.approx(0.45, abs=1e-3)
        assert run.own_start.below in {0.0, run.own_start.legitimate}


def test_at_the_prior_the_losses_start_apart(whole: tuple[Path, list[Run]]) -> None:
    """There cross-entropy is balanced, class weights leave the legitimate rows their prior, and focal still less."""
    for _, runs in by_rarity(whole[1]):
        at = {run.loss: run.common_start.legitimate for run in runs}
        prior = runs[0].frauds / (runs[0].frauds + runs[0].legitimate)
        assert at["bce"] == pytest.approx(0.5, abs=1e-6)
        assert at["weighted bce"] == pytest.approx(prior, rel=1e-6)
        assert at["focal γ3"] < at["focal γ2"] < at["focal γ1"] < at["bce"]


def test_a_run_is_what_its_network_says(whole: tuple[Path, list[Run]]) -> None:
    """Fitting one of them again by hand gives every figure of the run: the network, its logits, the test week."""
    run = next(run for run in whole[1] if run.key == (TEST_FROM.isoformat(), 40, 0, "focal γ2 α.75"))
    week = cut(EXAMPLES, TEST_FROM, STUDY)
    fit = thin(week.fit, one_in=40, seed=0)
    trained = train(
        fit, week.tune, NETWORK, LOSSES[run.loss], AllRowsConfig(),
        seed=0, threads=1, entity_features=ENTITIES, tick=lambda: None,
    )  # fmt: skip
    assert run.tune_average_precisions == trained.average_precisions
    assert run.tune_average_precisions[run.best_epoch - 1] == max(run.tune_average_precisions)
    scores = raw_logits(trained.network, week.test.numeric, week.test.categorical)
    assert run.average_precision == average_precision(week.test.labels, scores)
    for name, fpr in FPRS.items():
        assert run.hard_recall[name] == hard_recall(week.test.labels, scores, week.hard, fpr)
        assert run.hard_recall[name] <= run.recall[name]
    logits = torch.from_numpy(raw_logits(trained.network, fit.numeric, fit.categorical))
    targets = torch.from_numpy(fit.labels.astype(np.float32))
    assert run.at_trained[run.loss] == shares(logits, targets, trained.loss)


def test_one_network_serves_all_losses_as_the_common_state(whole: tuple[Path, list[Run]]) -> None:
    """At the logits of one run all losses see the same rows below .1, and each spends a share of its own."""
    for run in whole[1]:
        assert set(run.at_trained) == set(LOSSES)
        assert len({at.rows_below for at in run.at_trained.values()}) == 1
        assert len({at.legitimate for at in run.at_trained.values()}) == len(LOSSES)


def test_a_study_goes_on_where_it_was_interrupted(whole: tuple[Path, list[Run]], tmp_path: Path) -> None:
    """Stopped after five runs, in the middle of writing a sixth, it ends with the bytes of an uninterrupted one."""

    def stop_after_five(count: int) -> None:
        if count and len((tmp_path / RUNS_FILE).read_text(encoding="utf-8").splitlines()) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studied(tmp_path, tick=stop_after_five)
    with (tmp_path / RUNS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"test_from": "2026-01')
    told: list[int] = []
    assert studied(tmp_path, tick=told.append) == whole[1]
    assert told == [5, *[1] * (STUDY.runs - 5)]
    assert (tmp_path / RUNS_FILE).read_bytes() == (whole[0] / RUNS_FILE).read_bytes()


def test_a_study_that_is_asked_for_less_fits_nothing(whole: tuple[Path, list[Run]]) -> None:
    """What stands there is read back as it was measured."""
    told: list[int] = []
    runs = studied(whole[0], replace(STUDY, one_in=(40,)), told.append)
    assert told == [len(LOSSES)]
    assert runs == [run for run in whole[1] if run.one_in == 40]


@pytest.mark.parametrize(
    ("config", "data", "named"),
    [
        (replace(STUDY, fit_days=3), EXAMPLES, "other fit_days;"),
        (replace(STUDY, network=NETWORK.model_copy(update={"width": 9})), EXAMPLES, "other network;"),
        (STUDY, examples(seed=8), "other data;"),
    ],
)
def test_runs_of_another_study_are_not_mixed_in(
    whole: tuple[Path, list[Run]], config: StudyConfig, data: Examples, named: str
) -> None:
    """A directory belongs to one data set and one network; the message says what differs."""
    with pytest.raises(DataInvalid, match=named):
        run_study(data, ENTITIES, config, whole[0], tick=lambda _: None)


def test_the_tables_hold_means_and_paired_differences() -> None:
    """Two seeds of two figures each: the mean, and the mean, least and largest of what is paired by seed."""
    runs = [
        made(loss, seed, figure + (0.1 * seed) + (0.02 * seed if loss != COMMON else 0.0))
        for loss, figure in zip(LOSSES, (0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6), strict=True)
        for seed in (0, 1)
    ]
    spent, bought = tables(runs)
    assert bought.title == "What it buys, 1 fraud in 1,000 legitimate rows (3 frauds; fits of each loss: 2)"
    assert list(bought.rows[0]) == ["bce", "0.5500", "", "0.550", "0.550", "0.275", "0.275", "", "2.0"]
    assert bought.rows[1][:3] == ["weighted bce", "0.4600", "-0.0900 [-0.1000, -0.0800]"]
    assert bought.rows[1][7] == "-0.0450 [-0.0500, -0.0400]"
    assert spent.rows[2] == [
        "focal γ1",
        "0.500 / 0.450",
        "0 / 0.450",
        "2e-05 / 0.020",
        "2e-05 / 0.020",
        "0.400",
        "0.900",
    ]


def test_a_difference_of_one_pair_has_no_brackets() -> None:
    """A range of one value would look like certainty."""
    bought = tables([made(loss, 0, 0.5) for loss in LOSSES])[1]
    assert bought.rows[1][2] == bought.rows[1][7] == "+0.0000"


def test_the_markdown_has_a_cell_under_every_heading() -> None:
    """Each line of a table has as many cells as its headings."""
    sheets = tables([made(loss, 0, 0.5) for loss in LOSSES])
    lines = [line for line in markdown(sheets).splitlines() if line.startswith("|")]
    share_lines, figure_lines = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert len(lines) == 2 * (2 + len(LOSSES))
    assert {line.count("|") - 1 for line in share_lines} == {len(SHARE_HEADINGS)}
    assert {line.count("|") - 1 for line in figure_lines} == {len(FIGURE_HEADINGS)}


def test_the_command_measures_a_file_and_leaves_its_tables(tmp_path: Path) -> None:
    """From a Parquet file and a configuration to the runs and the tables, and a second time from the runs alone."""
    data, out = tmp_path / "data.parquet", tmp_path / "study"
    write_simulation(SimulationConfig(transactions=20_000, seed=11, start=START, days=36, prevalence=0.02), data)
    config = tmp_path / "config.yaml"
    currencies = Path(__file__).parents[2] / "training" / "configs" / "currencies.yaml"
    (tmp_path / "features.yaml").write_text(FEATURES)
    config.write_text(
        f"{{name: s, version: '1', features: features.yaml, currencies: {currencies}, label_delay_days: 3, "
        "network: {width: 4, depth: 1, epochs: 1}}"
    )
    command = ["focal-study", "--data", str(data), "--config", str(config), "--out", str(out)]
    command += ["--test-from", "2026-01-29", "--fit-days", "10", "--one-in", "100", "--seeds", "1"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    runs = [json.loads(line) for line in (out / RUNS_FILE).read_text(encoding="utf-8").splitlines()]
    assert [run["loss"] for run in runs] == list(LOSSES)
    assert "Share of the gradient" in (out / TABLES_FILE).read_text(encoding="utf-8")
    written = (out / RUNS_FILE).read_bytes()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (out / RUNS_FILE).read_bytes() == written


FEATURES = """
version: 1
horizon: 90d
entities:
  card:
    key: card_id
    log: {compact_at: 16, keep: 4, ring: 64}
    windows: {d1: {length: 1d, hop: 1h, sums: [count, amount]}}
    features: {card_count_1d: {total: d1.count}}
transaction:
  features: {amount: {field: amount}, hour: {hour: true}}
  categories: [channel]
"""


def is_part_of(part: Part, whole: Part) -> bool:
    """Whether every fraud of one part is a fraud of the other, by its features."""
    frauds = {row.tobytes() for row in whole.numeric[whole.labels]}
    return all(row.tobytes() in frauds for row in part.numeric[part.labels])


def by_rarity(runs: list[Run]) -> list[tuple[int, list[Run]]]:
    """The runs of each rarity."""
    return [(one_in, [run for run in runs if run.one_in == one_in]) for one_in in dict.fromkeys(r.one_in for r in runs)]


def made(loss: str, seed: int, figure: float) -> Run:
    """A run with one figure for everything that a test reads, and half of it for hard frauds."""
    trained = Shares(below=2e-5, easiest=0.02, legitimate=0.4, rows_below=0.9)
    return Run(
        "2026-01-10T00:00:00+00:00", 1000, seed, loss, frauds=3, legitimate=3000,
        tune_average_precisions=(0.1, 0.3, 0.2),
        own_start=Shares(below=0.0, easiest=0.45, legitimate=0.5, rows_below=0.0),
        common_start=Shares(below=0.5, easiest=0.45, legitimate=0.5, rows_below=1.0),
        at_trained=dict.fromkeys(LOSSES, trained),
        average_precision=figure,
        recall=dict.fromkeys(FPRS, figure),
        hard_recall=dict.fromkeys(FPRS, figure / 2),
    )  # fmt: skip
