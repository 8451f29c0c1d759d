"""The peers as contenders: what starts each of them, and with which settings.

Each is sent the network's input ready-made: it computes no features, keeps no history, decides nothing and explains
nothing. Each has one process that runs the network, and the fast settings of its documentation; of two ways to run
one the better is here, or both.
"""

import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.load.contender import Contender
from benchmarks.peers import protocols
from benchmarks.peers.session import MODEL_VARIABLE
from benchmarks.serving import PROJECT

ENVIRONMENTS = PROJECT / "build" / "peers"  # one for each, made by `make bench-peers`
HERE = Path(__file__).resolve().parent
BATCHES = {"MLSERVER_MODEL_MAX_BATCH_SIZE": "32", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.001"}  # rows, seconds


def contenders(model: Path | None = None) -> list[Contender]:
    """All peers; those that cannot run here say why.

    Args:
        model: the .onnx file that they serve; None: the shipped one.
    """
    serves = {"PYTHONPATH": str(PROJECT), MODEL_VARIABLE: str(model or _shipped_model())}
    return [
        _triton(serves),
        _pytriton(serves),
        _kserve(serves),
        _mlserver(serves),
        _mlserver_batching(serves),
        _bentoml(serves),
    ]


def _triton(serves: Mapping[str, str]) -> Contender:
    """Triton with the network in its Python backend. It is sent binary tensors; JSON cost it about the same."""
    server = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENTS / "triton")})) / "pytriton/tritonserver"
    return Contender(
        name="Triton",
        command=lambda port: [
            str(server / "bin/tritonserver"),
            *("--model-repository", str(HERE / "triton_models")),
            *("--backend-directory", str(server / "backends")),
            *("--http-address", "127.0.0.1", "--http-port", str(port)),
            *("--allow-grpc", "false", "--allow-metrics", "false"),
        ],
        environment={**serves, **_interpreter_of_triton()},
        ready=protocols.V2_READY,
        request=protocols.v2_binary_request,
        missing=_not_installed("triton") or _without_libpython(),
        stateless=True,
        probability_in=protocols.v2_probability,
    )


def _pytriton(serves: Mapping[str, str]) -> Contender:
    """The same Triton in front of a process of PyTriton's, as that one's users have it."""
    return replace(
        _triton(serves),
        name="Triton by PyTriton",
        command=lambda port: [_program("triton", "python"), "-m", "benchmarks.peers.pytriton_server", str(port)],
    )


def _kserve(serves: Mapping[str, str]) -> Contender:
    """KServe's server for Python. Its protocol V1 took less than V2, be it in JSON or binary."""
    return Contender(
        name="KServe",
        command=lambda port: [
            *(_program("kserve", "python"), "-m", "benchmarks.peers.kserve_server", "--http_port", str(port)),
            *("--enable_grpc", "false", "--enable_latency_logging", "false"),
        ],
        environment=serves,
        ready=protocols.V2_READY,
        request=protocols.v1_request,
        missing=_not_installed("kserve"),
        stateless=True,
        probability_in=protocols.v1_probability,
    )


def _mlserver(serves: Mapping[str, str]) -> Contender:
    """MLServer, which runs the network in its own process and not in one of its workers: that saves two queues."""
    return Contender(
        name="MLServer",
        command=lambda port: [
            *("/usr/bin/env", f"MLSERVER_HTTP_PORT={port}"),  # it has no option for it
            *(_program("mlserver", "mlserver"), "start", str(HERE / "mlserver")),
        ],
        environment=serves,
        ready=protocols.V2_READY,
        request=protocols.v2_request,
        missing=_not_installed("mlserver"),
        stateless=True,
        probability_in=protocols.v2_probability,
    )


def _mlserver_batching(serves: Mapping[str, str]) -> Contender:
    """The same with requests gathered for a millisecond: better where there are many, worse where there is one."""
    return replace(_mlserver(serves), name="MLServer, batching", environment={**serves, **BATCHES})


def _bentoml(serves: Mapping[str, str]) -> Contender:
    """BentoML. An endpoint that takes arrays instead of lists was slower, and one that gathers requests was too."""
    return Contender(
        name="BentoML",
        command=lambda port: [
            *(_program("bentoml", "bentoml"), "serve", "benchmarks.peers.bentoml_service:Network"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        environment={**serves, "BENTOML_HOME": str(ENVIRONMENTS / "bentoml/home"), "BENTOML_DO_NOT_TRACK": "True"},
        ready="/readyz",
        request=protocols.keywords_request,
        missing=_not_installed("bentoml"),
        stateless=True,
        probability_in=protocols.keywords_probability,
    )


def _interpreter_of_triton() -> dict[str, str]:
    """What makes its Python backend the Python of its environment.

    The backend takes the standard library from the first `python3` on the path, but the interpreter from a library that
    the system finds: on Debian 3.11.2, with whatever 3.11 the environment has. PyTriton's part then fails where
    `multiprocessing` expects a lock to count as 3.11.7's do. No PYTHONPATH is heeded; the working directory is.
    """
    return {
        "PATH": f"{ENVIRONMENTS}/triton/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": str(_libpython().parent),
        "PYTRITON_HOME": str(ENVIRONMENTS / "triton/home"),
    }


def _without_libpython() -> str | None:
    library = _libpython()
    if library.exists():
        return None
    return f"there is no {library}, which Triton's Python backend needs; Debian has packages of that name"


def _libpython() -> Path:
    """Our interpreter as a library; the environments were made by the same one."""
    return Path(sysconfig.get_config_var("LIBDIR")) / f"libpython{sysconfig.get_python_version()}.so.1.0"


def _not_installed(peer: str) -> str | None:
    return None if (ENVIRONMENTS / peer / ".installed").exists() else "not installed; `make bench-peers` installs it"


def _program(peer: str, name: str) -> str:
    return str(ENVIRONMENTS / peer / "bin" / name)


def _shipped_model() -> Path:
    # The environments of the peers have none of this.
    from service.app import bundle_directory  # noqa: PLC0415
    from service.bundle import MODEL  # noqa: PLC0415
    from service.settings import SHIPPED_MODELS  # noqa: PLC0415

    return bundle_directory(SHIPPED_MODELS) / MODEL
