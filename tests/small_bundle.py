"""A bundle made by hand whose every answer can be worked out on paper, for tests of what stands around a model.

Its logit is amount / 2000 − 6 + the card's transactions of the last hour, so a first payment of 120.00
EUR has probability one half.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from service.bundle import (
    CURRENCIES,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MAX_SCORE,
    MODEL,
    THRESHOLDS,
    Calibration,
    Certificate,
    Golden,
    Loss,
    Manifest,
    ReasonGroup,
    TrainingData,
)
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from service.model import OnnxModel, Provider

NAME, VERSION = "small", "1.0.0"
SPEC = {
    "version": 1,
    "horizon": "90d",
    "entities": {
        "card": {
            "key": "card_id",
            "log": {"compact_at": 16, "keep": 4, "ring": 64},
            "windows": {
                "h1": {"length": "1h", "hop": "5m", "sums": ["count"]},
                "fraud": {"length": "30d", "hop": "1d", "at": "report", "sums": ["fraud", "issuer_declined"]},
            },
            "features": {
                "card_count_1h": {"total": "h1.count"},
                "card_frauds": {"total": "fraud.fraud"},
                "card_issuer_declines": {"total": "fraud.issuer_declined"},
            },
        },
        "terminal": {
            "key": "terminal_id",
            "log": {"compact_at": 16, "keep": 4, "ring": 64},
            "windows": {"h1": {"length": "1h", "hop": "5m", "sums": ["count"]}},
            "features": {"terminal_count_1h": {"total": "h1.count"}},
        },
    },
    "transaction": {"features": {"amount": {"field": "amount"}}, "categories": ["channel"]},
}
THRESHOLDS_DOCUMENT = {
    "currency": "EUR",
    "default": {
        "challenge_at": {"probability": 0.3},
        "review_at": {"probability": 0.5},
        "decline_at": {"probability": 0.9},
    },
    "segments": [],
    "fallback": {"decision": "review", "approve_below_amount": 5000},
}


def write_small_bundle(directory: Path) -> Path:
    """Write it into a new directory under its name and version; the same bytes each time. Returns that directory."""
    path = directory / NAME / VERSION
    path.mkdir(parents=True)
    spec = parse_spec(SPEC)
    plan = compile_plan(spec)
    graph = _graph(plan.numeric, plan.categorical)
    model = OnnxModel.from_bytes(graph, len(plan.numeric), len(plan.categorical), provider=Provider.CPU)
    numeric = np.random.default_rng(1).uniform(0, 20_000, (16, len(plan.numeric))).astype(np.float32)
    numeric[::3, plan.numeric.index("card_count_1h")] = np.nan
    categorical = np.zeros((16, len(plan.categorical)), np.int64)
    logit, probability = model.run(numeric, categorical)
    files = {
        MODEL: graph,
        FEATURES: yaml.safe_dump(SPEC, sort_keys=False).encode(),
        CURRENCIES: json.dumps({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "0.5", "JPY": "0.01"}}).encode(),
        THRESHOLDS: json.dumps(THRESHOLDS_DOCUMENT).encode(),
        GOLDEN: Golden(numeric, categorical, logit, probability).to_bytes(),
    }
    manifest = _manifest(spec.sha256, plan.numeric, plan.categorical, files)
    for name, content in {**files, MANIFEST: manifest.to_json()}.items():
        (path / name).write_bytes(content)
    return path


def _graph(numeric: tuple[str, ...], categorical: tuple[str, ...]) -> bytes:
    """The ONNX graph of the sentence at the top; a missing count is 0."""
    weights = np.zeros((len(numeric), 1), np.float32)
    weights[numeric.index("amount")] = 1 / 2000
    weights[numeric.index("card_count_1h")] = 1
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "numeric"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    initializers = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in (
            ("zero", np.array(0, np.float32)),
            ("weights", weights),
            ("bias", np.array(-6, np.float32)),
            ("last", np.array([1], np.int64)),
        )
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", len(numeric)]),
        helper.make_tensor_value_info("categorical", TensorProto.INT64, ["batch", len(categorical)]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("logit", "probability")]
    graph = helper.make_graph(nodes, NAME, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _manifest(
    spec_sha256: str, numeric: tuple[str, ...], categorical: tuple[str, ...], files: dict[str, bytes]
) -> Manifest:
    calibration = Calibration(expected_calibration_error=0.001, brier=0.001, log_loss=0.01)
    times = {"first_event_time_ms": 0, "last_event_time_ms": 1}
    return Manifest(
        format=1,
        name=NAME,
        version=VERSION,
        code_version="0",
        seed=1,
        base_currency="EUR",
        spec_sha256=spec_sha256,
        numeric=numeric,
        categorical=categorical,
        loss=Loss(name="bce", gamma=0.0, alpha=None, beta=1.0),
        class_prior=0.001,
        training_data=TrainingData(source="none", fingerprint="0" * 64, rows=1, frauds=1, **times),
        metrics={"average_precision": 1.0},
        certificate=Certificate(
            rows=1,
            frauds=1,
            first_event_time_ms=0,
            last_event_time_ms=1,
            bins=1,
            raw=calibration,
            recovered=calibration,
            served=calibration,
        ),
        score_thresholds=tuple(score / (MAX_SCORE + 1) for score in range(1, MAX_SCORE + 1)),
        score_extrapolated_from=900,
        reasons=(
            ReasonGroup(
                code="unusual_amount", description="The amount is large", features=("amount",), value_feature="amount"
            ),
            ReasonGroup(
                code="card_velocity",
                description="The card was used often within the hour",
                features=("card_count_1h",),
                value_feature="card_count_1h",
            ),
        ),
        reference_numeric=tuple(1000.0 if name == "amount" else 0.0 for name in numeric),
        reference_categorical=(-1,) * len(categorical),
        histograms={},
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
