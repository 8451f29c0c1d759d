"""The model: an ONNX graph in a session that gives the same answer whatever else is in the batch."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Self

import numpy as np
import structlog
from numpy.typing import NDArray

from service.binding import MAX_BOUND_ROWS, ROW_MULTIPLE, Bindings, power_of_two
from service.bundle import Bundle, Golden
from service.errors import BundleInvalid, ProviderUnavailable
from service.runtime import open_session, ort

# How far two scorings of a row may differ between CPU types, runtime versions and providers; on the same ones they are
# equal to the bit. A network that has learned a sharp edge turns float32's rounding into some 1e-5 of logit beside it.
PROBABILITY_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4  # times the logit's size, where that is beyond 1

MEASURED_ROWS = 32  # the batch of a busy service
MEASURE_SECONDS = 0.05  # for each number of threads that is tried
MIN_ROUNDS, MAX_ROUNDS = 3, 200
MAX_THREADS = 8
WORTH_TWICE_THE_THREADS = 1.5  # times as fast; for less the cores are of more use elsewhere

log = structlog.get_logger(__name__)


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
    """A session over one graph: inputs `numeric` and `categorical`, outputs `logit` and `probability`.

    Attributes:
        session: for whom needs more than `run`.
        provider: what it runs on.
        threads: of one call, where that is the CPU.
        bindings: what its inputs and outputs are bound to.
    """

    session: ort.InferenceSession
    provider: Provider
    threads: int
    bindings: Bindings

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        provider: Provider = Provider.CPU,
        threads: int | None = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Self:
        """Build the session from the bytes that were digested, and prove it on the golden rows.

        Args:
            bundle: what is loaded.
            provider: what to run it on.
            threads: of one call on the CPU; None measures how many are worth it, within 0.3 s.
            clock: seconds that never run backwards; measures.

        Raises:
            ProviderUnavailable: the provider was asked for by name and is not there.
            BundleInvalid: the graph's inputs or outputs are not ours, or it does not compute what training saw.
        """
        model = cls._open(bundle, provider, threads or 1)
        if threads is None and model.provider is Provider.CPU:
            model = cls._with_threads_worth_having(bundle, model, clock)
        logit, probability = model.run(bundle.golden.numeric, bundle.golden.categorical)
        worst = disagreement(logit, probability, bundle.golden.logit, bundle.golden.probability)
        if not worst <= 1:  # also when it is NaN
            raise BundleInvalid(
                f"{bundle.path}: golden rows differ from what training saw, by {worst:.3g} times what is allowed"
            )
        return model

    @classmethod
    def _open(cls, bundle: Bundle, provider: Provider, threads: int) -> Self:
        widths = len(bundle.manifest.numeric), len(bundle.manifest.categorical)
        return cls.from_bytes(bundle.onnx, *widths, provider=provider, threads=threads)

    @classmethod
    def _with_threads_worth_having(cls, bundle: Bundle, best: Self, clock: Callable[[], float]) -> Self:
        """On the CPU: twice the threads as long as that is `WORTH_TWICE_THE_THREADS` as fast."""
        for threads in thread_counts()[1:]:
            candidate = cls._open(bundle, Provider.CPU, threads)
            half_us, us = _batch_us((best, candidate), bundle.golden, clock)
            worth = half_us >= WORTH_TWICE_THE_THREADS * us
            log.debug("inference_threads_measured", threads=threads, us=us, us_with_half=half_us, worth=worth)
            if not worth:
                break
            best = candidate
        return best

    @classmethod
    def from_bytes(
        cls, onnx: bytes, numeric_width: int, categorical_width: int, *, provider: Provider, threads: int = 1
    ) -> Self:
        """Build the session.

        Raises:
            ProviderUnavailable: the provider was asked for by name and is not there.
            BundleInvalid: onnxruntime refuses the graph, or its inputs or outputs are not ours.
        """
        chosen = _choose(provider)
        if chosen is not Provider.CPU:
            try:
                return cls._on_device(onnx, numeric_width, categorical_width, chosen)
            except ProviderUnavailable as error:
                if provider is not Provider.AUTO:
                    raise
                log.warning("provider_given_up", provider=str(chosen), reason=str(error))
        try:
            session = open_session(onnx, {_ORT_NAMES[Provider.CPU]: {}}, threads=threads)
        except Exception as error:  # onnxruntime raises a different class for each way to be malformed
            raise BundleInvalid(f"onnxruntime refuses the graph: {error}") from error
        _check_signature(session, numeric_width, categorical_width)
        return cls(session, Provider.CPU, threads, Bindings(session, numeric_width, categorical_width))

    @classmethod
    def _on_device(cls, onnx: bytes, numeric_width: int, categorical_width: int, provider: Provider) -> Self:
        """Build the session on a GPU, where batches of a few sizes keep their place in its memory.

        On CUDA the kernels of a batch are captured as one graph where it allows that: a network this small is done
        sooner than its 60 kernels are launched.
        """
        session, bindings = _open_on_device(onnx, numeric_width, categorical_width, provider)
        _check_signature(session, numeric_width, categorical_width)
        return cls(session, provider, 1, bindings)

    def run(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score a batch.

        Args:
            numeric: float32 (batch, n), raw features, NaN where missing.
            categorical: int64 (batch, m), raw codes.

        Returns:
            (logit, probability), float32 (batch,) each; calibrated. Row by row independent of the batch: on the CPU to
            the bit, on a GPU to the tolerances above.
        """
        return self.bindings.run(numeric, categorical)


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


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts() -> tuple[int, ...]:
    """The numbers of threads to try here: 1, 2, 4 and so on."""
    return tuple(1 << power for power in range(min(usable_cores(), MAX_THREADS).bit_length()))


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


