"""Refreshing: what another process published comes into force here; a file that went bad changes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.threshold_store import ThresholdStore
from tests.thresholds.test_threshold_store import NOW, in_force, open_store, publish, reviewing_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "thresholds.jsonl"


def test_what_another_process_published_comes_into_force(path: Path) -> None:
    """The first version, the next one, and several at once; with the same entity tag."""
    reader, writer = open_store(path), open_store(path)
    reader.refresh()
    assert in_force(reader) == (0, 0.5)
    for versions in ([0.4], [0.3], [0.2, 0.1]):
        for probability in versions:
            publish(writer, probability)
        reader.refresh()
        assert in_force(reader) == in_force(writer)
        assert reader.current.etag == writer.current.etag
    publish(reader, 0.9)
    assert in_force(reader) == (5, 0.9)


def test_refreshing_finds_nothing_in_what_was_published_here(path: Path) -> None:
    """The version in force is the very same object, so nothing is read or compiled again."""
    store = open_store(path)
    version = publish(store, 0.4)
    store.refresh()
    store.refresh()
    assert store.current is version


def test_a_torn_line_is_told_once_and_the_next_version_is_found(path: Path) -> None:
    """The writer died; whoever publishes next writes over it, perhaps the very same number of bytes."""
    reader, writer = open_store(path), open_store(path)
    publish(writer, 0.4)
    whole = path.read_bytes()
    publish(writer, 0.3)
    after = path.read_bytes()
    path.write_bytes(after[:-1] + b"x")
    with capture_logs() as logs:
        reader.refresh()
        reader.refresh()
    assert [log["event"] for log in logs] == ["torn_thresholds_line_dropped"]
    assert in_force(reader) == (1, 0.4)
    path.write_bytes(whole)
    with capture_logs():
        publish(open_store(path), 0.2)
    reader.refresh()
    assert in_force(reader) == (2, 0.2)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"{}\n"), id="altered"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-20]), id="shortened"),
        pytest.param(Path.unlink, id="removed"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="not a file"),
    ],
)
def test_a_file_that_went_bad_leaves_the_version_in_force_and_is_told_once(
    path: Path, spoil: Callable[[Path], object]
) -> None:
    """One line in the log, however often we look; and once it is mended we go on."""
    store, writer = open_store(path), open_store(path)
    publish(writer, 0.4)
    store.refresh()
    good = path.read_bytes()
    spoil(path)
    with capture_logs() as logs:
        for _ in range(3):
            store.refresh()
    assert [(log["event"], log["log_level"], log["in_force"]) for log in logs] == [
        ("thresholds_not_refreshed", "error", 1)
    ]
    assert str(path) in logs[0]["reason"]
    assert in_force(store) == (1, 0.4)
    if path.is_dir():
        path.rmdir()
    path.write_bytes(good)
    publish(writer, 0.3)
    store.refresh()
    assert in_force(store) == (2, 0.3)


def test_a_version_that_does_not_fit_the_bundle_is_not_served(path: Path) -> None:
    """Another process serves another bundle from the same directory: ours keeps what it can compute."""
    store = open_store(path)
    dollars = ThresholdStore(path, open_store(None).current.thresholds, store.current.source)
    dollars._base_currency = "USD"
    document = {**reviewing_at(0.3), "currency": "USD"}
    dollars.publish(document, comment="why", author="who", if_match=[dollars.current.etag], now=NOW)
    with capture_logs() as logs:
        store.refresh()
    assert "does not fit this bundle" in logs[0]["reason"]
    assert in_force(store) == (0, 0.5)


def test_without_a_file_there_is_nothing_to_refresh() -> None:
    """A store that keeps nothing serves what it was given."""
    store = open_store(None)
    store.refresh()
    assert in_force(store) == (0, 0.5)
