"""The runtime: onnxruntime, loaded so that it reports to nobody, with the options that were found to be the fastest."""

import os
from collections.abc import Mapping

# onnxruntime reports sessions and models to its maker unless this stands in the environment before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

__all__ = ["open_session", "ort"]


def open_session(onnx: bytes, providers: Mapping[str, Mapping[str, str]], *, threads: int) -> ort.InferenceSession:
    """A session over a graph. From bytes only: a path would let the graph name other files.

    Args:
        onnx: the graph.
        providers: options by onnxruntime's name of the provider, the preferred one first.
        threads: of one call, on the CPU.

    Raises:
        Exception: a different class for each way in which graph or provider can be wrong.
    """
    named = [(name, dict(options)) for name, options in providers.items()]
    return ort.InferenceSession(onnx, _options(threads), providers=named, enable_fallback=0)


def _options(threads: int) -> ort.SessionOptions:
    """Options for many short calls from one thread (docs/benchmarks.md has the figures).

    What stays at its default was measured too. The levels of graph optimisation differ by less than 1 µs in 35, so the
    highest stays. Without the arena a batch of 4 takes 1 µs less, but one of 256 some 200 µs more after a pause and one
    of 1024 twice the time, as the memory goes back to the kernel after each. Memory patterns make no difference.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle service uses no CPU
    options.log_severity_level = 3
    return options
