"""The contest: who takes part learns, what was interrupted goes on, and the figures are what they say."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from service.errors import DataInvalid
from training.__main__ import app
from training.comparison.boosting import BoostedTrees
from training.comparison.classical import Forest, LogisticRegression
from training.comparison.config import ContestConfig, read_contest
from training.comparison.contender import Choice, Contender, LogOdds, Point, Space
from training.comparison.contest import Contest, play
from training.comparison.networks import NetworkWithLoss
from training.comparison.plots import Row, dots
from training.comparison.processes import play_in_processes
from training.comparison.records import Records
from training.comparison.report import render
from training.comparison.search import Attempt, Validation, best_point, propose
from training.comparison.summary import difference, summarise
from training.config import FitConfig, LossConfig, NetworkConfig, TeacherConfig, UndersampleConfig, read_config
from training.examples import Examples
from training.metrics import average_precision
from training.optimise import Part
from training.split import DAY_MS

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
START_MS = int(datetime(2018, 6, 1, tzinfo=UTC).timestamp() * 1000)
NETWORK = NetworkWithLoss(
    NetworkConfig(width=16, depth=1, batch=256, epochs=4, average_decay=0.9),
    LossConfig(),
    UndersampleConfig(legitimate_kept=0.5),
    entity_features=(slice(0, 2),),
    threads=1,
    device="cpu",
)
CONTENDERS: dict[str, Contender] = {
    "network": NETWORK,
    "taught": replace(NETWORK, teacher=TeacherConfig(members=1, rounds=20, learning_rate=0.1, steps=8)),
    "lightgbm": BoostedTrees("lightgbm", 60, 1),
    "xgboost": BoostedTrees("xgboost", 60, 1),
    "catboost": BoostedTrees("catboost", 60, 1),
    "forest": Forest(1, trees=30),
    "logistic": LogisticRegression(),
}
STEPS = {"network": 4, "taught": 4, "forest": 1, "logistic": 1}  # the boosted trees: 100 rounds


def part(rows: int = 3_000, seed: int = 7) -> Part:
    """About 4 % fraud that two features and one code give away, with noise and missing values."""
    draws = np.random.default_rng(seed)
    numeric = np.exp(draws.normal(0, 1, (rows, 4))).astype(np.float32)
    categorical = draws.integers(0, 3, (rows, 1))
    log_odds = 1.5 * np.log(numeric[:, 0]) + np.log(numeric[:, 2]) + 1.5 * (categorical[:, 0] == 2) - 5
    labels = draws.random(rows) < 1 / (1 + np.exp(-log_odds))
    numeric[draws.random(rows) < 0.1, 1] = np.nan
    categorical[draws.random(rows) < 0.1] = -1
    return Part(numeric, categorical, labels)


def examples(days: int = 60, per_day: int = 80) -> Examples:
    """The same rows, evenly over some days, each fraud reported after three."""
    rows = part(days * per_day)
    times = START_MS + np.arange(days * per_day) * (DAY_MS // per_day)
    return Examples(
        numeric=rows.numeric,
        categorical=rows.categorical,
        labels=rows.labels,
        reported_at_ms=np.where(rows.labels, times + 3 * DAY_MS, -1),
        event_time_ms=times,
        amount_minor=np.full(len(times), 1_000),
        card=np.arange(len(times)) % 97,
        typology=np.zeros(len(times), np.int32),
    )


@pytest.mark.parametrize("name", CONTENDERS)
def test_everyone_learns_to_rank_later_rows(name: str) -> None:
    """With its defaults each contender's average precision on later rows is several times the prevalence."""
    contender, later = CONTENDERS[name], part(seed=8)
    said = contender.fit(part(), contender.defaults, steps=STEPS.get(name, 100), seed=7)
    log_odds = said(later.numeric, later.categorical)
    assert log_odds.dtype == np.float64
    assert average_precision(later.labels, log_odds) > 4 * later.labels.mean()


