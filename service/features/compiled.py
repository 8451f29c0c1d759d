"""How the engine's numeric functions are compiled, and where the machine code is kept between starts."""

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numba
import numpy as np
from numba.core import caching
from numpy.typing import NDArray

# Machine code for the plain architecture: a cache built on one CPU is valid on every other of its kind, and no fused
# multiply-add can make two machines differ in the last bit. It has to be set before anything is compiled.
numba.config.CPU_NAME = "generic"  # type: ignore[attr-defined] # set from the environment, so not declared
numba.config.CPU_FEATURES = ""  # type: ignore[attr-defined] # the same; without it the host's features are used

_log = logging.getLogger(__name__)

# The arrays and numbers of compiled code. numba infers types by itself; these are for the reader and the checker.
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int = int
Number = float | np.float64

if TYPE_CHECKING:
    int64 = int  # the checker knows elements of arrays as Any and whole numbers as int; numba knows both as int64
    unsigned = int
else:
    int64 = np.int64
    unsigned = np.uint64  # for an index in a hot loop: what cannot be negative is not counted from the end

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def compiled(function: AnyFunction) -> AnyFunction:
    """Compile a function that other compiled functions call; it becomes a part of them, and of their cache.

    Most do so little that a call would cost more, with seven words for each array, and so would counting references to
    arrays, which here belong to the entry point throughout.
    """
    return numba.njit(  # type: ignore[call-overload] # numba declares all its options but the last
        function, nogil=True, error_model="numpy", forceinline=True, _nrt=False
    )


def entry_point(function: AnyFunction) -> AnyFunction:
    """Compile a function that Python calls, and keep its machine code on disk: 0.1 s to load, seconds to compile."""
    dispatcher = numba.njit(function, nogil=True, error_model="numpy")
    dispatcher._cache = _KernelCache(function)  # noqa: SLF001 - what `cache=True` does, with our locator
    return dispatcher


def cache_directory() -> Path:
    """Where machine code is kept: beside the source if it is there already or can be written, else the user's cache."""
    beside = Path(__file__).parent / "__pycache__"
    if any(beside.glob("*.nbi")) or os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return beside
    return Path.home() / ".cache" / "touchstone"


class _Locator(caching._CacheLocator):  # noqa: SLF001 - numba documents locators as its extension point
    """Finds the cache without numba's write probe, which refuses a read-only root even when the cache is complete."""

    def __init__(self, line: int, source: Path) -> None:
        self._line = line
        self._source = source

    @classmethod
    def from_function(cls, py_func: Callable[..., object], py_file: str) -> "_Locator":
        return cls(py_func.__code__.co_firstlineno, Path(py_file))

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        """One digest over the engine's modules and its own: an entry point holds the code of those that it calls."""
        sources = sorted({*Path(__file__).resolve().parent.glob("*.py"), self._source.resolve()})
        return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - as numba has it


class _KernelCache(caching.FunctionCache):
    """A cache that can be read-only or damaged: then the function is compiled, and the log says so."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: object, target_context: object) -> object:
        try:
            return super().load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _log.warning("kernel cache could not be read, compiling instead: %s", error)
            return None

    def save_overload(self, sig: object, data: object) -> None:
        try:
            Path(self.cache_path).mkdir(parents=True, exist_ok=True)
            super().save_overload(sig, data)
        except OSError as error:
            _log.warning("kernel cache could not be written, the next start will compile again: %s", error)
