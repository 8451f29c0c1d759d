"""A payment's row as the protocols of the peers have it, and where their replies have its probability."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.load.contender import Payment

# Open Inference Protocol, "V2": https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
V2_READY = "/v2/models/touchstone/ready"
V2_INFER = "/v2/models/touchstone/infer"


def v1_request(payment: Payment) -> bytes:
    """V1 of KServe: rows as objects."""
    body = f'{{"instances":[{{"numeric":{_numbers(payment.numeric)},"categorical":{_codes(payment.categorical)}}}]}}'
    return _post("/v1/models/touchstone:predict", body.encode())


def v1_probability(body: bytes) -> float:
    """Of its reply."""
    return float(json.loads(body)["predictions"][0])


def v2_request(payment: Payment) -> bytes:
    """V2 in JSON: tensors by name, flat, with their shapes."""
    body = (
        f'{{"inputs":[{{"name":"numeric","datatype":"FP32","shape":[1,{len(payment.numeric)}],'
        f'"data":{_numbers(payment.numeric)}}},'
        f'{{"name":"categorical","datatype":"INT64","shape":[1,{len(payment.categorical)}],'
        f'"data":{_codes(payment.categorical)}}}]}}'
    )
    return _post(V2_INFER, body.encode())


def v2_probability(body: bytes) -> float:
    """Of its reply."""
    return float(json.loads(body)["outputs"][0]["data"][0])


def v2_binary_request(payment: Payment) -> bytes:
    """V2 with Triton's extension: the tensors stand behind the JSON as they are in memory. The reply is as above."""
    numeric = np.array(payment.numeric, "<f4")  # None becomes NaN
    categorical = np.array(payment.categorical, "<i8")
    head = json.dumps(
        {"inputs": [_binary_tensor("numeric", "FP32", numeric), _binary_tensor("categorical", "INT64", categorical)]}
    ).encode()
    body = head + numeric.tobytes() + categorical.tobytes()
    return _post(V2_INFER, body, f"Inference-Header-Content-Length: {len(head)}\r\n")


def keywords_request(payment: Payment) -> bytes:
    """BentoML's way: the arguments of the endpoint's function by name."""
    body = f'{{"numeric":[{_numbers(payment.numeric)}],"categorical":[{_codes(payment.categorical)}]}}'
    return _post("/score", body.encode())


def keywords_probability(body: bytes) -> float:
    """Of its reply: what the function returned."""
    return float(json.loads(body)[0])


def _numbers(row: Sequence[float | None]) -> str:
    """JSON, each number as the shortest one that is the same float32, which is the quickest to read; null: missing."""
    return f"[{','.join(np.array(row, np.float32).astype(str)).replace('nan', 'null')}]"


def _codes(row: Sequence[int]) -> str:
    return json.dumps(list(row), separators=(",", ":"))


def _binary_tensor(name: str, datatype: str, row: npt.NDArray[np.generic]) -> dict[str, object]:
    shape, parameters = [1, len(row)], {"binary_data_size": row.nbytes}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def _post(path: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: touchstone\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
