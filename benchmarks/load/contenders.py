"""The contenders that are here without further installation: a ceiling, the service as tutorials write it, and ours."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from benchmarks.connection import post_request
from benchmarks.load import plain
from benchmarks.load.contender import Contender, Payment

RAW_ASGI = "raw ASGI"
PLAIN = "plain"
MEMORY = "touchstone memory"
REDIS = "touchstone redis"
ASGI = "touchstone redis, ASGI"
TWO_WORKERS = "touchstone redis, 2 workers"

API_KEYS_FILE, MODEL_DIR = "TOUCHSTONE_API_KEYS_FILE", "TOUCHSTONE_MODEL_DIR"
KEY = "the-key-of-the-load-generator-and-of-nobody-else"


def our_settings(directory: Path, *, model_dir: Path) -> dict[str, str]:
    """Settings that all of ours share; the file of those who may ask is put into a directory."""
    keys = directory / "keys.json"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys.write_bytes(orjson.dumps({"clients": [{"name": "bench", "sha256": digest}]}))
    return {
        API_KEYS_FILE: str(keys),
        MODEL_DIR: str(model_dir),
        "TOUCHSTONE_STORE_TIMEOUT_MS": "1000",  # what a busy machine delays shall be measured, not given up
    }


def own_contenders(directory: Path, settings: Mapping[str, str], *, server_cores: int) -> list[Contender]:
    """All of them.

    Args:
        directory: where each of ours has one for its state.
        settings: what `our_settings` gave.
        server_cores: how many cores a server may have, at most.
    """
    return [
        raw_asgi(),
        plain_service(settings),
        touchstone(MEMORY, directory, settings, shared=False),
        touchstone(REDIS, directory, settings),
        touchstone(ASGI, directory, {**settings, "TOUCHSTONE_FAST_LANE": "off"}),
        touchstone(TWO_WORKERS, directory, settings, workers=2, server_cores=server_cores),
    ]


def raw_asgi() -> Contender:
    """A constant answer."""
    return Contender(
        RAW_ASGI, lambda port: _python("benchmarks.load.raw_asgi", str(port)), {}, "/", score_request, stateless=True
    )


def plain_service(settings: Mapping[str, str]) -> Contender:
    """The ordinary way, with the same bundle and the same keys."""
    return Contender(
        PLAIN,
        lambda port: _python(
            *("uvicorn", "--factory", "benchmarks.load.plain:create_app", "--port", str(port)),
            *("--no-access-log", "--log-level", "error"),
        ),
        {plain.MODEL_VARIABLE: settings[MODEL_DIR], plain.KEYS_VARIABLE: settings[API_KEYS_FILE]},
        "/health",
        score_request,
        fault_in=_plain_fault,
        redis_variable=plain.REDIS_VARIABLE,
    )


def touchstone(
    name: str,
    directory: Path,
    settings: Mapping[str, str],
    *,
    shared: bool = True,
    workers: int = 1,
    server_cores: int | None = None,
) -> Contender:
    """One of ours, with default settings but for those given; its state is in a directory of its name."""
    missing = None
    if server_cores is not None and server_cores < workers:
        missing = f"not measurable here: {workers} workers, the load generator and Redis each need a core"
    environment = {**settings, "TOUCHSTONE_STATE_DIR": str(directory / name), "TOUCHSTONE_WORKERS": str(workers)}
    return Contender(
        name,
        lambda port: _python("service", "--port", str(port)),
        environment,
        "/health/ready",
        score_request,
        missing=missing,
        fault_in=touchstone_fault,
        redis_variable="TOUCHSTONE_STORE_URL" if shared else None,
        cores=workers,
    )


def score_request(payment: Payment) -> bytes:
    """A payment as all of these are sent it."""
    return post_request("/score", payment.body, key=KEY)


def touchstone_fault(body: bytes) -> str | None:
    """A decision of ours must have been made with everything that it could be made with."""
    answer = _object(body)
    if not isinstance(answer.get("probability"), float) or "decision_id" not in answer:
        return "there is no probability or no decision"
    degraded = answer.get("degraded")
    return f"it was made without {degraded}" if degraded else None


def _plain_fault(body: bytes) -> str | None:
    answer = _object(body)
    complete = isinstance(answer.get("probability"), float) and "decision_id" in answer
    return None if complete else "there is no probability or no decision"


def _object(body: bytes) -> dict[str, object]:
    answer = orjson.loads(body)
    assert isinstance(answer, dict), answer
    return answer


def _python(module: str, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", module, *arguments]
