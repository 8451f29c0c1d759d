"""A bundle is served only if everything in it is what training wrote."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.bundle import GOLDEN, MANIFEST, MODEL, SERVED_FILES, Bundle, Golden
from service.errors import BundleInvalid
from service.model import OnnxModel


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def change_manifest(bundle: Path, **fields: object) -> None:
    """Set fields of the manifest, as somebody with an editor would."""
    document = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_text(json.dumps({**document, **fields}))


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Put another file in and make the manifest agree with it."""
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / MANIFEST).read_bytes())["files"]
    change_manifest(bundle, files={**files, name: hashlib.sha256(content).hexdigest()})


def test_what_was_written_is_what_is_loaded(small_bundle: Path) -> None:
    """The plan's inputs are the manifest's, and the golden rows pass through the session."""
    bundle = Bundle.load(small_bundle)
    assert bundle.plan.numeric == bundle.manifest.numeric
    assert bundle.sha256 == hashlib.sha256((small_bundle / MANIFEST).read_bytes()).hexdigest()
    OnnxModel.load(bundle)


def test_a_bundle_from_before_segments_were_certified_is_loaded(copy: Path) -> None:
    """What later versions added to the manifest may be missing; it then says that nothing is known."""
    document = json.loads((copy / MANIFEST).read_bytes())
    added = {"sampler", "calibration"}, {"segments", "degraded"}
    document["certificate"] = {key: value for key, value in document["certificate"].items() if key not in added[1]}
    (copy / MANIFEST).write_text(json.dumps({key: value for key, value in document.items() if key not in added[0]}))
    manifest = Bundle.load(copy).manifest
    assert (manifest.sampler, manifest.calibration) == (None, None)
    assert (manifest.certificate.segments, manifest.certificate.degraded) == ((), ())


@pytest.mark.parametrize("name", [*SERVED_FILES, MANIFEST])
def test_a_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    """The message says which file."""
    (copy / name).unlink()
    with pytest.raises(BundleInvalid, match=name):
        Bundle.load(copy)


@pytest.mark.parametrize("name", SERVED_FILES)
def test_every_single_altered_byte_is_refused(copy: Path, name: str) -> None:
    """One flipped bit anywhere in any file is found by the digest, and the file is named."""
    content = bytearray((copy / name).read_bytes())
    for position in np.linspace(0, len(content) - 1, 25).astype(int):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        (copy / name).write_bytes(flipped)
        with pytest.raises(BundleInvalid, match=rf"{name} was altered"):
            Bundle.load(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spec_sha256": "0" * 64}, "spec's hash"),
        ({"numeric": ["amount"]}, "do not match the inputs in number"),
        ({"base_currency": "USD"}, "based on EUR"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"score_thresholds": [0.5]}, "score_thresholds"),
        ({"score_thresholds": [1 - step / 1000 for step in range(999)]}, "score_thresholds"),
        ({"files": {}}, "no digest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy: Path, fields: dict[str, object], message: str) -> None:
    """Each disagreement between the manifest and the rest has a message of its own."""
    change_manifest(copy, **fields)
    with pytest.raises(BundleInvalid, match=message):
        Bundle.load(copy)


def test_inputs_in_another_order_are_refused(copy: Path) -> None:
    """Two features swapped would score every transaction wrong without any error."""
    numeric = json.loads((copy / MANIFEST).read_bytes())["numeric"]
    change_manifest(copy, numeric=[numeric[1], numeric[0], *numeric[2:]])
    with pytest.raises(BundleInvalid, match="their order"):
        Bundle.load(copy)


def test_a_manifest_cannot_reach_outside_the_bundle(copy: Path, tmp_path: Path) -> None:
    """A file's name is a name, not a path."""
    (tmp_path / "outside").write_bytes(b"x")
    files = json.loads((copy / MANIFEST).read_bytes())["files"]
    change_manifest(copy, files={**files, "../outside": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(BundleInvalid, match="outside the bundle"):
        Bundle.load(copy)


def test_a_reason_that_names_no_input_is_refused(copy: Path) -> None:
    """A reason must be able to say something about the model that is served."""
    reason = {"code": "ghost", "description": "none", "features": ["no_such"], "value_feature": "no_such"}
    change_manifest(copy, reasons=[reason])
    with pytest.raises(BundleInvalid, match="ghost names no_such"):
        Bundle.load(copy)


def renamed_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = "features"
    for node in graph.graph.node:
        node.input[:] = ["features" if name == "numeric" else name for name in node.input]


def doubled_weights(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == "weights":
            tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), "weights"))


def not_a_number(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "bias"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_input, "inputs are"),
        (doubled_weights, "golden rows differ"),
        (not_a_number, "golden rows differ .* by nan"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(
    copy: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    """Also when every digest is right: the golden rows are the last word."""
    graph = onnx.load_from_string((copy / MODEL).read_bytes())
    change(graph)
    replace_file(copy, MODEL, graph.SerializeToString())
    with pytest.raises(BundleInvalid, match=message):
        OnnxModel.load(Bundle.load(copy))


def test_a_file_that_is_no_graph_is_refused(copy: Path) -> None:
    """The runtime's own words are passed on."""
    replace_file(copy, MODEL, b"not a graph")
    with pytest.raises(BundleInvalid, match="onnxruntime refuses the graph"):
        OnnxModel.load(Bundle.load(copy))


def test_golden_rows_cannot_carry_code(copy: Path) -> None:
    """An array of objects would be a pickle; it is not read."""
    golden = Bundle.load(copy).golden
    path = copy / "objects.npz"
    np.savez(
        path,
        numeric=golden.numeric,
        categorical=golden.categorical,
        logit=np.array([object()] * len(golden.logit)),
        probability=golden.probability,
    )
    replace_file(copy, GOLDEN, path.read_bytes())
    with pytest.raises(BundleInvalid, match=GOLDEN):
        Bundle.load(copy)


def test_no_golden_rows_are_no_proof(copy: Path) -> None:
    """An empty set of rows would pass any comparison."""
    golden = Bundle.load(copy).golden
    empty = Golden(golden.numeric[:0], golden.categorical[:0], golden.logit[:0], golden.probability[:0])
    replace_file(copy, GOLDEN, empty.to_bytes())
    with pytest.raises(BundleInvalid, match=GOLDEN):
        Bundle.load(copy)
