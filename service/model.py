"""The model: an ONNX graph in a session that gives the same answer whatever else is in the batch."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

# onnxruntime reports sessions and models to its maker unless this stands in the environment before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from service.bundle import Bundle
from service.errors import BundleInvalid, ProviderUnavailable

# At a batch of 4 rows or more onnxruntime takes other kernels than at 1, and results differ in the last bits; padded to
# a multiple of 4 they do not depend on the batch (docs/architecture.md has the measurement). The padding costs nothing.
ROW_MULTIPLE = 4
# How far two scorings of a row may differ between CPU types, runtime versions and providers; on the same ones they are
# equal to the bit. A network that has learned a sharp edge turns float32's rounding into some 1e-5 of logit beside it.
PROBABILITY_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4  # times the logit's size, where that is beyond 1


class Provider(StrEnum):
    """What to run the graph on. `auto` takes CUDA where it is, else the CPU, and says which."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


_ORT_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A session over one graph: inputs `numeric` and `categorical`, outputs `logit` and `probability`."""

    session: ort.InferenceSession
    provider: Provider
    numeric_width: int
    categorical_width: int

    @classmethod
    def load(cls, bundle: Bundle, *, provider: Provider = Provider.CPU, threads: int = 1) -> Self:
        """Build the session from the bytes that were digested, and prove it on the golden rows.

        Raises:
            ProviderUnavailable: the provider was asked for by name and is not there.
            BundleInvalid: the graph's inputs or outputs are not ours, or it does not compute what training saw.
        """
        manifest = bundle.manifest
        model = cls.from_bytes(
            bundle.onnx, len(manifest.numeric), len(manifest.categorical), provider=provider, threads=threads
        )
        logit, probability = model.run(bundle.golden.numeric, bundle.golden.categorical)
        worst = disagreement(logit, probability, bundle.golden.logit, bundle.golden.probability)
        if not worst <= 1:  # also when it is NaN
            raise BundleInvalid(
                f"{bundle.path}: golden rows differ from what training saw, by {worst:.3g} times what is allowed"
            )
        return model

    @classmethod
    def from_bytes(
        cls, onnx: bytes, numeric_width: int, categorical_width: int, *, provider: Provider, threads: int = 1
    ) -> Self:
        """Build the session. From bytes only: a path would let the graph name other files."""
        chosen = _choose(provider)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle service uses no CPU
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(onnx, options, providers=_with_fallback(chosen))
        except Exception as error:  # onnxruntime raises a different class for each way to be malformed
            raise BundleInvalid(f"onnxruntime refuses the graph: {error}") from error
        if _ORT_NAMES[chosen] not in session.get_providers():
            if provider is not Provider.AUTO:
                raise ProviderUnavailable(
                    f"provider {chosen} was asked for, but its libraries could not be loaded; onnxruntime runs on "
                    f"{', '.join(session.get_providers())}"
                )
            chosen = Provider.CPU
        model = cls(session, chosen, numeric_width, categorical_width)
        model.check_signature()
        return model

    def run(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score a batch.

        Args:
            numeric: float32 (batch, n), raw features, NaN where missing.
            categorical: int64 (batch, m), raw codes.

        Returns:
            (logit, probability), float32 (batch,) each; calibrated. Row by row independent of the batch.
        """
        rows = len(numeric)
        padding = -rows % ROW_MULTIPLE
        if padding:
            numeric = np.concatenate([numeric, np.zeros((padding, self.numeric_width), np.float32)])
            categorical = np.concatenate([categorical, np.zeros((padding, self.categorical_width), np.int64)])
        logit, probability = self.session.run(
            ("logit", "probability"), {"numeric": numeric, "categorical": categorical}
        )
        return logit[:rows], probability[:rows]

    def check_signature(self) -> None:
        """Refuse a graph whose inputs or outputs are not the contract's.

        Raises:
            BundleInvalid: with what was found and what was expected.
        """
        found = {item.name: (item.type, item.shape[1:]) for item in self.session.get_inputs()}
        expected = {
            "numeric": ("tensor(float)", [self.numeric_width]),
            "categorical": ("tensor(int64)", [self.categorical_width]),
        }
        if found != expected:
            raise BundleInvalid(f"the graph's inputs are {found}, expected {expected}")
        outputs = {item.name: item.type for item in self.session.get_outputs()}
        if outputs != {"logit": "tensor(float)", "probability": "tensor(float)"}:
            raise BundleInvalid(f"the graph's outputs are {outputs}, expected float logit and probability")


def disagreement(
    logit: NDArray[np.float32],
    probability: NDArray[np.float32],
    expected_logit: NDArray[np.float32],
    expected_probability: NDArray[np.float32],
) -> float:
    """The largest difference between two scorings of the same rows, all (n,), as a multiple of what is allowed."""
    logits = np.abs(logit - expected_logit) / (LOGIT_TOLERANCE * np.maximum(1, np.abs(expected_logit)))
    probabilities = np.abs(probability - expected_probability) / PROBABILITY_TOLERANCE
    return float(np.maximum(logits, probabilities).max())


def available_providers() -> tuple[Provider, ...]:
    """The providers this installation of onnxruntime was built with, best first."""
    built = ort.get_available_providers()
    return tuple(
        provider for provider in (Provider.TENSORRT, Provider.CUDA, Provider.CPU) if _ORT_NAMES[provider] in built
    )


def _choose(provider: Provider) -> Provider:
    available = available_providers()
    if provider is Provider.AUTO:
        return Provider.CUDA if Provider.CUDA in available else Provider.CPU
    if provider not in available:
        raise ProviderUnavailable(
            f"provider {provider} was asked for, this onnxruntime has {', '.join(available)}; "
            "install the gpu extra, or choose auto or cpu"
        )
    return provider


def _with_fallback(provider: Provider) -> list[str]:
    """The provider first, then the CPU for what it cannot run."""
    return list(dict.fromkeys([_ORT_NAMES[provider], _ORT_NAMES[Provider.CPU]]))
