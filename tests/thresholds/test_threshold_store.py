import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.errors import NotWritable, StateInvalid, ThresholdsInvalid, VersionConflict
from service.threshold_store import Source, ThresholdStore, Version
from service.thresholds import parse_thresholds
from tests.thresholds.documents import Json, document, thresholds

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def reviewing_at(probability: float) -> Json:
    return document(default={"review_at": {"probability": probability}})


def open_store(path: Path | None, initial: float = 0.5, source: Source = Source.BUNDLE) -> ThresholdStore:
    return ThresholdStore(path, thresholds(reviewing_at(initial)), source)


def publish(store: ThresholdStore, probability: float, if_match: str | None = None) -> Version:
    etag = store.current.etag if if_match is None else if_match
    return store.publish(reviewing_at(probability), comment="why", author="who", if_match=[etag], now=NOW)


def in_force(store: ThresholdStore) -> tuple[int, float | None]:
    """The version's number, and the bound that tells our documents apart."""
    level = store.current.thresholds.document.default.review_at
    return store.current.number, None if level is None else level.probability


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "thresholds.jsonl"


@pytest.mark.parametrize("source", [Source.FILE, Source.BUNDLE])
def test_before_anything_is_published_the_given_document_is_in_force(path: Path, source: Source) -> None:
    """Version 0 is the file's or the bundle's; nobody authored it, and nothing is written for it."""
    current = open_store(path, 0.3, source).current
    assert (current.number, current.source) == (0, source)
    assert (current.author, current.comment, current.published_at) == (None, None, None)
    assert not path.exists()


def test_a_published_version_is_in_force_with_its_author_comment_and_date(path: Path) -> None:
    """Publishing gives the next number and keeps who, why and when (in UTC)."""
    store = open_store(path)
    there = NOW.astimezone(timezone(timedelta(hours=2)))
    version = store.publish(
        reviewing_at(0.4), comment="fewer reviews", author="a.analyst", if_match=[store.current.etag], now=there
    )
    assert version is store.current
    assert in_force(store) == (1, 0.4)
    assert (version.source, version.author, version.comment) == (Source.PUBLISHED, "a.analyst", "fewer reviews")
    assert version.published_at == NOW
    assert version.published_at.utcoffset() == timedelta(0)


def test_a_restart_keeps_the_version(path: Path) -> None:
    """Another process that opens the file serves the same version, to the byte of its entity tag."""
    store = open_store(path)
    publish(store, 0.4)
    publish(store, 0.3)
    assert open_store(path).current == store.current
    assert in_force(store) == (2, 0.3)


@pytest.mark.parametrize("source", [Source.FILE, Source.BUNDLE])
def test_a_later_file_or_bundle_never_overrides_a_published_version(path: Path, source: Source) -> None:
    """What an analyst published stays in force whatever the process is started with next."""
    publish(open_store(path), 0.4)
    assert in_force(open_store(path, 0.9, source)) == (1, 0.4)


def test_an_entity_tag_names_one_version(path: Path) -> None:
    """Publishing the same document again is a new version with a new tag; another initial document has another tag."""
    store = open_store(path)
    tags = {store.current.etag, open_store(None, 0.6).current.etag, publish(store, 0.4).etag, publish(store, 0.4).etag}
    assert len(tags) == 4
    assert all(tag[0] == tag[-1] == '"' and tag.count('"') == 2 for tag in tags)


def test_an_invalid_document_publishes_nothing(path: Path) -> None:
    """A document with faults leaves the version and the file as they were."""
    store = open_store(path)
    publish(store, 0.4)
    before = path.read_bytes()
    with pytest.raises(ThresholdsInvalid):
        publish(store, 1.4)
    assert in_force(store) == (1, 0.4)
    assert path.read_bytes() == before


def test_the_loser_of_a_race_is_told(path: Path) -> None:
    """Of two who change the same version the second is refused, and what the first published stays."""
    store = open_store(path)
    read = store.current.etag
    publish(store, 0.4, if_match=read)
    with pytest.raises(VersionConflict):
        publish(store, 0.3, if_match=read)
    assert in_force(open_store(path)) == (1, 0.4)


def test_of_many_threads_exactly_one_wins(path: Path) -> None:
    """However many publish at once from one version, one succeeds and all others conflict."""
    store = open_store(path)
    read = store.current.etag

    def attempt(index: int) -> bool:
        try:
            publish(store, index / 100, if_match=read)
        except VersionConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(attempt, range(40))]
    assert won.count(True) == 1
    assert in_force(open_store(path)) == (1, won.index(True) / 100)


def test_another_process_that_published_first_is_noticed(path: Path) -> None:
    """Two stores on one file cannot both publish number 1; the second then sees the first's."""
    first, second = open_store(path), open_store(path)
    publish(first, 0.4)
    with pytest.raises(VersionConflict):
        publish(second, 0.3)
    assert in_force(second) == (1, 0.4)
    publish(second, 0.2)
    assert in_force(open_store(path)) == (2, 0.2)


def test_a_torn_last_line_is_dropped_with_a_warning(path: Path) -> None:
    """Wherever the machine stopped while writing a version, the one before it is in force and the next is published."""
    store = open_store(path)
    publish(store, 0.4)
    whole = path.read_bytes()
    publish(store, 0.3)
    torn = path.read_bytes()
    for length in range(len(whole) + 1, len(torn)):
        path.write_bytes(torn[:length])
        with capture_logs() as logs:
            reopened = open_store(path)
        assert in_force(reopened) == (1, 0.4)
        assert [(log["event"], log["log_level"]) for log in logs] == [("torn_thresholds_line_dropped", "warning")]
    with capture_logs():
        publish(reopened, 0.2)
    assert in_force(open_store(path)) == (2, 0.2)