@pytest.mark.parametrize("name", CONTENDERS)
def test_log_odds_are_log_odds(name: str) -> None:
    """The probabilities of later rows add up to the frauds among them, to within a third."""
    contender, later = CONTENDERS[name], part(20_000, seed=8)
    said = contender.fit(part(), contender.defaults, steps=STEPS.get(name, 100), seed=7)
    probabilities = 1 / (1 + np.exp(-said(later.numeric, later.categorical)))
    assert probabilities.mean() == pytest.approx(later.labels.mean(), rel=1 / 3)


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_fit_goes_where_its_curve_went(name: str) -> None:
    """Fitted for as many steps as the curve's first point, or its last, it ranks the watched rows exactly as well."""
    contender, later = CONTENDERS[name], part(seed=8)
    points = list(contender.curve(part(), later, contender.defaults, seed=7))
    for point in (points[0], points[-1]):
        said = contender.fit(part(), contender.defaults, steps=point.steps, seed=7)
        reached = average_precision(later.labels, said(later.numeric, later.categorical))
        assert reached == pytest.approx(point.average_precision, abs=1e-12)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_proposal_can_be_fitted(name: str) -> None:
    """The search's proposals are settings that the library takes, and differ from the defaults."""
    contender = CONTENDERS[name]
    attempts = [Attempt(contender.defaults, 0.5)]
    for number in range(3):
        attempts.append(Attempt(propose(contender, attempts, seed=1), number / 10))
        assert math.isfinite(
            contender.fit(part(), attempts[-1].choice, steps=STEPS.get(name, 20), seed=1)(*_one_row())[0]
        )
    assert len({json.dumps(dict(attempt.choice)) for attempt in attempts}) == len(attempts)


def test_trees_see_a_rare_amount() -> None:
    """An amount that only frauds exceed, one row in two thousand, is found by each library under the defaults."""
    draws = np.random.default_rng(3)
    amounts = draws.uniform(0, 100, (20_000, 1)).astype(np.float32)
    labels = np.zeros(20_000, np.bool_)
    labels[:10] = True
    amounts[:10] = draws.uniform(100, 200, (10, 1))
    rows = Part(amounts, np.zeros((20_000, 0), np.int64), labels)
    for name in ("xgboost", "catboost", "lightgbm"):
        contender = CONTENDERS[name]
        smaller = {"min_data_in_leaf": 5} if name == "lightgbm" else {}
        said = contender.fit(rows, {**contender.defaults, **smaller}, steps=40, seed=1)(rows.numeric, rows.categorical)
        assert average_precision(labels, said) > 0.95, name


class Recorded:
    """A contender whose curves are given: first that of the first fold."""

    patience = 2

    def __init__(self, *curves: list[float]) -> None:
        self.defaults: Choice = {}
        self.given = iter(curves)
        self.asked = 0

    def space(self) -> Space:
        """Nothing to choose."""
        return {}

    def curve(self, fit: Part, watched: Part, choice: Choice, *, seed: int) -> Iterator[Point]:  # noqa: ARG002 - the protocol's
        """The next curve, ten steps a point."""
        for number, height in enumerate(next(self.given), start=1):
            self.asked += 1
            yield Point(10 * number, height)

    def fit(self, fit: Part, choice: Choice, *, steps: int, seed: int) -> LogOdds:
        """Is not asked for here."""
        raise NotImplementedError


def test_the_best_step_is_that_of_the_mean_curve() -> None:
    """Neither fold's own best counts: 20 steps are best on average, and growing ends two points later."""
    nobody = part(10)
    folds = [Validation(nobody, nobody)] * 2
    contender = Recorded([0.1, 0.5, 0.6, 0.1, 0.9], [0.6, 0.5, 0.1, 0.1, 0.9])
    assert best_point(contender, {}, folds, seed=1) == Point(20, 0.5)
    assert contender.asked == 8


def test_a_proposal_depends_on_nothing_but_what_was_tried() -> None:
    """The same attempts give the same proposal, beyond the ten random ones too; other attempts give another."""
    contender = CONTENDERS["xgboost"]
    attempts = [Attempt(contender.defaults, 0.5)]
    for number in range(12):
        attempts.append(Attempt(propose(contender, attempts, seed=1), 0.5 + number / 100))
    assert propose(contender, attempts, seed=1) == propose(contender, attempts, seed=1)
    worse = [Attempt(each.choice, -each.average_precision) for each in attempts]
    assert propose(contender, worse, seed=1) != propose(contender, attempts, seed=1)


def test_settings_outside_the_space_do_not_stop_a_search() -> None:
    """A network configured narrower than any proposal is tried as it is, and the search goes on beside it."""
    assert NETWORK.defaults["width"] == 16
    proposed = propose(NETWORK, [Attempt(NETWORK.defaults, 0.9)], seed=1)
    assert proposed["width"] != 16


