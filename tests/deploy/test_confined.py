"""The service as containers run it: nothing to write to, nobody in particular, and nobody to report to."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.serving import free_port
from tests.small_bundle import NAME, write_small_bundle

PROJECT = Path(__file__).resolve().parents[2]
STRANGER = "54321"  # a user without a name and a home
START_CPU_SECONDS = 4.0  # what a start may cost once the kernel is compiled; ready in as long on a free core


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the image has it: the service with its kernel compiled, and a model."""
    directory = tmp_path_factory.mktemp("image") / "app"
    shutil.copytree(PROJECT / "service", directory / "service")
    write_small_bundle(directory / "models")
    start(directory)
    return directory


def start(app: Path, *, confine: Sequence[str] = ()) -> tuple[str, float]:
    """Start the service, wait until it is ready, and stop it.

    Args:
        app: its directory.
        confine: the words of a command that runs it.

    Returns:
        What it logged, and the processor seconds that it took until it had stopped.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(  # noqa: S603 - our own words
        [*confine, sys.executable, "-m", "service", "--port", str(free_port()), "--model-dir", f"models/{NAME}"],
        cwd=app,
        env={"PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert "Touchstone is ready" in line, log
    assert process.returncode == 0, log
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return log, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


@pytest.fixture
def confine() -> tuple[str, ...]:
    """The words before a command that shall run in namespaces of its own."""
    words = ("unshare", "--map-root-user", "--mount")
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:  # noqa: S603 - ours
        pytest.skip("this machine lets us make no namespaces to confine a process in")
    return words


def test_the_service_starts_on_a_read_only_root_as_a_user_without_a_name(app: Path, confine: tuple[str, ...]) -> None:
    """The compiled kernel is used although nothing can be written, and nothing asks who the user is."""
    mount = f"mount --bind {app} {app} && mount -o remount,bind,ro {app} && cd {app} && ! touch here 2>&-"
    become = f"unshare --map-user={STRANGER} --map-group={STRANGER}"
    log, cpu_seconds = start(app, confine=[*confine, "sh", "-c", f'{mount} && exec {become} "$@"', "sh"])
    assert "kernel cache" not in log
    assert cpu_seconds <= START_CPU_SECONDS


def test_nothing_is_reported_to_anybody(app: Path, tmp_path: Path) -> None:
    """The telemetry of onnxruntime is off: it would tell its maker what runs here, and gives the machine an id."""
    code = "from pathlib import Path; from service.bundle import Bundle; from service.model import OnnxModel; "
    code += f"OnnxModel.load(Bundle.load(next(Path('models/{NAME}').iterdir())))"
    subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", code],
        cwd=app,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},  # without CI, which would turn it off as well
        check=True,
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
