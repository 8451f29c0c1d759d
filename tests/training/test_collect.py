"""Collecting from a real Redis: everything that was served comes out once, whatever happens on the way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from service.bundle import Bundle
from service.errors import DataInvalid, SettingsInvalid, StoreUnavailable
from service.settings import SHIPPED_MODELS
from tests.stores.servers import Server, free_port, redis_binary, running, running_cluster, wait_until
from tests.training.served import Arrival, payments, serve, traffic
from training.collect import collect
from training.collected import Collected, compare, read_collected
from training.collection import DECISIONS, ENTRIES, OUTCOMES, TAILS, last_tails
from training.source import GROUP, open_source

SHIPPED = SHIPPED_MODELS / "1.0.0"
BATCH = 500  # so that a run has many steps
FOR_EVER_MS, NOT_AT_ALL_MS = 0, 1 << 45
KILLED_AFTER = (1, 2, 3, 20, 5, 34, 2, 1, 40, 8, 3, 1, 60, 2)  # steps: a read, a file, an acknowledgement, a trim, …
STREAMS = (b"archive:{0}", b"decisions:{0}", b"outcomes:{0}")

KILLED = """
import os, pathlib, signal, sys
from service.bundle import Bundle
from training.collect import collect
from training.source import open_source

url, bundle, out, batch, steps = sys.argv[1:]
left = int(steps)

def tell(what, count):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with open_source(url, batch=int(batch)) as source:
    collect(source, [Bundle.load(pathlib.Path(bundle))], pathlib.Path(out), forget_before_ms=1 << 45, tell=tell)
"""
"""A run that kills itself at one of its steps, and tells nobody."""


@dataclass(frozen=True)
class Served:
    """A server that holds what was served, and what was said and answered."""

    server: Server
    said: list[Arrival]
    answered: dict[str, bytes]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(SHIPPED)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Tests leave the logs and the messages as they are."""
    with running(redis_binary()) as server:
        said = traffic(payments(3000))
        yield Served(server, said, serve(server.url, SHIPPED, tmp_path_factory.mktemp("state"), said))


@pytest.fixture
def fresh(served: Served) -> Served:
    """As if nothing had been collected yet."""
    for stream in STREAMS:
        served.server.ask("XGROUP", "DESTROY", stream, GROUP)
    return served


