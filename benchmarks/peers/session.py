"""The network in onnxruntime as every peer opens it: one thread that does not spin while it waits."""

import os

import onnxruntime as ort

MODEL_VARIABLE = "PEER_MODEL"  # the environment variable that names the .onnx file


def open_session() -> ort.InferenceSession:
    """Open the file that the environment names.

    Inputs `numeric` float32 (n, f), NaN where a number is missing, and `categorical` int64 (n, c); output `probability`
    float32 (n,).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(os.environ[MODEL_VARIABLE], options, providers=["CPUExecutionProvider"])
