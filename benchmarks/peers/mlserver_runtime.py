"""The network as a runtime of MLServer, V2 protocol in JSON: `mlserver start benchmarks/peers/mlserver`."""

from mlserver import MLModel  # type: ignore[import-not-found] # it is not in our environment
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found] # the same
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found] # the same

from benchmarks.peers.session import open_session


class Network(MLModel):  # type: ignore[misc] # the same
    """The network as a custom runtime."""

    async def load(self) -> bool:
        """Open it; it is ready afterwards."""
        self._session = open_session()
        return True

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """Score the rows of one request, or of several where MLServer gathers them."""
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in request.inputs}  # null becomes NaN
        (probabilities,) = self._session.run(["probability"], inputs)
        output = NumpyCodec.encode_output("probability", probabilities.reshape(-1, 1))
        return InferenceResponse(model_name=self.name, outputs=[output])
