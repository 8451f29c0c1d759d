"""A fit, whole: from simulated payments to a bundle that the service accepts, the same bytes every time."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest

from service.bundle import MODEL, Bundle
from service.errors import BundleInvalid
from service.model import OnnxModel
from service.settings import Settings
from tests.serving import serving
from training.config import (
    CalibrationConfig,
    FitConfig,
    NetworkConfig,
    SmoteConfig,
    SplitConfig,
    TeacherConfig,
    UndersampleConfig,
    read_config,
)
from training.evaluate import evaluate
from training.example_files import write_examples
from training.examples import declare_reports, replay_offline, replay_pieces
from training.fit import fit
from training.replay import ReplayFailed, replay
from training.samplers import SMOTE_INEXACT
from training.simulate import SimulationConfig, simulate
from training.verify import verify

CONFIGS = Path(__file__).parent.parent.parent / "training" / "configs"
START = datetime(2025, 1, 1, tzinfo=UTC)
NOW_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
QUIET = {"source": "simulated payments", "command": "python -m training fit", "say": lambda _: None}


@dataclass(frozen=True)
class Fitted:
    """A small fit: the data, the configuration and the bundle."""

    frame: pl.DataFrame
    config: FitConfig
    path: Path


def run(frame: pl.DataFrame, config: FitConfig, out: Path) -> Path:
    examples = replay_offline(frame, config.read_plan(), config.read_currencies())
    return fit(examples, config, out, tick=lambda: None, **QUIET)  # type: ignore[arg-type] # the same few every time


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    frame = simulate(SimulationConfig(transactions=60_000, seed=11, start=START, days=60, prevalence=0.02))
    frame = declare_reports(frame, 7)
    config = read_config(CONFIGS / "shipped.yaml").model_copy(
        update={
            "split": SplitConfig(warm_up_days=10, tune_days=7, calibrate_days=10, test_days=10, gap_days=3),
            "network": NetworkConfig(width=32, epochs=3, batch=256),
            "sampler": UndersampleConfig(legitimate_kept=0.5),
        }
    )
    return Fitted(frame, config, run(frame, config, tmp_path_factory.mktemp("models")))


def test_the_bundle_is_what_the_service_loads(fitted: Fitted) -> None:
    """It has passed the loader and the golden rows, under the directory that its version names."""
    bundle = Bundle.load(fitted.path)
    OnnxModel.load(bundle)
    assert fitted.path.name == bundle.manifest.version == "1.0.0"
    assert {path.name for path in fitted.path.parent.iterdir()} == {"1.0.0"}


def test_the_same_data_and_seed_give_the_same_bytes(fitted: Fitted, tmp_path: Path) -> None:
    """Every file of the bundle, report and model card included."""
    again = run(fitted.frame, fitted.config, tmp_path)
    names = sorted(path.name for path in fitted.path.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [name for name in names if (fitted.path / name).read_bytes() != (again / name).read_bytes()] == []


def test_a_fit_that_reads_from_a_disk_gives_the_same_bytes(fitted: Fitted, tmp_path: Path) -> None:
    """Features computed in pieces, epochs gathered from files, tables walked in blocks: every file of the bundle."""
    (tmp_path / "examples").mkdir()
    plan, currencies = fitted.config.read_plan(), fitted.config.read_currencies()
    pieces = replay_pieces(fitted.frame.iter_slices(7_001), plan, currencies)
    examples = write_examples(pieces, tmp_path / "examples")
    path = fit(examples, fitted.config, tmp_path / "out", tick=lambda: None, **QUIET)  # type: ignore[arg-type] # as in run
    assert [file.name for file in path.iterdir() if file.read_bytes() != (fitted.path / file.name).read_bytes()] == []


def test_another_seed_gives_another_model(fitted: Fitted, tmp_path: Path) -> None:
    """So equal bytes above are not the bytes of something constant."""
    other = run(fitted.frame, fitted.config.model_copy(update={"seed": 8}), tmp_path)
    assert (other / MODEL).read_bytes() != (fitted.path / MODEL).read_bytes()


def test_the_served_number_is_a_probability_and_the_raw_one_is_not(fitted: Fitted) -> None:
    """Focal loss overstates risk; on a later slice the graph's answer errs at most a tenth as much."""
    certificate = Bundle.load(fitted.path).manifest.certificate
    assert certificate.raw.expected_calibration_error > 10 * certificate.served.expected_calibration_error
    assert certificate.served.log_loss < certificate.raw.log_loss


