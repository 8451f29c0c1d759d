"""What is installed: requirements/*.txt against pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
TRAINING_ONLY = {
    "torch",
    "onnx",
    "onnxscript",
    "polars",
    "typer",
    "rich",
    "matplotlib",
    "httpx",
    "pytest",
    "mypy",
    "ruff",
}


def locked(name: str) -> dict[str, list[Requirement]]:
    """Requirements by package; a package has several where versions differ between Pythons."""
    requirements: dict[str, list[Requirement]] = {}
    for line in lines(name):
        if not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\").strip())
            requirements.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return requirements


def lines(name: str) -> list[str]:
    return (PROJECT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def declared(*extras: str) -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("name", ["serve", "dev"])
def test_every_locked_package_has_one_exact_version_and_its_hashes(name: str) -> None:
    """A file is refused whose content is not the one that was locked; that needs a hash for each."""
    blocks = re.split(r"(?m)^(?=[a-z0-9])", "\n".join(lines(name)))[1:]
    assert len(blocks) > 20
    for block in blocks:
        assert re.match(r"[a-z0-9._-]+==[^ ;]+", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize("name", ["serve", "dev"])
def test_a_lock_names_no_address(name: str) -> None:
    """Where packages come from is each machine's own setting, so a lock works behind any mirror."""
    assert not re.search(r"://|--(index-url|extra-index-url|find-links|trusted-host)| @ ", "\n".join(lines(name)))


@pytest.mark.parametrize(("name", "extras"), [("serve", ()), ("dev", ("train", "dev"))])
def test_a_lock_satisfies_what_the_project_declares(name: str, extras: tuple[str, ...]) -> None:
    """Whoever changes pyproject.toml runs `make lock` too."""
    lock = locked(name)
    for requirement in declared(*extras):
        if requirement.name != "torch":
            versions = [next(iter(pin.specifier)).version for pin in lock[canonicalize_name(requirement.name)]]
            assert all(requirement.specifier.contains(version) for version in versions), (str(requirement), versions)


def test_serving_and_developing_use_the_same_versions() -> None:
    """What is tested is what serves."""
    serve, dev = locked("serve"), locked("dev")
    assert {name: pins for name, pins in dev.items() if name in serve} == serve


def test_serving_installs_nothing_of_training() -> None:
    """The image stays small and without torch."""
    assert not TRAINING_ONLY & locked("serve").keys()


def test_torch_and_its_cuda_libraries_are_in_no_lock() -> None:
    """Builds of torch for CPU and for CUDA are different files under one version, so no hash fits both."""
    assert not [name for name in locked("dev") if re.match(r"torch$|triton$|nvidia-|cuda-", name)]
