"""The report and the model card, as a reader gets them: one file, readable, the same bytes for the same data."""

import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import Degraded, Figures, Segment
from service.errors import DataInvalid
from training.calibrators import LineMethod
from training.certificate import certify, compare_calibrators
from training.figures import CURVE_POINTS, percent, thin
from training.model_card import model_card
from training.report import Period, ReportData, render
from training.samplers import SMOTE_INEXACT

DAY_MS = 86_400_000
START_MS = 1_735_689_600_000  # 2025-01-01
VOID_TAGS = {"meta", "path", "use"}  # `path` and `use` close themselves in SVG


FIGURES = Figures(
    average_precision=0.7371,
    recall_at_fpr_0_001=0.6191,
    recall_at_fpr_0_005=0.6832,
    expected_calibration_error=0.00183,
    error_by_chance=0.00229,
    brier=0.004358,
)
SEGMENTS = (
    Segment(by="channel", name="pos", rows=6_226, frauds=63, expected_frauds=68.94, figures=FIGURES),
    Segment(by="channel", name="moto", rows=275, frauds=1, expected_frauds=0.71, figures=None),
)
DEGRADED = (Degraded(without=(), figures=FIGURES), Degraded(without=("card", "device"), figures=FIGURES))


def report_data(rows: int, *, seed: int = 7) -> ReportData:
    """A slice whose served probability is the very one that its labels were drawn from, and whose raw one is not."""
    random = np.random.default_rng(seed)
    log_odds = np.where(random.random(rows) < 0.01, random.normal(1, 3, rows), random.normal(-8, 1.5, rows))
    log_odds[:2] = 12  # at least two frauds in the smallest slice
    served = 1 / (1 + np.exp(-log_odds))
    raw = 1 / (1 + np.exp(-0.4 * log_odds))
    labels = random.random(rows) < served
    times = START_MS + np.sort(random.integers(0, 14 * DAY_MS, rows))
    kinds = np.array(["card_testing", "cash_out"])[random.integers(0, 2, rows)]
    return ReportData(
        name="example",
        version="3",
        labels=labels,
        raw_probability=raw.astype(np.float32),
        probability=served.astype(np.float32),
        score=np.floor(999 * served).astype(np.int64),
        amount_minor=random.integers(100, 50_000, rows),
        event_time_ms=times,
        typology=np.where(labels, kinds, ""),
        base_currency="EUR",
        loss="focal loss (gamma 2, alpha 0.75)",
        lesson="",
        inexact=None,
        calibrated_by="platt",
        certificate=certify(labels, times, raw=raw, recovered=served, served=served).model_copy(
            update={"segments": SEGMENTS, "degraded": DEGRADED}
        ),
        calibrators=compare_calibrators((log_odds[:500], labels[:500]), (log_odds, labels), seed),
        operating_points={"review": 0.05, "decline": 0.4},
        periods=[
            Period("fit", 900, 9, START_MS - 90 * DAY_MS, START_MS - 30 * DAY_MS),
            Period("test", rows, int(labels.sum()), START_MS, START_MS + 14 * DAY_MS),
        ],
        source="simulated payments",
        fingerprint="sha256:0f1e",
        config={
            "seed": 1,
            "network": {"width": 128, "bins": None},
            "layers": [128, 64],
            "reasons": [{"code": "velocity"}, {"code": "amount"}],
        },
        missing_share={"card_count_1h": 0.0, "card_gap": 0.125},
        metrics={"average_precision": 0.5},
        command="python -m training fit --config shipped.yaml",
    )


@pytest.fixture(scope="module")
def small() -> ReportData:
    return report_data(5_000)


class Page(HTMLParser):
    """What a browser would see: open tags, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element, its attributes, and that it is open."""
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that closes itself."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data


