"""The Makefile as the front door."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TARGETS = (
    "help run demo test test-long check bench bench-peers bench-features bench-outage bench-instructions train image "
    "lock clean"
).split()


def make(*arguments: str) -> str:
    return subprocess.run(  # noqa: S603 - fixed words
        ["make", *arguments],  # noqa: S607 - whichever make is installed
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_make_alone_lists_every_target_with_a_line_each() -> None:
    """A newcomer types `make` and sees what can be done."""
    listed = re.findall(r"^make ([a-z-]+) +\S.+$", make(), flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.+)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert phony is not None
    assert listed == phony[1].split() == TARGETS


@pytest.mark.parametrize("target", ["run", "test", "check", "bench", "bench-features", "bench-outage", "train", "demo"])
def test_a_target_installs_before_it_runs(target: str, tmp_path: Path) -> None:
    """On a new machine each target makes the environment it needs, from the lock, then does its work."""
    plan = make("--dry-run", f"VENV={tmp_path}/venv", target)
    lock = "serve" if target == "run" else "dev"
    assert plan.index("-m venv") < plan.index(f"--require-hashes -r requirements/{lock}.txt")


def test_serving_installs_no_torch_and_developing_does(tmp_path: Path) -> None:
    """`make run` is for those who only serve."""
    torch = re.compile(r"install .* torch==[0-9.]+\n")
    assert not torch.search(make("--dry-run", f"VENV={tmp_path}/venv", "run"))
    assert torch.search(make("--dry-run", f"VENV={tmp_path}/venv", "test"))


def test_make_train_is_the_command_that_the_shipped_model_names(tmp_path: Path) -> None:
    """The model card's command is what `make train` runs, word for word; otherwise it would make other bytes."""
    (card,) = (PROJECT / "models" / "touchstone").glob("*/MODEL_CARD.md")
    named = re.search(r"^python -m training fit .*$", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert named is not None
    plan = make("--dry-run", f"VENV={tmp_path}/venv", "train").replace("\\\n", " ")
    (run,) = (line for line in plan.splitlines() if " -m training fit " in line)
    assert shlex.split(run)[1:] == shlex.split(named[0])[1:]
