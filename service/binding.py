"""Bindings: batches of a few fixed sizes, whose inputs and outputs stay at one place in memory."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime import ort

HOST = "cpu"  # the device that works on the memory of this process
MAX_BOUND_ROWS = 1024  # of one batch; more go in several. No row gets cheaper beyond (docs/benchmarks.md)
ALIGNMENT = 64  # bytes: a cache line, and what onnxruntime gives its own tensors

# At a batch of 4 rows or more onnxruntime takes other kernels than at 1, and results differ in the last bits; padded to
# a multiple of 4 they do not depend on the batch (docs/architecture.md has the measurement). The padding costs nothing.
ROW_MULTIPLE = 4

Number = TypeVar("Number", np.float32, np.int64)


def multiple_of_four(rows: int) -> int:
    """The size of batch for so many rows on a CPU: 4, 8, 12, 16 and so on."""
    return max(ROW_MULTIPLE, rows + -rows % ROW_MULTIPLE)


def power_of_two(rows: int) -> int:
    """The size of batch for so many rows on a GPU: 4, 8, 16, 32 and so on, a captured graph for each."""
    return max(ROW_MULTIPLE, 1 << (rows - 1).bit_length())


@dataclass(frozen=True, slots=True)
class _Copy:
    """Rows in this process's memory, and the same on the device."""

    here: NDArray[np.float32] | NDArray[np.int64]
    there: ort.OrtValue


@dataclass(frozen=True, slots=True)
class _Size:
    """One size of batch, bound.

    Attributes:
        binding: what the session reads and writes.
        options: of its runs; they name the captured graph.
        uploads: inputs to copy to the device before a run; none where it works on the memory here.
        downloads: outputs to copy back after it.
    """

    binding: ort.IOBinding
    options: ort.RunOptions | None
    uploads: tuple[_Copy, ...]
    downloads: tuple[_Copy, ...]


@dataclass(frozen=True, slots=True)
class _Batch:
    """One number of rows: the part of the memory that it takes, and the size of batch that is run for it."""

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    logit: NDArray[np.float32]
    probability: NDArray[np.float32]
    size: _Size


class Bindings:
    """Runs a session without allocating, naming or checking its inputs and outputs at each call.

    All batches share the same memory, which therefore stays in the cache: one runs at a time, whoever asks. Rows of
    padding hold what an earlier batch left there; no row depends on another.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        numeric_width: int,
        categorical_width: int,
        *,
        device: str = HOST,
        staged: bool = False,
        size_of: Callable[[int], int] = multiple_of_four,
        captures: bool = False,
    ) -> None:
        """Bindings of one session.

        Args:
            session: inputs `numeric` and `categorical`, outputs `logit` and `probability`.
            numeric_width: n of `numeric`, float32 (batch, n).
            categorical_width: m of `categorical`, int64 (batch, m).
            device: where the session works, as onnxruntime calls it.
            staged: whether inputs and outputs have copies on the device, as one with memory of its own needs.
            size_of: the size of batch that is run for so many rows; at least as many.
            captures: whether the session captures a graph for each size and replays it.
        """
        self._session = session
        self._device = device
        self._staged = staged
        self._size_of = size_of
        self._captures = captures
        self._numeric = _aligned((MAX_BOUND_ROWS, numeric_width), np.float32)
        self._categorical = _aligned((MAX_BOUND_ROWS, categorical_width), np.int64)
        self._logit = _aligned((MAX_BOUND_ROWS,), np.float32)
        self._probability = _aligned((MAX_BOUND_ROWS,), np.float32)
        self._sizes: dict[int, _Size] = {}
        self._batches: dict[int, _Batch] = {}
        self._lock = threading.Lock()  # onnxruntime lets go of the interpreter while it works

    def run(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score a batch of any length.

        Args:
            numeric: float32 (batch, n).
            categorical: int64 (batch, m).

        Returns:
            (logit, probability), float32 (batch,) each, in memory of their own.
        """
        rows = len(numeric)
        assert len(categorical) == rows, f"{len(categorical)} rows of codes for {rows} rows of numbers"
        if rows > MAX_BOUND_ROWS:
            return self._run_parts(numeric, categorical)
        with self._lock:
            batch = self._batches.get(rows) or self._batch(rows)
            size = batch.size
            np.copyto(batch.numeric, numeric, casting="no")
            np.copyto(batch.categorical, categorical, casting="no")
            for upload in size.uploads:
                upload.there.update_inplace(upload.here)
            self._session.run_with_iobinding(size.binding, size.options)
            for download in size.downloads:
                np.copyto(download.here, download.there.numpy())
            return batch.logit.copy(), batch.probability.copy()

    def warm_up(self) -> None:
        """Run each size once: the first run allocates, and captures the graph where there is one."""
        rows = 1
        while rows <= MAX_BOUND_ROWS:
            self.run(np.zeros_like(self._numeric[:rows]), np.zeros_like(self._categorical[:rows]))
            rows = self._size_of(rows) + 1

    def _run_parts(
        self, numeric: NDArray[np.float32], categorical: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [slice(first, first + MAX_BOUND_ROWS) for first in range(0, len(numeric), MAX_BOUND_ROWS)]
        logits, probabilities = zip(*(self.run(numeric[part], categorical[part]) for part in parts), strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def _batch(self, rows: int) -> _Batch:
        """What runs so many rows, made when it is first asked for."""
        size = self._size_of(rows)
        if size not in self._sizes:
            self._sizes[size] = self._bind(size)
        batch = self._batches[rows] = _Batch(
            self._numeric[:rows],
            self._categorical[:rows],
            self._logit[:rows],
            self._probability[:rows],
            self._sizes[size],
        )
        return batch

    def _bind(self, rows: int) -> _Size:
        binding = self._session.io_binding()
        uploads = (self._placed(self._numeric[:rows]), self._placed(self._categorical[:rows]))
        downloads = (self._placed(self._logit[:rows]), self._placed(self._probability[:rows]))
        for name, upload in zip(("numeric", "categorical"), uploads, strict=True):
            binding.bind_ortvalue_input(name, upload.there)
        for name, download in zip(("logit", "probability"), downloads, strict=True):
            binding.bind_ortvalue_output(name, download.there)
        if not self._staged:
            return _Size(binding, self._options(rows), (), ())
        return _Size(binding, self._options(rows), uploads, downloads)

    def _placed(self, rows: NDArray[Number]) -> _Copy:
        if self._staged:
            there = ort.OrtValue.ortvalue_from_shape_and_type(rows.shape, rows.dtype.type, self._device)
        else:
            there = ort.OrtValue.ortvalue_from_numpy(rows, self._device)  # no copy: a view of the same memory
        return _Copy(rows, there)

    def _options(self, rows: int) -> ort.RunOptions | None:
        """A captured graph reads and writes where it did when it was captured: one for each size."""
        if not self._captures:
            return None
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(rows))
        return options


def _aligned(shape: tuple[int, ...], number: type[Number]) -> NDArray[Number]:
    """Zeros that begin on a cache line."""
    size = int(np.prod(shape)) * np.dtype(number).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(number).reshape(shape)
