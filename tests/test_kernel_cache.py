"""The kernel's machine code: kept between starts, valid elsewhere, and usable where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
FOLD_ONE = """
import logging
logging.basicConfig(format="%(message)s")
import numpy as np
from service.features.entry import MISSING, Column
from service.features.encoding import encode, encode_entry
from service.features.plan import compile_plan
from service.features.spec import parse_spec
plan = compile_plan(parse_spec({
    "version": 1, "horizon": "90d",
    "entities": {"card": {
        "key": "card_id", "log": {"compact_at": 2, "keep": 1, "ring": 4}, "features": {"seen": {"known": True}}
    }},
    "transaction": {"features": {}, "categories": []},
}))
row = MISSING.copy()
row[[Column.KIND, Column.ID, Column.CARD]] = 1
assert len(encode(plan, row, 0)) == 19
stats = encode_entry.stats
print("hits", sum(stats.cache_hits.values()), "misses", sum(stats.cache_misses.values()), "in", stats.cache_path)
"""


def run(tree: Path, *, home: Path, read_only: bool = False) -> subprocess.CompletedProcess[str]:
    """Encode one entry in a new process, with the engine of `tree`."""
    command = [sys.executable, "-c", FOLD_ONE]
    if read_only and os.geteuid() == 0:  # permissions do not bind root; a mount of its own does
        mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, str(tree), *command]
    elif read_only:
        for path in [tree, *tree.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    return subprocess.run(  # noqa: S603 - our own program
        command,
        cwd=tree,
        env={"PATH": os.defpath, "PYTHONPATH": str(tree), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A copy of the service's sources that was never run."""
    tree = tmp_path / "app"
    shutil.copytree(PROJECT / "service", tree / "service", ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def test_a_second_start_loads_what_the_first_compiled(engine: Path, tmp_path: Path) -> None:
    """The first process compiles and stores beside the source; the second compiles nothing."""
    assert "hits 0 misses 1" in run(engine, home=tmp_path).stdout
    second = run(engine, home=tmp_path)
    assert "hits 1 misses 0" in second.stdout
    assert second.stdout.strip().endswith(str(engine / "service" / "features" / "__pycache__"))


def test_a_change_in_any_module_of_the_engine_compiles_anew(engine: Path, tmp_path: Path) -> None:
    """An entry point holds the code of functions from other modules, so their sources are part of its stamp."""
    run(engine, home=tmp_path)
    with (engine / "service" / "features" / "state.py").open("a") as source:
        source.write("\n# changed\n")
    assert "hits 0 misses 1" in run(engine, home=tmp_path).stdout


def test_a_complete_cache_serves_where_nothing_can_be_written(engine: Path, tmp_path: Path) -> None:
    """A process on a read-only tree, with no home, loads the cache without a warning."""
    run(engine, home=tmp_path)
    second = run(engine, read_only=True, home=Path("/proc/nowhere"))
    assert "hits 1 misses 0" in second.stdout
    assert second.stderr == ""


def test_without_a_cache_and_without_a_place_for_one_it_compiles_and_says_so(engine: Path) -> None:
    """A read-only tree that was never run still works; the log tells why the start was slow."""
    first = run(engine, read_only=True, home=Path("/proc/nowhere"))
    assert "hits 0 misses 1" in first.stdout
    assert "kernel cache could not be written" in first.stderr


def test_a_damaged_cache_is_compiled_again(engine: Path, tmp_path: Path) -> None:
    """A truncated file in the cache costs a compilation, not a start."""
    run(engine, home=tmp_path)
    for stored in (engine / "service" / "features" / "__pycache__").glob("*.nbc"):
        stored.write_bytes(stored.read_bytes()[:100])
    damaged = run(engine, home=tmp_path)
    assert "hits 0 misses 1" in damaged.stdout
    assert "kernel cache could not be read" in damaged.stderr


def test_machine_code_is_for_the_plain_architecture() -> None:
    """The key of the cache names no CPU and no feature of one, so it is valid on another."""
    code = "from service.features.encoding import encode_entry as f; print(f.targetctx.codegen().magic_tuple()[1:])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)  # noqa: S603
    assert printed.stdout.strip() == "('generic', '')"
