"""What may be loaded by what, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = {
    "fastapi",
    "starlette",
    "uvicorn",
    "redis",
    "onnxruntime",
    "pydantic",
    "prometheus_client",
    "polars",
    "torch",
}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement loads in a new process."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["service.features.offline", "service.features.online"])
def test_the_feature_engine_loads_nothing_but_numpy_and_numba(module: str) -> None:
    """A Spark or Ray worker that folds features needs neither the web framework nor the runtime nor a store."""
    loaded = loaded_by(f"import {module}")
    assert "numba" in loaded
    assert loaded & HEAVY == set()


def test_serving_loads_nothing_that_only_training_needs() -> None:
    """The serving image holds no torch; so nothing the application imports may ask for it."""
    loaded = loaded_by("import service.app, service.__main__")
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "polars", "onnx", "onnxscript", "matplotlib", "typer", "httpx", "training"} == set()