def test_the_manifest_says_how_the_probability_was_made(fitted: Fitted) -> None:
    """Sampler and line are recorded, and the line is the one that the certificate was measured behind."""
    manifest = Bundle.load(fitted.path).manifest
    assert manifest.sampler is not None
    assert (manifest.sampler.name, manifest.sampler.inexact) == ("undersample", None)
    line, certificate = manifest.calibration, manifest.certificate
    assert line is not None
    assert (line.method == "none") == ((line.slope, line.intercept) == (1.0, 0.0))
    assert (line.method == "none") == (certificate.recovered.brier == pytest.approx(certificate.served.brier, rel=1e-5))


def test_the_certificate_says_what_a_store_that_does_not_answer_costs(fitted: Fitted) -> None:
    """As served it is the whole certificate; without any history it ranks worse, and segments hold the same rows."""
    certificate = Bundle.load(fitted.path).manifest.certificate
    modes = {mode.without: mode.figures for mode in certificate.degraded}
    assert modes[()].brier == pytest.approx(certificate.served.brier, rel=1e-9)
    assert modes["card", "merchant", "terminal", "device"].average_precision < modes[()].average_precision
    assert sum(part.rows for part in certificate.segments if part.by == "channel") == certificate.rows
    assert any(part.figures is None for part in certificate.segments)
    assert any(part.figures is not None for part in certificate.segments)


def test_a_sampler_that_nothing_undoes_is_named_in_the_bundle(fitted: Fitted, tmp_path: Path) -> None:
    """After SMOTE the manifest, the report and the card say that the graph undoes the average only."""
    network = fitted.config.network.model_copy(update={"epochs": 1})
    smote = SmoteConfig(frauds_per_legitimate=0.05)
    config = fitted.config.model_copy(
        update={"sampler": smote, "network": network, "calibration": CalibrationConfig(method="platt")}
    )
    path = run(fitted.frame, config, tmp_path)
    manifest = Bundle.load(path).manifest
    assert manifest.sampler is not None
    assert manifest.calibration is not None
    assert manifest.sampler.name == "smote"
    assert manifest.sampler.inexact == SMOTE_INEXACT
    assert manifest.calibration.method == "platt"
    for name in ("report.html", "MODEL_CARD.md"):
        text = " ".join((path / name).read_text(encoding="utf-8").split())
        assert "The graph undoes the average, and then applies the line" in text
        assert "closed form" not in text


def test_trees_that_stay_are_in_the_graph(fitted: Fitted, tmp_path: Path) -> None:
    """A verified bundle with one node of trees beside the network, within the size that is promised, the same twice."""
    network = fitted.config.network.model_copy(update={"epochs": 1})
    teacher = TeacherConfig(members=2, rounds=20, blend=0.5)
    config = fitted.config.model_copy(update={"network": network, "teacher": teacher})
    first, again = (run(fitted.frame, config, tmp_path / name) / MODEL for name in ("first", "again"))
    graph = onnx.load(first).graph
    assert [node.op_type for node in graph.node].count("TreeEnsemble") == 1
    assert {given.name for given in graph.input} == {"numeric", "categorical"}
    assert first.stat().st_size < 2_000_000
    assert first.read_bytes() == again.read_bytes()
    card = " ".join(first.with_name("MODEL_CARD.md").read_text(encoding="utf-8").split())
    assert "80% of a row's target was what boosted trees say" in card
    assert "the trees have 50% of the served log-odds" in card


def test_nothing_in_a_bundle_names_the_machine_it_was_made_on(fitted: Fitted, tmp_path: Path) -> None:
    """No path, no time of day: equal bundles on any machine."""
    places = {str(Path.cwd()), str(tmp_path.parent), str(Path.home())}
    for path in fitted.path.iterdir():
        content = path.read_bytes()
        assert [place for place in places if place.encode() in content] == [], path.name
    graph = onnx.load(fitted.path / MODEL)
    assert not graph.metadata_props
    assert all(not node.metadata_props and not node.doc_string for node in graph.graph.node)


