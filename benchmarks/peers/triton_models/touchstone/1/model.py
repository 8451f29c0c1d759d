"""The network in Triton's Python backend, which wants it under this name in a directory named for its version."""  # noqa: INP001

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as backend  # type: ignore[import-not-found] # Triton brings it

from benchmarks.peers.session import open_session


class TritonPythonModel:
    """The network; Triton looks for this name."""

    def initialize(self, args: Mapping[str, str]) -> None:  # noqa: ARG002 - Triton's signature
        """Open it."""
        self._session = open_session()

    def execute(self, requests: Sequence["backend.InferenceRequest"]) -> "list[backend.InferenceResponse]":
        """Score the requests that Triton has gathered, each of which has one row."""
        inputs = {name: _rows(requests, name) for name in ("numeric", "categorical")}
        (probabilities,) = self._session.run(["probability"], inputs)
        return [
            backend.InferenceResponse([backend.Tensor("probability", row)]) for row in probabilities.reshape(-1, 1, 1)
        ]


def _rows(requests: Sequence["backend.InferenceRequest"], name: str) -> npt.NDArray[np.generic]:
    return np.concatenate([backend.get_input_tensor_by_name(request, name).as_numpy() for request in requests])
