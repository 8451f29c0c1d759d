"""The network in KServe's Python server, V1 protocol: `python -m benchmarks.peers.kserve_server --http_port PORT`.

Settings are options of KServe's own command line. It has none for three things, which are done here: to listen on this
machine only, and to write neither an access log nor two lines of timings for each request.
"""

import logging
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from kserve import Model, ModelServer  # type: ignore[import-not-found] # it is not in our environment
from kserve.protocol.rest.server import RESTServer  # type: ignore[import-not-found] # the same

from benchmarks.peers.session import open_session

Headers = Mapping[str, str]


class Instance(TypedDict):
    """One row; None where a number is missing."""

    numeric: list[float | None]
    categorical: list[int]


class Request(TypedDict):
    """What is posted."""

    instances: list[Instance]


class Answer(TypedDict):
    """A probability for each row."""

    predictions: list[float]


class Network(Model):  # type: ignore[misc] # the same
    """The network as a custom model."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._session = open_session()
        self.ready = True

    async def predict(self, request: Request, headers: Headers, response_headers: Headers | None = None) -> Answer:  # noqa: ARG002 - KServe's signature
        """Score the rows of one request: KServe for Python has no batching of its own."""
        rows = request["instances"]
        numeric = np.array([row["numeric"] for row in rows], np.float32)  # None becomes NaN
        categorical = np.array([row["categorical"] for row in rows], np.int64)
        (probabilities,) = self._session.run(["probability"], {"numeric": numeric, "categorical": categorical})
        return {"predictions": probabilities.tolist()}


def main() -> None:
    """Serve until SIGTERM."""
    server = ModelServer()
    server.register_model(Network("touchstone"))
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).disabled = True
    rest = RESTServer("kserve.model_server:app", server.dataplane, server.model_repository_extension, server.http_port)
    rest.config.host = "127.0.0.1"
    rest.run()


if __name__ == "__main__":
    main()