def _without_first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[1]


def _swapped(data: bytes) -> bytes:
    first, second, rest = data.split(b"\n", 2)
    return b"\n".join([second, first, rest])


def _with_last_repeated(data: bytes) -> bytes:
    return data + data.splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data.replace(b"0.4", b"0.9", 1), id="a bound changed"),
        pytest.param(lambda data: data.replace(b'"who"', b'"him"', 1), id="an author changed"),
        pytest.param(lambda data: data.replace(b"{", b"[", 1), id="no JSON"),
        pytest.param(lambda data: data[: len(data) // 3] + b"\x00" + data[len(data) // 3 + 1 :], id="a zero byte"),
        pytest.param(lambda data: b"\n" + data, id="an empty line"),
        pytest.param(_without_first_line, id="a line missing"),
        pytest.param(_swapped, id="lines swapped"),
        pytest.param(_with_last_repeated, id="a line repeated"),
    ],
)
def test_any_other_damage_refuses_to_start(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A file that was altered is not guessed at: the message names the file, the line and what to do."""
    store = open_store(path)
    for probability in (0.4, 0.3, 0.2):
        publish(store, probability)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateInvalid, match=r"thresholds\.jsonl: line [1-4] .*restore the file"):
        open_store(path)


def test_a_line_of_another_file_is_noticed(path: Path, tmp_path: Path) -> None:
    """A line that is whole in itself but continues another history is refused."""
    other = tmp_path / "other.jsonl"
    for history, bounds in ((path, (0.4, 0.3)), (other, (0.2, 0.1))):
        store = open_store(history)
        for probability in bounds:
            publish(store, probability)
    lines, other_lines = (history.read_bytes().splitlines(keepends=True) for history in (path, other))
    path.write_bytes(lines[0] + other_lines[1])
    with pytest.raises(StateInvalid, match="line 2"):
        open_store(path)


def test_every_flipped_bit_before_the_last_line_break_is_noticed(path: Path) -> None:
    """No single-bit error in the file changes the thresholds in force without being refused."""
    publish(open_store(path), 0.4)
    data = path.read_bytes()
    for position in range(len(data) - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(StateInvalid):
            open_store(path)


def test_a_published_version_that_does_not_fit_the_bundle_refuses_to_start(path: Path) -> None:
    """Thresholds in another currency than the model's are neither used nor quietly replaced."""
    publish(open_store(path), 0.4)
    dollars = parse_thresholds({**document(), "currency": "USD"}, base_currency="USD")
    with pytest.raises(StateInvalid, match="version 1 does not fit this bundle"):
        ThresholdStore(path, dollars, Source.BUNDLE)


def test_a_file_altered_while_running_is_not_written_to(path: Path) -> None:
    """If the file loses lines behind our back, nothing is published and the version in force stays."""
    store = open_store(path)
    publish(store, 0.4)
    path.write_bytes(b"")
    with pytest.raises(NotWritable, match="gone"):
        publish(store, 0.3)
    assert in_force(store) == (1, 0.4)
    assert path.read_bytes() == b""


def test_without_a_directory_the_store_serves_and_refuses_to_publish() -> None:
    """Nothing can be published where nothing can be kept; deciding goes on."""
    store = open_store(None)
    with pytest.raises(NotWritable):
        publish(store, 0.4)
    assert in_force(store) == (0, 0.5)


def test_a_directory_that_cannot_be_made_leaves_the_store_read_only(tmp_path: Path) -> None:
    """A state directory that is impossible does not keep the service from starting."""
    (tmp_path / "state").write_text("a file where the directory should be")
    store = open_store(tmp_path / "state" / "thresholds.jsonl")
    with pytest.raises(NotWritable):
        publish(store, 0.4)
    assert in_force(store) == (0, 0.5)


def in_another_process(prepare: str, path: Path) -> str:
    """What a process says that limits itself as prepared, then publishes: the version in force and the file's size."""
    script = f"""
import os, resource, signal, sys
from pathlib import Path
from service.errors import NotWritable
from tests.thresholds.test_threshold_store import in_force, open_store, publish
path = Path(sys.argv[1])
{prepare}
store = open_store(path)
try:
    publish(store, 0.3)
except NotWritable:
    print(in_force(store), path.stat().st_size)
"""
    told = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Path]:
    """A directory that another user may enter, as tmp_path may not be."""
    directory = Path(tempfile.gettempdir()) / f"touchstone-{os.getpid()}-{tmp_path.name}"
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_read_only_directory_serves_what_was_published(open_to_all: Path) -> None:
    """A process that may read but not write the directory serves the published version and refuses to publish."""
    path = open_to_all / "thresholds.jsonl"
    publish(open_store(path), 0.4)
    size = path.stat().st_size
    assert in_another_process("os.setuid(65534)", path) == f"(1, 0.4) {size}"


def test_a_full_disk_publishes_nothing(path: Path) -> None:
    """When the disk takes only a part of the line, that part is taken back and the version before stays."""
    publish(open_store(path), 0.4)
    size = path.stat().st_size
    limit = (
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, 2 * ({size + 10},))"
    )
    assert in_another_process(limit, path) == f"(1, 0.4) {size}"
    assert in_force(open_store(path)) == (1, 0.4)


def test_each_line_is_a_json_object_an_auditor_can_read(path: Path) -> None:
    """The file needs no tool of ours: one JSON object a line, with number, author, comment, date and document."""
    store = open_store(path)
    publish(store, 0.4)
    publish(store, 0.3)
    records = [json.loads(line)["record"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["number"] for record in records] == [1, 2]
    assert records[1] == {
        "number": 2,
        "author": "who",
        "comment": "why",
        "published_at": "2026-11-21T09:30:00Z",
        "document": reviewing_at(0.3),
    }