def test_a_report_needs_nothing_but_itself(small: ReportData) -> None:
    """No script, no link, no image, and every reference points into the page."""
    html = render(small)
    page = Page(html)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "a"})
    references = [value for name, value in page.attributes if name in {"href", "xlink:href", "src"}]
    references += re.findall(r"url\(([^)]*)\)", html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert references
    assert {reference.removeprefix("#") for reference in references} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "@import" not in html
    assert "://" not in html


def test_a_report_is_well_formed(small: ReportData) -> None:
    """Every tag that is opened is closed, in order."""
    assert Page(render(small)).open == []


def test_figures_take_their_colours_from_the_page(small: ReportData) -> None:
    """Every colour variable that is used is defined, and none of its stand-ins is left."""
    html = render(small)
    used = set(re.findall(r"var\((--[a-z]+)\)", html))
    assert used == set(re.findall(r"^\s+(--[a-z]+):", html, flags=re.MULTILINE))
    assert not re.search(r"#(0[1-6])\1\1", html)


def test_the_same_data_give_the_same_bytes(small: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process with another hash seed writes the same report."""
    monkeypatch.setitem(os.environ, "PYTHONHASHSEED", "4242")
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as elsewhere:
        assert elsewhere.submit(render, small).result() == render(small)


def test_a_report_of_many_rows_stays_small() -> None:
    """200,000 transactions fit into 600 KB."""
    assert len(render(report_data(200_000)).encode()) < 600_000


def test_both_calibration_errors_are_in_the_report(small: ReportData) -> None:
    """A reader finds the error of the raw output and of the served probability in the text."""
    text = Page(render(small)).text
    assert f"expected calibration error is {small.certificate.raw.expected_calibration_error:.4f}" in text
    assert f"with an error of {small.certificate.served.expected_calibration_error:.5f}" in text
    assert small.certificate.raw.expected_calibration_error > 10 * small.certificate.served.expected_calibration_error


@pytest.mark.parametrize(
    ("inexact", "calibrated_by", "said", "stage"),
    [
        (None, "none", "in closed form, and then applies no line", "corrected in closed form"),
        (None, "temperature", "in closed form, and then multiplies the log-odds by the slope", "in closed form"),
        (None, "platt", "in closed form, and then applies the line", "corrected in closed form"),
        (SMOTE_INEXACT, "platt", "undoes the average, and then applies the line", "corrected on average"),
    ],
)
def test_what_the_graph_undoes_is_said_as_it_is(
    small: ReportData, inexact: str | None, calibrated_by: LineMethod, said: str, stage: str
) -> None:
    """Report and card name the line, and claim a closed form only where there is one."""
    told = replace(small, inexact=inexact, calibrated_by=calibrated_by)
    for text in (Page(render(told)).text, model_card(told)):
        assert said in " ".join(text.split())
        assert stage in text
        assert ("closed form" in text) == (inexact is None)


def test_every_calibrator_is_shown_and_the_served_one_marked(small: ReportData) -> None:
    """A row for each with its figures; the one in the graph is bold."""
    html = render(small)
    table = html[html.index("Other calibrators") : html.index("Segments</h2>")]
    assert re.findall(r'<tr class="point"><td>([^<]*)</td>', table) == ["platt"]
    for row in small.calibrators:
        assert row.method.replace("_", "-") in table
        assert f"<td>{row.error.value:.5f} <small>{row.error.low:.5f}&ndash;{row.error.high:.5f}</small></td>" in table
        assert f"<td>{row.average_precision:.4f}</td>" in table


def test_segments_and_outages_stand_in_report_and_card(small: ReportData) -> None:
    """Each has its figures in both, or its counts and that these are too few."""
    figures = ["0.737", "0.619", "0.683", "0.00183", "0.00229", "0.00436"]
    html, card = render(small), model_card(small)
    for start in (["channel: pos", "6,226", "63", "68.9"], ["nothing: as served"], ["card, device"]):
        assert "".join(f"<td>{cell}</td>" for cell in start + figures) in html
        assert f"| {' | '.join(start + figures)} |\n" in card
    assert '<td>channel: moto</td><td>275</td><td>1</td><td>0.7</td><td colspan="6">too few to certify</td>' in html
    assert "| channel: moto | 275 | 1 | 0.7 | too few to certify |  |  |  |  |  |" in card


def test_the_sweep_marks_the_operating_points(small: ReportData) -> None:
    """The bundle's own thresholds stand in the sweep, by name, between the usual ones."""
    html = render(small)
    marked = re.findall(r'<tr class="point"><td>([^<]*)</td>', html[html.index("Thresholds</h2>") :])
    assert marked == ["0.05 review", "0.4 decline"]


def test_every_typology_has_its_recall(small: ReportData) -> None:
    """Each kind of fraud has a row; a slice that names none says so."""
    text = Page(render(small)).text
    assert "card testing" in text
    assert "cash out" in text
    unnamed = replace(small, typology=np.full(len(small.labels), None, object))
    assert "do not say what kind of fraud" in Page(render(unnamed)).text


def test_configuration_and_features_are_listed(small: ReportData) -> None:
    """Settings stand under their dotted paths, features with their missing rates."""
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", render(small))
    shown = {re.sub("<[^>]*>", "", name): re.sub("<[^>]*>", "", value) for name, value in facts}
    assert shown["network.width"] == "128"
    assert shown["network.bins"] == "none"
    assert shown["layers"] == "128, 64"
    assert shown["reasons.1.code"] == "amount"
    assert shown["card_gap"] == "12.5%"


def test_names_cannot_inject_markup(small: ReportData) -> None:
    """A name from outside is text, whatever it says."""
    html = render(replace(small, name="<script>alert(1)</script>", source="<b>bold</b>"))
    assert "script" not in Page(html).tags
    assert "b" not in Page(html).tags


def test_a_tiny_slice_can_be_reported(small: ReportData) -> None:
    """Thirty transactions of one day, one of them certain, are little but no error."""
    tiny = report_data(30)
    one_day = replace(tiny, event_time_ms=np.full(30, START_MS), score=np.zeros(30, np.int64))
    certain = replace(one_day, probability=np.where(one_day.labels, 1, 0).astype(np.float32))
    assert Page(render(certain)).open == []
    assert len(render(certain)) < len(render(small))


def test_a_slice_without_fraud_is_refused(small: ReportData) -> None:
    """Nothing can be said about a model on data without fraud."""
    with pytest.raises(DataInvalid, match="got 0 frauds among 5000 rows"):
        render(replace(small, labels=np.zeros(len(small.labels), bool)))


@given(st.integers(1, 3000), st.integers(2, 50), st.integers(0, 9))
def test_thinning_keeps_the_ends_and_leaves_no_gap(length: int, points: int, seed: int) -> None:
    """A thinned curve is a subset in order, with both ends, and no step longer than the curve's own allow."""
    random = np.random.default_rng(seed)
    x, y = np.sort(random.random(length)), np.sort(random.random(length))
    kept = thin(x, y, points)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert np.all(np.diff(kept) > 0)
    assert len(kept) <= points
    if length > points:
        steps = np.hypot(np.diff(x) / np.ptp(x), np.diff(y))
        drawn = [steps[start:stop].sum() for start, stop in pairwise(kept)]
        assert max(drawn) <= steps.sum() / (points - 1) + steps.max() + 1e-9


def test_a_short_curve_is_drawn_whole() -> None:
    """Nothing is left out of a curve that is short enough."""
    x = np.linspace(0, 1, CURVE_POINTS)
    assert thin(x, x).tolist() == list(range(CURVE_POINTS))


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [(1.0, None, "100%"), (0.99999, None, "99.9%"), (0.001, None, "0.1%"), (1e-5, None, "0.001%"), (0.5, 1, "50.0%")],
)
def test_a_percentage_reads_well(share: float, decimals: int | None, text: str) -> None:
    """Three digits or as many decimals as asked for; only all of it is 100%."""
    assert percent(share, decimals) == text


def test_a_model_card_is_two_pages_that_say_the_essentials(small: ReportData) -> None:
    """The card names purpose, data, calibration, weakest spot and command, on two pages."""
    card = model_card(small)
    assert len(card.splitlines()) <= 110
    assert card.startswith("# example 3\n")
    assert "Source: simulated payments." in card
    assert f"{small.certificate.raw.expected_calibration_error:.5f}" in card
    assert f"{small.certificate.served.expected_calibration_error:.5f}" in card
    assert re.search(r"weakest on (card testing|cash out): \d+ of \d+", card)
    assert small.command in card


def test_the_tables_of_a_model_card_are_rectangular(small: ReportData) -> None:
    """Every row of a Markdown table has as many cells as its head, so that it renders as a table."""
    tables = re.findall(r"(?:^\|.*\|\n)+", model_card(small) + "\n", flags=re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_operating_points_of_a_model_card_are_measured(small: ReportData) -> None:
    """What the card says of a threshold is what the slice shows for it."""
    declined = small.probability.astype(np.float64) >= 0.4
    row = re.search(r"^\| decline \| (.*) \|$", model_card(small), flags=re.MULTILINE)
    assert row
    threshold, _, recall, precision, per_10_000 = row[1].split(" | ")
    assert float(threshold) == 0.4
    assert recall == percent(float(np.mean(declined[small.labels])), 1)
    assert precision == percent(float(np.mean(small.labels[declined])), 1)
    assert per_10_000 == f"{10_000 * np.mean(declined):.1f}"