def rules(**changes: object) -> ContestConfig:
    """A small contest: two folds to choose on, two to judge on, two scenarios, two seeds."""
    document = {
        "base": "handbook.yaml",
        "folds": {"name": "weeks", "count": 2, "test_days": 7, "gap_days": 3},
        "fit_days": [14],
        "prevalences": ["natural", 0.01],
        "seeds": [1, 2],
        "search": {"trials": 2, "most_rounds": 40},
        "baselines": ["bce"],
        "contenders": [
            {
                "kind": "network", "name": "bce", "tuned": False,
                "loss": {"name": "bce"}, "network": {"epochs": 2, "width": 8},
            },
            {"kind": "xgboost", "name": "xgboost"},
            {"kind": "logistic", "name": "logistic"},
        ],
    }  # fmt: skip
    return ContestConfig.model_validate({**document, **changes})


def base() -> FitConfig:
    return read_config(CONFIGS / "handbook.yaml")


def contest(config: ContestConfig | None = None) -> Contest:
    """The small contest on rows whose features are no real ones: nobody looks at their names."""
    return Contest(config or rules(), base(), base().read_plan(), examples())


class Interrupted(Exception):
    """Ctrl-C."""


def played(
    home: Path, config: ContestConfig | None = None, *, only: tuple[str, ...] = (), fits: int = 10_000
) -> Records:
    """The records of a contest that is interrupted after so many fits."""
    told = count(1)

    def tick(number: int) -> None:
        if number and next(told) > fits:
            raise Interrupted

    records = Records(home, contest(config).document())
    play(contest(config), records, only=only, clock=lambda: 0.0, tick=tick)
    return records


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The small contest, played to the end."""
    return played(tmp_path_factory.mktemp("whole"))


def test_everyone_is_tried_and_judged_as_often_as_configured(whole: Records) -> None:
    """Two scenarios, two folds, two seeds: eight runs each; two trials per scenario for who is tuned, else one."""
    tried = [trial.contender for trial in whole.trials]
    judged = [run.key.contender for run in whole.runs]
    assert {name: tried.count(name) for name in set(tried)} == {"bce": 2, "xgboost": 4, "logistic": 4}
    assert {name: judged.count(name) for name in set(judged)} == {"bce": 8, "xgboost": 8, "logistic": 8}


def test_progress_adds_up_to_what_was_announced(tmp_path: Path) -> None:
    """The bar is full when a contest ends, and again when it is called a second time."""
    for _ in range(2):
        told: list[int] = []
        records = Records(tmp_path, contest().document())
        play(contest(), records, only=("logistic",), clock=lambda: 0.0, tick=told.append)
        assert sum(told) == contest().fits(("logistic",)) == 2 * (2 * 2 + 2 * 2)


def test_an_interrupted_contest_ends_as_if_it_had_not_been(whole: Records, tmp_path: Path) -> None:
    """Stopped in a search, in the runs and within a line, and called again: the same trials, runs and scores."""
    for fits in (2, 6, 7):
        with pytest.raises(Interrupted):
            played(tmp_path, fits=fits)
    lines = (tmp_path / "runs.jsonl").read_bytes()
    (tmp_path / "runs.jsonl").write_bytes(lines[:-20])
    records = played(tmp_path)
    assert records.trials == whole.trials
    assert sorted(records.runs, key=str) == sorted(whole.runs, key=str)
    assert len(list((tmp_path / "scores").rglob("*.npy"))) == len(records.runs) + 2


def test_processes_play_the_same_contest(whole: Records, tmp_path: Path) -> None:
    """Two processes leave the trials and runs of one, but for the seconds they took, and tell of every fit."""
    told: list[int] = []
    play_in_processes(contest(), tmp_path, only=("logistic", "xgboost"), jobs=2, tick=told.append)
    records = Records(tmp_path, contest().document())
    assert sum(told) == contest().fits(("logistic", "xgboost"))
    expected = {run.key: (run.choice, run.steps, run.figures) for run in whole.runs if run.key.contender != "bce"}
    assert {run.key: (run.choice, run.steps, run.figures) for run in records.runs} == expected
    assert len(records.trials) == len([trial for trial in whole.trials if trial.contender != "bce"])


def test_what_differs_from_an_earlier_contest_is_named(tmp_path: Path) -> None:
    """Another number of trials and other settings of a contender are refused by path and value; new ones may join."""
    few = rules(contenders=[{"kind": "logistic", "name": "logistic"}], baselines=[])
    Records(tmp_path, contest(few).document())
    more = rules(contenders=[*few.model_dump()["contenders"], {"kind": "xgboost", "name": "xgboost"}], baselines=[])
    Records(tmp_path, contest(more).document())
    forest = rules(contenders=[{"kind": "forest", "name": "logistic"}], baselines=[], search={"trials": 3})
    with pytest.raises(DataInvalid, match=r"search\.trials was 2 and is 3") as refused:
        Records(tmp_path, contest(forest).document())
    assert 'contenders.logistic.kind was "logistic" and is "forest"' in str(refused.value)
    assert "xgboost" not in str(refused.value)


def test_other_data_are_refused(tmp_path: Path) -> None:
    """One changed label is another data set."""
    mine = contest()
    Records(tmp_path, mine.document())
    mine.examples.labels[0] ^= True
    with pytest.raises(DataInvalid, match=r"data\.sha256 was"):
        Records(tmp_path, mine.document())


def test_who_is_not_there_cannot_be_asked_for(tmp_path: Path) -> None:
    """A misspelt contender is an error with the names that there are."""
    with pytest.raises(DataInvalid, match="no contender is called xgbost; there are bce, xgboost, logistic"):
        played(tmp_path, only=("xgbost",))


def test_kept_scores_give_the_recorded_figures(whole: Records, tmp_path: Path) -> None:
    """From the scores and labels on disk the average precision of each run comes out again."""
    records = played(tmp_path, only=("logistic",))
    for run in records.runs:
        scores = np.load(tmp_path / "scores" / run.key.file)
        labels = np.load(tmp_path / "scores" / run.key.fold / "labels.npy")
        assert average_precision(labels, scores) == run.figures["average_precision"]
    assert [run for run in whole.runs if run.key.contender == "logistic"] == records.runs


def test_frauds_left_out_are_given_back_as_odds(whole: Records) -> None:
    """Fitted on a quarter of the frauds, the probabilities are as large as with all of them, not a quarter of that."""
    runs = [run for run in whole.runs if run.key.contender == "logistic"]
    of = {prevalence: [run for run in runs if run.key.prevalence == prevalence] for prevalence in ("natural", 0.01)}
    assert all(3 * few.frauds < many.frauds for few, many in zip(of[0.01], of["natural"], strict=True))
    mean = {
        prevalence: fmean(
            float(np.mean(1 / (1 + np.exp(-np.load(whole.home / "scores" / run.key.file))))) for run in some
        )
        for prevalence, some in of.items()
    }
    assert mean[0.01] == pytest.approx(mean["natural"], rel=1 / 2)


def test_a_paired_difference_equals_the_hand_computation() -> None:
    """Four pairs with gaps 1, 2, 3 and 6: mean 3, deviation √(14/3), t(3) 3.18245; what has no partner is left out."""
    ours = {("a", 1): 2.0, ("a", 2): 4.0, ("b", 1): 3.5, ("b", 2): 8.0, ("c", 1): 99.0}
    theirs = {("a", 1): 1.0, ("a", 2): 2.0, ("b", 1): 0.5, ("b", 2): 2.0}
    found = difference(ours, theirs)
    assert found is not None
    half = 3.182446 * math.sqrt(14 / 3) / 2
    assert (found.mean, found.pairs) == (3.0, 4)
    assert found.low == pytest.approx(3 - half)
    assert found.high == pytest.approx(3 + half)


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    """Nothing can be said of a spread that was not seen."""
    assert difference({("a", 1): 2.0}, {("a", 1): 1.5, ("b", 1): 1.0}) is not None
    one = difference({("a", 1): 2.0}, {("a", 1): 1.5, ("b", 1): 1.0})
    assert one is not None
    assert (one.mean, one.low, one.high, one.pairs) == (0.5, None, None, 1)
    assert difference({("a", 1): 2.0}, {("a", 2): 2.0}) is None


def test_the_summary_is_of_the_runs(whole: Records) -> None:
    """Means, pairs and the best boosted trees of each scenario follow from its own runs."""
    outcomes = summarise(rules(), whole.trials, whole.runs)
    assert [(each.fit_days, each.prevalence) for each in outcomes] == [(14, "natural"), (14, 0.01)]
    for outcome in outcomes:
        assert outcome.best_boosted == "xgboost"
        by_name = {each.contender: each for each in outcome.standings}
        assert {name: each.trials for name, each in by_name.items()} == {"bce": 0, "xgboost": 2, "logistic": 2}
        assert set(by_name["logistic"].differences) == {"bce", "xgboost"}
        assert set(by_name["bce"].differences) == {"xgboost"}
        gap = by_name["logistic"].differences["bce"]["roc_auc"]
        assert gap.pairs == 4
        means = [by_name[name].figures["roc_auc"].mean for name in ("logistic", "bce")]
        assert gap.mean == pytest.approx(means[0] - means[1])


def test_the_report_needs_nothing_else_and_holds_every_figure(whole: Records) -> None:
    """No script, no address; each contender's mean stands in it, for each scenario."""
    outcomes = summarise(rules(), whole.trials, whole.runs)
    page = render(outcomes, whole.runs, source="made up <rows>", command="python -m training compare")
    assert "made up &lt;rows&gt;" in page
    for outcome in outcomes:
        for standing in outcome.standings:
            assert f"{standing.figures['average_precision'].mean:.4f}<br>" in page
    assert not {"<script", "http://", "https://", "<link"} & {
        each for each in ("<script", "http://", "https://", "<link") if each in page
    }
    assert page == render(outcomes, whole.runs, source="made up <rows>", command="python -m training compare")


