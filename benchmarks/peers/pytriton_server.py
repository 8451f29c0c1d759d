"""The network in a process that PyTriton puts behind Triton: `python -m benchmarks.peers.pytriton_server PORT`."""

import signal
import sys

import numpy as np
import numpy.typing as npt
from pytriton.decorators import batch  # type: ignore[import-not-found] # it is not in our environment
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found] # the same
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found] # the same

from benchmarks.peers.session import open_session

MOST_ROWS = 64  # of a batch


def main(port: int) -> None:
    """Serve until SIGTERM."""
    session = open_session()

    @batch  # type: ignore[untyped-decorator] # the same
    def score(numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float32]]:
        """Score the rows that Triton has gathered; a tensor of Triton has at least one dimension beside the batch."""
        (probabilities,) = session.run(["probability"], {"numeric": numeric, "categorical": categorical})
        return [probabilities.reshape(-1, 1)]

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # PyTriton ends its processes on SIGINT only
    config = TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="touchstone",
            infer_func=score,
            inputs=[
                Tensor(name="numeric", dtype=np.float32, shape=(-1,)),
                Tensor(name="categorical", dtype=np.int64, shape=(-1,)),
            ],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MOST_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