def test_a_result_that_does_not_verify_leaves_no_bundle(fitted: Fitted, tmp_path: Path) -> None:
    """A reason that names no feature is found by the loader, after everything was computed; nothing stays behind."""
    reason = fitted.config.reasons[0].model_copy(update={"features": ["no_such_feature"]})
    network = fitted.config.network.model_copy(update={"epochs": 1})
    config = fitted.config.model_copy(update={"reasons": [reason], "network": network})
    with pytest.raises(BundleInvalid, match="no_such_feature"):
        run(fitted.frame, config, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_verification_refuses_a_graph_of_another_model(fitted: Fitted) -> None:
    """The graph is compared with the fitted model itself, not with its own golden rows."""
    bundle = Bundle.load(fitted.path)
    examples = replay_offline(fitted.frame.head(3000), bundle.plan, bundle.currencies)
    import torch  # noqa: PLC0415 - only here

    class Constant(torch.nn.Module):
        def forward(self, numeric: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logit = torch.zeros(len(numeric))
            return logit, torch.sigmoid(logit)

    with pytest.raises(BundleInvalid, match="differ by"):
        verify(fitted.path, Constant(), examples, np.arange(3000))  # type: ignore[arg-type] # any module will do


def test_evaluation_on_the_test_slice_finds_what_the_manifest_says(fitted: Fitted) -> None:
    """Evaluating the bundle on the same rows gives the metrics it was shipped with."""
    bundle = Bundle.load(fitted.path)
    start = datetime.fromtimestamp(bundle.manifest.certificate.first_event_time_ms / 1000, UTC)
    figures = evaluate(replay_offline(fitted.frame, bundle.plan, bundle.currencies), bundle, start=start)
    for name in ("average_precision", "roc_auc", "expected_calibration_error", "brier"):
        assert figures[name] == pytest.approx(bundle.manifest.metrics[name], abs=1e-9), name
    assert figures["frauds"] == bundle.manifest.certificate.frauds


def test_a_running_service_computes_what_training_computed(fitted: Fitted, tmp_path: Path) -> None:
    """Over HTTP, with history in batches and labels as outcomes: not one feature or probability differs in any bit."""
    frame = fitted.frame.head(9_000)
    start = frame["timestamp"][8_000]
    sent: list[int] = []
    with serving(Settings(model_dir=fitted.path, state_dir=tmp_path), lambda: NOW_MS) as service:
        found = replay(frame, Bundle.load(fitted.path), service.client, start=start, limit=500, progress=sent.append)
    assert (found.cells_differing, found.probabilities_differing, found.features_differing) == (0, 0, ())
    assert found.transactions == 500
    assert found.cells == 500 * len(Bundle.load(fitted.path).plan.numeric)
    assert found.outcomes > 20
    assert sum(sent) == found.history + found.transactions + found.outcomes
    assert sum(found.decisions.values()) == 500


def test_a_replay_notices_when_the_service_has_seen_something_else(fitted: Fitted, tmp_path: Path) -> None:
    """The comparison can fail: a service that saw one payment more computes other features for that card."""
    frame = fitted.frame.head(2_000)
    bundle = Bundle.load(fitted.path)
    extra = frame.row(1_000, named=True)
    body = {"transaction_id": "extra", "timestamp": "2025-01-01T00:00:00Z", "amount": 77_700, "currency": "EUR"}
    body |= {name: extra[name] for name in ("card_id", "merchant_id")}
    with serving(Settings(model_dir=fitted.path, state_dir=tmp_path), lambda: NOW_MS) as service:
        json_type = {"content-type": "application/json"}
        assert service.client.post("/score", content=json.dumps(body), headers=json_type).status_code == 200
        found = replay(frame, bundle, service.client, start=frame["timestamp"][900], limit=300, progress=lambda _: None)
    assert not found.equal
    assert found.cells_differing > 0


def test_a_replay_refuses_a_service_with_another_bundle(fitted: Fitted, small_bundle: Path, tmp_path: Path) -> None:
    """Comparing two models would find differences that are none."""
    with (
        serving(Settings(model_dir=small_bundle, state_dir=tmp_path), lambda: NOW_MS) as service,
        pytest.raises(ReplayFailed, match="another bundle"),
    ):
        replay(fitted.frame, Bundle.load(fitted.path), service.client, start=START, limit=1, progress=lambda _: None)