@pytest.mark.parametrize("value", [0.0, 0.5, -0.003])
def test_a_plot_shows_where_nothing_was_seen_to_vary(value: float) -> None:
    """One row, without interval, has an axis with at least two ticks."""
    drawn = dots([Row("one", value)], "figure", zero=False)
    assert drawn.count('text-anchor="middle"') >= 3
    assert "nan" not in drawn


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("compare*.yaml")), ids=lambda file: file.name)
def test_every_contest_that_is_shipped_can_be_read(file: Path) -> None:
    """A contest in training/configs names a base that is there and contenders that can be made."""
    config, fit = read_contest(file)
    assert config.contenders
    assert fit.read_plan().numeric


def test_the_command_leaves_a_summary_and_a_report(tmp_path: Path) -> None:
    """From a data set and a configuration to figures on the terminal, in JSON and in HTML; called again, the same."""
    data, file, out = tmp_path / "data.parquet", tmp_path / "contest.yaml", tmp_path / "out"
    simulated = ["simulate", "--out", str(data), "--transactions", "4000", "--days", "60", "--prevalence", "0.1"]
    assert CliRunner().invoke(app, simulated).exit_code == 0
    document = {
        "base": str(CONFIGS / "handbook.yaml"),
        "folds": {"name": "weeks", "count": 1, "test_days": 10, "gap_days": 7},
        "fit_days": [14],
        "seeds": [1],
        "search": {"trials": 1},
        "contenders": [{"kind": "logistic", "name": "logistic"}],
    }
    file.write_text(yaml.safe_dump(document))
    told = [
        CliRunner().invoke(app, ["compare", "--data", str(data), "--config", str(file), "--out", str(out)])
        for _ in range(2)
    ]
    assert [each.exit_code for each in told] == [0, 0], told[0].output
    assert told[0].stdout == told[1].stdout
    standing = json.loads((out / "summary.json").read_text())[0]["standings"][0]
    assert f"{standing['figures']['average_precision']['mean']:.4f}" in told[0].stdout
    assert "logistic" in (out / "report.html").read_text()


def test_a_misspelt_network_setting_is_named(tmp_path: Path) -> None:
    """An override that the network does not have stops the contest before anything is fitted."""
    document = rules().model_dump(mode="json")
    document["contenders"][0]["network"] = {"widht": 64}
    document["base"] = str(CONFIGS / "handbook.yaml")
    file = tmp_path / "contest.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(DataInvalid, match="widht"):
        read_contest(file)


def test_two_contenders_cannot_share_a_name() -> None:
    """Their runs would be taken for each other's."""
    twice = [{"kind": "forest", "name": "one"}, {"kind": "logistic", "name": "one"}]
    with pytest.raises(ValueError, match="two contenders are called one"):
        rules(contenders=twice, baselines=[])


def _one_row() -> tuple[np.ndarray, np.ndarray]:
    rows = part(1)
    return rows.numeric, rows.categorical
