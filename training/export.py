"""Exporting: a fitted model as one ONNX graph, and everything that makes a bundle of it."""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from service.bundle import (
    CURRENCIES,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MODEL,
    THRESHOLDS,
    Golden,
    Histogram,
    Manifest,
)
from service.currency import CurrencyTable
from service.features.plan import Plan
from training.blocks import columns
from training.examples import Examples
from training.network import Codes, Floats, Mask
from training.served import ServedModel
from training.trees import say_in_graph

OPSET = 20
IR_VERSION = 10  # what onnxruntime 1.18 and later read
TOLD = "told"  # the input by which the trees' answer comes until they stand in the graph themselves
GOLDEN_ROWS = 256
HISTOGRAM_BINS = 10


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a bundle beside its manifest, by name."""

    contents: Mapping[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each, by name in order."""
        return {name: hashlib.sha256(self.contents[name]).hexdigest() for name in sorted(self.contents)}


def to_onnx(model: ServedModel, numeric_width: int, categorical_width: int) -> bytes:
    """The graph: `numeric` (batch, n) and `categorical` (batch, m) in, `logit` and `probability` (batch,) out.

    Equal weights give equal bytes: the exporter's traces, which hold paths and line numbers, are removed.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of each operator it does not register
    batch = torch.export.Dim("batch", min=1)
    example = {
        "numeric": torch.zeros(2, numeric_width),
        "categorical": torch.zeros(2, categorical_width, dtype=torch.int64),
    }
    if model.blend is not None:
        example[TOLD] = torch.zeros(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls and of a repeated axis name
        program = torch.onnx.export(
            model.eval(),
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=["logit", "probability"],
            dynamic_shapes={name: {0: batch} for name in example},
            verbose=False,
        )
    assert program is not None, "the exporter returned nothing"
    graph = program.model_proto
    if model.blend is not None:
        say_in_graph(graph, model.blend.teacher, TOLD)
    _forget_origin(graph)
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString(deterministic=True))


def golden_rows(model: ServedModel, examples: Examples, rows: Codes, hidden: Sequence[slice]) -> Golden:
    """Rows for the service to prove itself on, with what the fitted model itself says about them.

    Up to a quarter are frauds, the rest legitimate, evenly spaced; every fourth row has one entity
    hidden, as when the store cannot be reached.

    Args:
        model: the fitted model; its answers in torch are the expectation.
        examples: all feature vectors.
        rows: the slice to take from.
        hidden: by entity, its part of the numeric features.
    """
    chosen = np.sort(
        np.concatenate([_spaced(rows, examples.labels, GOLDEN_ROWS // 4), _spaced(rows, ~examples.labels, GOLDEN_ROWS)])
    )
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(GOLDEN_ROWS, len(chosen))).astype(np.int64)]
    numeric = examples.numeric[chosen].copy()
    for position in range(0, len(numeric), 4):
        numeric[position, hidden[position // 4 % len(hidden)]] = np.nan
    categorical = examples.categorical[chosen]
    with torch.no_grad():
        logit, probability = model.eval()(torch.from_numpy(numeric), torch.from_numpy(categorical))
    return Golden(numeric, categorical, logit.numpy(), probability.numpy())


def histograms(plan: Plan, numeric: Floats) -> dict[str, Histogram]:
    """The distribution of each numeric feature: at most ten bins between its quantiles."""
    described = {}
    for name, values in zip(plan.numeric, columns(numeric), strict=True):
        present = values[~np.isnan(values)]
        edges = np.unique(np.quantile(present, np.linspace(0, 1, HISTOGRAM_BINS + 1))) if len(present) else np.zeros(0)
        if len(edges) == 1:
            edges = np.array([edges[0], edges[0] + 1])
        counts = np.histogram(present, edges)[0] if len(edges) else np.zeros(0, np.int64)
        described[name] = Histogram(
            edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), missing=int(len(values) - len(present))
        )
    return described


def reference_values(
    numeric: Floats, categorical: Codes, legitimate: Mask
) -> tuple[tuple[float | None, ...], tuple[int, ...]]:
    """A legitimate transaction's values: the median of each number, the commonest of each code; None is missing."""
    medians = []
    for numbers in columns(numeric):
        values = numbers[legitimate]
        present = values[~np.isnan(values)]
        medians.append(None if 2 * len(present) < len(values) else float(np.median(present)))
    commonest = []
    for codes in columns(categorical):
        distinct, counts = np.unique(codes[legitimate], return_counts=True)
        commonest.append(int(distinct[counts.argmax()]))
    return tuple(medians), tuple(commonest)


def bundle_files(
    *,
    graph: bytes,
    features: bytes,
    currencies: CurrencyTable,
    thresholds: object,
    golden: Golden,
    texts: Mapping[str, str],
) -> Files:
    """Everything but the manifest. `texts` are files for people: the report and the model card."""
    return Files(
        {
            MODEL: graph,
            FEATURES: features,
            CURRENCIES: _json(currencies.as_document()),
            THRESHOLDS: _json(thresholds),
            GOLDEN: golden.to_bytes(),
            **{name: text.encode() for name, text in texts.items()},
        }
    )


def write_bundle(directory: Path, files: Files, manifest: Manifest) -> None:
    """Write a bundle into a new directory."""
    directory.mkdir(parents=True)
    for name, content in {**files.contents, MANIFEST: manifest.to_json()}.items():
        (directory / name).write_bytes(content)


def put_in_place(partial: Path, final: Path) -> None:
    """Make a proven bundle visible; an earlier one under the same version gives way."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)


def _forget_origin(graph: onnx.ModelProto) -> None:
    graph.producer_version = ""
    graph.doc_string = ""
    del graph.metadata_props[:]
    inner = [graph.graph, *graph.functions]
    for part in inner:
        part.doc_string = ""
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in part.value_info:
            value.doc_string = ""
            del value.metadata_props[:]
    for value in [*graph.graph.input, *graph.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def _spaced(rows: Codes, wanted: Mask, count: int) -> Codes:
    """Up to `count` of the wanted rows, evenly spaced."""
    candidates = rows[wanted[rows]]
    if len(candidates) <= count:
        return candidates
    return candidates[np.linspace(0, len(candidates) - 1, count).astype(np.int64)]


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