@pytest.fixture
def copy(fresh: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another server with the same data, for a test to change."""
    directory = tmp_path_factory.mktemp("copy")
    fresh.server.ask("SAVE")
    (directory / "copy.rdb").write_bytes((fresh.server.directory / "dump.rdb").read_bytes())
    with running(redis_binary(), "--dir", str(directory), "--dbfilename", "copy.rdb") as server:
        yield server


def collected(url: str, bundle: Bundle, out: Path, *, forget_before_ms: int = FOR_EVER_MS) -> Collected:
    """A run of its own, and what is there then."""
    with open_source(url, batch=BATCH) as source:
        collect(source, [bundle], out, forget_before_ms=forget_before_ms, tell=lambda *_: None)
    return read_collected(out)


def assert_same(one: Collected, other: Collected) -> None:
    assert_frame_equal(one.decisions, other.decisions)
    assert_frame_equal(one.outcomes, other.outcomes)
    assert_frame_equal(one.entries, other.entries)


def number(reply: object) -> int:
    assert isinstance(reply, int), reply
    return reply


def rows_on_disk(out: Path, kind: str) -> int:
    return sum(pl.read_parquet(path, hive_partitioning=False).height for path in (out / kind).rglob("*.parquet"))


def test_every_decision_is_collected_with_what_was_answered(fresh: Served, bundle: Bundle, tmp_path: Path) -> None:
    """One row for each transaction, however often it was sent; its columns are those of the answer and the request."""
    found = collected(fresh.server.url, bundle, tmp_path)
    rows = {row["transaction_id"]: row for row in found.decisions.iter_rows(named=True)}
    assert rows.keys() == fresh.answered.keys()
    assert rows_on_disk(tmp_path, DECISIONS) == len(rows) == 3000
    for name, body in fresh.answered.items():
        answer, row = orjson.loads(body), rows[name]
        asked = orjson.loads(row["request"])
        assert {field: row[field] for field in asked if field != "timestamp"} == {
            field: value for field, value in asked.items() if field != "timestamp"
        }
        assert row["timestamp"].isoformat(timespec="milliseconds") == asked["timestamp"].replace("Z", "+00:00")
        for field in ("decision_id", "decision", "probability", "score", "degraded"):
            assert row[field] == answer[field], field
        assert row["thresholds_version"] == answer["thresholds"]["version"]
        assert row["model_sha256"] == answer["model"]["sha256"]


def test_every_place_of_every_log_is_collected_once(fresh: Served, bundle: Bundle, tmp_path: Path) -> None:
    """From the archive and from the live logs together: the revs of each log run from 0 without a gap or a double."""
    found = collected(fresh.server.url, bundle, tmp_path)
    revs = found.entries.group_by("entity", "key", "generation").agg(
        pl.col("rev").n_unique().alias("places"), pl.col("rev").max().alias("last"), pl.len().alias("rows")
    )
    assert revs.filter((pl.col("places") != pl.col("rows")) | (pl.col("last") != pl.col("rows") - 1)).is_empty()
    assert found.contradictions == 0
    kinds = found.entries.filter(pl.col("entity") == "card")["entry"].bin.slice(0, 1).value_counts()
    counts = dict(kinds.iter_rows())
    assert counts[b"\x01"] + counts.get(b"\x02", 0) == len(fresh.answered)
    assert counts[b"\x03"] > 100
    assert counts[b"\x04"] > 50
    assert rows_on_disk(tmp_path, ENTRIES) > 1000
    assert rows_on_disk(tmp_path, TAILS) > 1000


def test_a_second_run_finds_nothing_new(fresh: Served, bundle: Bundle, tmp_path: Path) -> None:
    """What was acknowledged is not read again, and the copy of the live logs is the same."""
    first = collected(fresh.server.url, bundle, tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*.parquet"))
    assert_same(first, collected(fresh.server.url, bundle, tmp_path))
    assert files == sorted(path.name for path in tmp_path.rglob("*.parquet"))


def test_being_killed_at_any_step_changes_nothing(copy: Server, bundle: Bundle, tmp_path: Path) -> None:
    """Killed after each read, file, acknowledgement and trim, and begun again, it collects the same, on disk too."""
    whole = collected(copy.url, bundle, tmp_path / "whole")
    for stream in STREAMS:
        copy.ask("XGROUP", "DESTROY", stream, GROUP)
    out, kills = tmp_path / "killed", 0
    for steps in KILLED_AFTER:
        command = [sys.executable, "-c", KILLED, copy.url, str(SHIPPED), str(out), str(BATCH), str(steps)]
        ended = subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - our own command
        assert ended.returncode in {0, -signal.SIGKILL}, ended.stderr.decode()
        kills += ended.returncode != 0
    assert kills > len(KILLED_AFTER) // 2
    assert_same(whole, collected(copy.url, bundle, out, forget_before_ms=NOT_AT_ALL_MS))
    for kind in (DECISIONS, OUTCOMES, ENTRIES):
        assert rows_on_disk(out, kind) == rows_on_disk(tmp_path / "whole", kind), kind
    assert [copy.ask("XLEN", stream) for stream in STREAMS] == [0, 0, 0]


def test_only_what_every_group_has_read_is_trimmed(copy: Server, bundle: Bundle, tmp_path: Path) -> None:
    """A message stays while it is young, and while another group has not acknowledged it."""
    stream = "decisions:{0}"
    copy.ask("XGROUP", "CREATE", stream, "others", "0")
    copy.ask("XREADGROUP", "GROUP", "others", "one", "COUNT", 2000, "STREAMS", stream, ">")
    lengths = []
    for acknowledged in (0, 1200, 800):
        read = copy.ask("XRANGE", stream, "-", "+", "COUNT", max(1, acknowledged))
        assert isinstance(read, list)
        if acknowledged:
            copy.ask("XACK", stream, "others", *[name for name, _ in read])
        collected(copy.url, bundle, tmp_path)
        lengths.append(copy.ask("XLEN", stream))
        collected(copy.url, bundle, tmp_path, forget_before_ms=NOT_AT_ALL_MS)
        lengths.append(copy.ask("XLEN", stream))
    assert lengths == [3000, 3000, 3000, 1800, 1800, 1000]
    assert copy.ask("XLEN", "outcomes:{0}") == 0


def test_a_message_that_is_archived_twice_counts_once(copy: Server, bundle: Bundle, tmp_path: Path) -> None:
    """Two processes that compact the same log both archive it: the place of an entry tells that it is the same."""
    before = collected(copy.url, bundle, tmp_path)
    rows = rows_on_disk(tmp_path, ENTRIES)
    messages = copy.ask("XRANGE", "archive:{0}", "-", "+", "COUNT", 40)
    assert isinstance(messages, list)
    for _, fields in messages:
        copy.ask("XADD", "archive:{0}", "*", *fields)
    assert_same(before, collected(copy.url, bundle, tmp_path))
    assert rows_on_disk(tmp_path, ENTRIES) >= rows + 40


def test_a_log_that_is_gone_stays_in_the_collection(copy: Server, bundle: Bundle, tmp_path: Path) -> None:
    """Most logs are too short to be archived ever, and expire when nobody touches them for months."""
    before = collected(copy.url, bundle, tmp_path)
    gone = before.entries.filter(pl.col("entity") == "card").row(0, named=True)
    assert copy.ask("DEL", f"{gone['spec']}:card:{gone['key']}") == 1
    for _ in range(2):
        assert_same(before, collected(copy.url, bundle, tmp_path))


def test_a_spec_that_no_bundle_explains_stays_where_it_is(
    fresh: Served, bundle: Bundle, small_bundle: Path, tmp_path: Path
) -> None:
    """The error names the spec; with its bundle everything comes out afterwards."""
    with pytest.raises(DataInvalid, match=bundle.plan.spec.sha256[:8]):
        collected(fresh.server.url, Bundle.load(small_bundle), tmp_path)
    assert len(collected(fresh.server.url, bundle, tmp_path).decisions) == 3000


def test_messages_that_were_removed_before_they_were_written_do_no_harm(
    copy: Server, bundle: Bundle, tmp_path: Path
) -> None:
    """A bounded stream may drop what was given to us when we were killed: the rest is collected."""
    copy.ask("XGROUP", "CREATE", "decisions:{0}", GROUP, "0")
    copy.ask("XREADGROUP", "GROUP", GROUP, "collect", "COUNT", 100, "STREAMS", "decisions:{0}", ">")
    copy.ask("XTRIM", "decisions:{0}", "MAXLEN", 2960)
    assert len(collected(copy.url, bundle, tmp_path).decisions) == 2960


def test_a_message_of_another_version_is_named_and_stays(copy: Server, bundle: Bundle, tmp_path: Path) -> None:
    """What cannot be read is not thrown away; the error says where it stands."""
    place = copy.ask("XADD", "decisions:{0}", "*", "t", "odd", "d", b"\x02\x00\x02\x00", "s", b"\x02")
    assert isinstance(place, bytes)
    with pytest.raises(DataInvalid, match=place.decode()):
        collected(copy.url, bundle, tmp_path)
    copy.ask("XDEL", "decisions:{0}", place)
    assert len(collected(copy.url, bundle, tmp_path).decisions) == 3000


def test_every_collection_of_a_busy_store_is_whole(bundle: Bundle, tmp_path: Path) -> None:
    """Collected again and again while it is served: each decision that was found has all of its histories."""
    with running(redis_binary()) as server:
        said, runs = traffic(payments(3000)), []
        serving = threading.Thread(target=serve, args=(server.url, SHIPPED, tmp_path / "state", said))
        serving.start()
        for count in (100, 700, 1400, 2100, 3000):
            wait_until(lambda count=count: number(server.ask("XLEN", "decisions:{0}")) >= count)  # type: ignore[misc] # a default binds the count
            runs.append(collected(server.url, bundle, tmp_path / "out"))
            assert len(runs[-1].decisions) >= count
        serving.join()
    for run in runs:
        found = compare(run, bundle.plan, bundle.currencies)
        assert (found.cells_differing, found.revs_differing, found.left_out, found.gaps) == (0, 0, 0, 0)


def test_the_command_follows_until_it_is_told_to_end(copy: Server, tmp_path: Path) -> None:
    """SIGTERM ends it with everything collected and status 0; the URL may stand in the environment."""
    command = [
        sys.executable,
        "-m",
        "training",
        "collect",
        "--bundle",
        str(SHIPPED),
        "--out",
        str(tmp_path),
        "--follow",
    ]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env=os.environ | {"TOUCHSTONE_STORE_URL": copy.url}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as following:
        wait_until(lambda: last_tails(tmp_path) is not None)
        following.send_signal(signal.SIGTERM)
        said, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert "3,000" in said.decode()
    assert len(read_collected(tmp_path).decisions) == 3000


def test_a_cluster_is_collected_from_all_of_its_nodes(bundle: Bundle, tmp_path: Path) -> None:
    """Every partition of every stream, and the live logs of every master."""
    with running_cluster() as cluster:
        answered = serve(cluster.url, SHIPPED, tmp_path, traffic(payments(300)))
        found = collected(cluster.url, bundle, tmp_path / "out", forget_before_ms=NOT_AT_ALL_MS)
        assert set(found.decisions["transaction_id"]) == answered.keys()
        places = found.entries.group_by("entity", "key", "generation").agg(pl.col("rev").max() - pl.len())
        assert places["rev"].unique().to_list() == [-1]


def test_a_store_that_cannot_be_reached_is_named_without_its_password() -> None:
    """The message goes to logs."""
    with (
        pytest.raises(StoreUnavailable) as refused,
        open_source(f"redis://user:secret@127.0.0.1:{free_port()}") as source,
    ):
        source.join(b"decisions:{0}")
    assert "secret" not in str(refused.value)
    with pytest.raises(SettingsInvalid, match="redis://"), open_source("memory://"):
        pass
