"""What a figure was measured on: the machine and the versions that matter for it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("numpy", "numba", "onnxruntime", "uvicorn", "uvloop", "pydantic", "fastapi", "redis")


def describe_machine() -> str:
    """One line about the machine, one about versions, one about what else it is doing."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    busy, cores = os.getloadavg()[0], os.cpu_count()
    return (
        f"{cores} x {_processor()}, {platform.system()} {platform.release()}\n"
        f"Python {platform.python_version()}, {packages}\n"
        f"load average before the start: {busy:.1f}{' - the machine is busy, expect worse' if busy > 1 else ''}"
    )


def _processor() -> str:
    """The processor's name, as Linux has it; elsewhere its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
