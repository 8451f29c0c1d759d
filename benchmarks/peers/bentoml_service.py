"""The network as a service of BentoML: `bentoml serve benchmarks.peers.bentoml_service:Network`."""

import bentoml  # type: ignore[import-not-found] # it is not in our environment
import numpy as np

from benchmarks.peers.session import open_session


@bentoml.service(name="touchstone", workers=1, logging={"access": {"enabled": False}})
class Network:
    """The network behind an endpoint of its own."""

    def __init__(self) -> None:
        self._session = open_session()

    @bentoml.api  # type: ignore[untyped-decorator] # the same
    async def score(self, numeric: list[list[float | None]], categorical: list[list[int]]) -> list[float]:
        """Score the rows of one request, None where a number is missing."""
        inputs = {"numeric": np.array(numeric, np.float32), "categorical": np.array(categorical, np.int64)}
        (probabilities,) = self._session.run(["probability"], inputs)
        scored: list[float] = probabilities.tolist()
        return scored
