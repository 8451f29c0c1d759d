"""The bundle: one directory that holds a model and the proof that it computes what training saw."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.currency import CurrencyTable, parse_currency_table
from service.errors import BundleInvalid, SpecInvalid, ThresholdsInvalid
from service.features.plan import Plan, compile_plan
from service.features.spec import Spec, parse_spec
from service.thresholds import Thresholds, parse_thresholds_json

MANIFEST = "manifest.json"
MODEL = "model.onnx"
FEATURES = "features.yaml"
CURRENCIES = "currencies.json"
THRESHOLDS = "thresholds.json"
GOLDEN = "golden.npz"
SERVED_FILES = (MODEL, FEATURES, CURRENCIES, THRESHOLDS, GOLDEN)  # a bundle must hold these; others may stand beside

MAX_SCORE = 999
MAX_FILE_BYTES = 256 << 20  # a model that is larger than this is not one that answers in milliseconds

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Loss(_Part):
    """The loss the network was fitted with; the graph undoes what it does to the probability."""

    name: Literal["bce", "weighted_bce", "focal"]
    gamma: Finite
    alpha: Finite | None
    beta: Finite  # share of the legitimate transactions that were kept in fitting


class Sampler(_Part):
    """Over which rows the network was fitted."""

    name: Literal["none", "undersample", "smote"]
    inexact: str | None  # why nothing undoes it exactly; None where the graph does


class CalibrationLine(_Part):
    """The line in log-odds behind the closed form, and how it was found; slope 1 and intercept 0 for `none`."""

    method: Literal["none", "temperature", "platt"]
    slope: Finite
    intercept: Finite


class TrainingData(_Part):
    """What the model was fitted on."""

    source: str
    fingerprint: Sha256
    rows: int
    frauds: int
    first_event_time_ms: int
    last_event_time_ms: int


class Calibration(_Part):
    """How far stated probabilities are from frequencies, on a slice later than anything fitted."""

    expected_calibration_error: Finite
    brier: Finite
    log_loss: Finite


class Figures(_Part):
    """How well the served model ranked some rows, and how far its probabilities were from frequencies there.

    Recall is at the false-positive rate of these very rows. `error_by_chance` is the calibration error that labels
    drawn from the probabilities themselves would show on average: an error near it says nothing against them.
    """

    average_precision: Finite
    recall_at_fpr_0_001: Finite
    recall_at_fpr_0_005: Finite
    expected_calibration_error: Finite
    error_by_chance: Finite
    brier: Finite


class Segment(_Part):
    """Some of the certificate's rows, by something known before the decision."""

    by: str  # channel, amount, card, ...
    name: str
    rows: int
    frauds: int
    expected_frauds: Finite  # the sum of the probabilities
    figures: Figures | None  # None: too few rows of a class to say anything


class Degraded(_Part):
    """All of the certificate's rows, with the history of some entities hidden as when the store cannot be reached."""

    without: tuple[str, ...]  # entities of the spec; none for comparison
    figures: Figures


class Certificate(_Part):
    """The evidence that the served number is a probability.

    `raw` is the sigmoid of the network's logit, `recovered` has the loss undone in closed form, `served` has the
    affine step on top. All on the same rows. Bundles from before there were segments have none.
    """

    rows: int
    frauds: int
    first_event_time_ms: int
    last_event_time_ms: int
    bins: int
    raw: Calibration
    recovered: Calibration
    served: Calibration
    segments: tuple[Segment, ...] = ()
    degraded: tuple[Degraded, ...] = ()


class ReasonGroup(_Part):
    """Features that together are one reason: what a person is told about a decision."""

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")]
    description: str
    features: tuple[str, ...]
    value_feature: str


class Histogram(_Part):
    """Reference distribution of one feature over legitimate and fraudulent rows alike, for drift."""

    edges: tuple[Finite, ...]
    counts: tuple[int, ...]
    missing: int