def _open_on_device(
    onnx: bytes, numeric_width: int, categorical_width: int, provider: Provider
) -> tuple[ort.InferenceSession, Bindings]:
    """The session, and its bindings warm.

    Raises:
        ProviderUnavailable: it does not open or run, or its libraries could not be loaded.
    """
    reason = ""
    for captures in (True, False) if provider is Provider.CUDA else (False,):
        providers = _device_providers(provider, numeric_width, categorical_width, captures=captures)
        try:
            session = open_session(onnx, providers, threads=1)
            if _ORT_NAMES[provider] in session.get_providers():
                bindings = Bindings(
                    session,
                    numeric_width,
                    categorical_width,
                    device="cuda",
                    staged=True,
                    size_of=power_of_two,
                    captures=captures,
                )
                bindings.warm_up()
                return session, bindings
            reason = f"its libraries could not be loaded; onnxruntime runs on {', '.join(session.get_providers())}"
        except Exception as error:  # noqa: BLE001 - a different class for each way to be refused
            reason = f"it refuses: {error}"
            log.warning("provider_refused", provider=str(provider), captures=captures, reason=str(error))
    raise ProviderUnavailable(f"provider {provider} was asked for, but {reason}")


def _device_providers(
    provider: Provider, numeric_width: int, categorical_width: int, *, captures: bool
) -> Mapping[str, Mapping[str, str]]:
    """Options by provider: the one that is wanted first, and those that run what it cannot.

    TensorRT builds its engine for the sizes it is told of. CUDA's TF32 has 10 bits of a number, too few for the golden
    rows.
    """
    cuda = {"use_tf32": "0", "enable_cuda_graph": str(int(captures))}
    others = {_ORT_NAMES[Provider.CUDA]: cuda, _ORT_NAMES[Provider.CPU]: {}}
    if provider is Provider.CUDA:
        return others
    shapes = {
        f"trt_profile_{bound}_shapes": f"numeric:{rows}x{numeric_width},categorical:{rows}x{categorical_width}"
        for bound, rows in (("min", ROW_MULTIPLE), ("opt", MEASURED_ROWS), ("max", MAX_BOUND_ROWS))
    }
    return {_ORT_NAMES[Provider.TENSORRT]: shapes, **others}


def _check_signature(session: ort.InferenceSession, numeric_width: int, categorical_width: int) -> None:
    """Refuse a graph whose inputs or outputs are not the contract's.

    Raises:
        BundleInvalid: with what was found and what was expected.
    """
    found = {item.name: (item.type, item.shape[1:]) for item in session.get_inputs()}
    expected = {
        "numeric": ("tensor(float)", [numeric_width]),
        "categorical": ("tensor(int64)", [categorical_width]),
    }
    if found != expected:
        raise BundleInvalid(f"the graph's inputs are {found}, expected {expected}")
    outputs = {item.name: item.type for item in session.get_outputs()}
    if outputs != {"logit": "tensor(float)", "probability": "tensor(float)"}:
        raise BundleInvalid(f"the graph's outputs are {outputs}, expected float logit and probability")


def _batch_us(models: tuple[OnnxModel, ...], golden: Golden, clock: Callable[[], float]) -> list[float]:
    """The middle time of a batch for each model, in µs; they take turns, so that what else runs here hits all alike."""
    numeric, categorical = golden.numeric[:MEASURED_ROWS], golden.categorical[:MEASURED_ROWS]
    times: list[list[float]] = [[] for _ in models]
    begun = clock()
    while len(times[0]) < MIN_ROUNDS or (len(times[0]) < MAX_ROUNDS and clock() - begun < MEASURE_SECONDS):
        for model, taken in zip(models, times, strict=True):
            started = clock()
            model.run(numeric, categorical)
            taken.append(clock() - started)
    return [round(median(taken) * 1e6, 1) for taken in times]