class Manifest(BaseModel):
    """Everything about a bundle that is not in its other files, and the digest of each of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    code_version: str
    seed: int
    base_currency: str
    spec_sha256: Sha256
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    loss: Loss
    sampler: Sampler | None = None  # None: from before it was recorded
    calibration: CalibrationLine | None = None  # the same
    class_prior: Finite
    training_data: TrainingData
    metrics: Mapping[str, Finite]
    certificate: Certificate
    score_thresholds: tuple[Finite, ...]  # [s - 1] is the smallest probability with score s or more
    score_extrapolated_from: int  # scores above this are extrapolated from the tail
    reasons: tuple[ReasonGroup, ...]
    reference_numeric: tuple[Finite | None, ...]  # by numeric input: a legitimate transaction's median; None is missing
    reference_categorical: tuple[int, ...]
    histograms: Mapping[str, Histogram]
    files: Mapping[str, Sha256]

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: indented, so that a change shows as one in git."""
        return (self.model_dump_json(indent=1) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows on which the graph must give what training saw.

    Attributes:
        numeric: float32 (rows, n).
        categorical: int64 (rows, m).
        logit: float32 (rows,).
        probability: float32 (rows,).
    """

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    logit: NDArray[np.float32]
    probability: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The bytes of `golden.npz`: uncompressed and without timestamps, so that equal rows are equal files."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            numeric=self.numeric,
            categorical=self.categorical,
            logit=self.logit,
            probability=self.probability,
        )
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle. Every file was read once; what was digested is what is used."""

    path: Path
    sha256: str  # of the manifest, which holds the digests of all the rest
    manifest: Manifest
    onnx: bytes
    spec: Spec
    plan: Plan
    currencies: CurrencyTable
    thresholds: Thresholds
    golden: Golden

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a bundle and check everything that can be checked without running it.

        Raises:
            BundleInvalid: a file is missing, altered or malformed, or two of them do not fit together.
        """
        manifest_bytes = _read(path, MANIFEST)
        manifest = _manifest(path, manifest_bytes)
        files = {name: _checked(path, name, manifest) for name in (*SERVED_FILES, *manifest.files)}
        spec, plan = _spec(path, files[FEATURES], manifest)
        currencies = parse_currency_table(_json(path, CURRENCIES, files[CURRENCIES]))
        if currencies.base != manifest.base_currency:
            raise BundleInvalid(f"{path}: {CURRENCIES} is based on {currencies.base}, not {manifest.base_currency}")
        try:
            thresholds = parse_thresholds_json(files[THRESHOLDS], base_currency=manifest.base_currency)
        except ThresholdsInvalid as error:
            raise BundleInvalid(f"{path / THRESHOLDS}: {error}") from error
        golden = _golden(path, files[GOLDEN], manifest)
        _check_reasons(path, manifest)
        digest = hashlib.sha256(manifest_bytes).hexdigest()
        return cls(path, digest, manifest, files[MODEL], spec, plan, currencies, thresholds, golden)

    @property
    def model_sha256(self) -> str:
        """Digest of the ONNX file: what decided."""
        return self.manifest.files[MODEL]


def _read(path: Path, name: str) -> bytes:
    try:
        if (path / name).stat().st_size > MAX_FILE_BYTES:
            raise BundleInvalid(f"{path / name} is larger than {MAX_FILE_BYTES} bytes")
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{path / name} cannot be read: {error.strerror}") from error


def _manifest(path: Path, content: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleInvalid(f"{path / MANIFEST}: {where}: {first['msg']}") from error
    scores = manifest.score_thresholds
    if len(scores) != MAX_SCORE or any(low > high for low, high in zip(scores[:-1], scores[1:], strict=True)):
        raise BundleInvalid(f"{path / MANIFEST}: score_thresholds must be {MAX_SCORE} probabilities that never fall")
    if len(manifest.reference_numeric) != len(manifest.numeric) or len(manifest.reference_categorical) != len(
        manifest.categorical
    ):
        raise BundleInvalid(f"{path / MANIFEST}: the reference values do not match the inputs in number")
    return manifest


def _checked(path: Path, name: str, manifest: Manifest) -> bytes:
    if name not in manifest.files:
        raise BundleInvalid(f"{path / MANIFEST}: files has no digest of {name}")
    if Path(name).name != name:
        raise BundleInvalid(f"{path / MANIFEST}: files names something outside the bundle")
    content = _read(path, name)
    found, expected = hashlib.sha256(content).hexdigest(), manifest.files[name]
    if found != expected:
        raise BundleInvalid(f"{path / name} was altered: its sha256 is {found}, the manifest says {expected}")
    return content


def _json(path: Path, name: str, content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError as error:
        raise BundleInvalid(f"{path / name} is not JSON: {error}") from error


def _spec(path: Path, content: bytes, manifest: Manifest) -> tuple[Spec, Plan]:
    try:
        document = yaml.safe_load(content)
        spec = parse_spec(document if isinstance(document, dict) else {})
        plan = compile_plan(spec)
    except (yaml.YAMLError, SpecInvalid) as error:
        raise BundleInvalid(f"{path / FEATURES}: {error}") from error
    if spec.sha256 != manifest.spec_sha256:
        raise BundleInvalid(
            f"{path / FEATURES}: the spec's hash is {spec.sha256}, the manifest says {manifest.spec_sha256}"
        )
    for what, ours, theirs in (
        ("numeric", plan.numeric, manifest.numeric),
        ("categorical", plan.categorical, manifest.categorical),
    ):
        if ours != theirs:
            odd = sorted(set(ours) ^ set(theirs)) or ["their order"]
            raise BundleInvalid(f"{path}: the {what} inputs of spec and manifest differ in {', '.join(odd)}")
    return spec, plan


def _golden(path: Path, content: bytes, manifest: Manifest) -> Golden:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            golden = Golden(arrays["numeric"], arrays["categorical"], arrays["logit"], arrays["probability"])
    except (ValueError, KeyError, OSError) as error:
        raise BundleInvalid(f"{path / GOLDEN} does not hold the golden rows: {error}") from error
    rows = len(golden.logit)
    expected = {
        "numeric": (np.float32, (rows, len(manifest.numeric))),
        "categorical": (np.int64, (rows, len(manifest.categorical))),
        "logit": (np.float32, (rows,)),
        "probability": (np.float32, (rows,)),
    }
    for name, (dtype, shape) in expected.items():
        array = getattr(golden, name)
        if rows == 0 or array.dtype != dtype or array.shape != shape:
            raise BundleInvalid(
                f"{path / GOLDEN}: {name} is {array.dtype} {array.shape}, expected {dtype.__name__} {shape}"
            )
    return golden


def _check_reasons(path: Path, manifest: Manifest) -> None:
    inputs = {*manifest.numeric, *manifest.categorical}
    for reason in manifest.reasons:
        unknown = {*reason.features, reason.value_feature} - inputs
        if unknown:
            raise BundleInvalid(f"{path / MANIFEST}: reason {reason.code} names {', '.join(sorted(unknown))}, no input")
