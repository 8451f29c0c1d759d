"""The board: what several workers posted, read as one."""

import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.board import Board, bury
from service.decision import Decision
from service.stores.base import StoreStatus
from service.telemetry import Stage, Telemetry


def worker(directory: Path, place: int) -> Telemetry:
    """A worker that has posted once, as it does at its start."""
    telemetry = Telemetry(CollectorRegistry(), Board(directory, place))
    telemetry.post()
    return telemetry


def told(telemetry: Telemetry, metric: str, /, **labels: str) -> float | None:
    """A metric on the page that a worker shows."""
    for family in text_string_to_metric_families(telemetry.exposition().decode()):
        for sample in family.samples:
            if (sample.name, sample.labels) == (metric, labels):
                return float(sample.value)
    return None


def test_any_worker_tells_for_all(tmp_path: Path) -> None:
    """Counters and buckets are added, also series that only one of them has."""
    one, other = worker(tmp_path, 0), worker(tmp_path, 1)
    one.observe_decisions([Decision.REVIEW, Decision.APPROVE], [0.02, None], ["card"])
    other.observe_decisions([Decision.REVIEW], [0.3], ["model"])
    for telemetry, seconds in ((one, 0.0001), (other, 0.0004)):
        telemetry.observe_stage(Stage.MODEL, seconds)
        telemetry.post()
    for telemetry in (one, other):
        assert told(telemetry, "fraud_decisions_total", decision="review") == 2
        assert told(telemetry, "fraud_decisions_total", decision="approve") == 1
        assert told(telemetry, "fraud_degraded_total", missing="card") == 1
        assert told(telemetry, "fraud_degraded_total", missing="model") == 1
        assert told(telemetry, "fraud_probability_sum") == pytest.approx(0.32)
        assert told(telemetry, "fraud_stage_seconds_bucket", stage="model", le="0.0001") == 1
        assert told(telemetry, "fraud_stage_seconds_bucket", stage="model", le="0.0005") == 2


def test_one_worker_s_page_is_that_of_a_process_alone(tmp_path: Path) -> None:
    """Sharing changes neither names, types, order nor texts."""
    alone, sharing = Telemetry(CollectorRegistry()), worker(tmp_path, 0)
    for telemetry in (alone, sharing):
        telemetry.watch_store(lambda: StoreStatus(links=3, links_up=2))
        telemetry.watch_thresholds(lambda: 4)
        telemetry.show_model(name="m", version="1", sha256="0", provider="cpu")
        telemetry.observe_decision(Decision.DECLINE, 0.9, ["card"])
    assert sharing.exposition() == alone.exposition()


def test_the_present_of_several_is_what_an_operator_must_know(tmp_path: Path) -> None:
    """Ready once all are, thresholds in force once all have them, links of all, losses in the store not twice."""
    workers = [worker(tmp_path, place) for place in range(2)]
    for telemetry, version in zip(workers, (8, 7), strict=True):
        telemetry.watch_store(lambda: StoreStatus(links=3, links_up=2, timeouts=5, evictions=11, archive_overflow=13))
        telemetry.watch_thresholds(lambda version=version: version)  # type: ignore[misc]  # a default binds it
        telemetry.show_model(name="m", version="1", sha256="0", provider="cpu")
    workers[0].show_kernel_ready()
    for telemetry in workers:
        telemetry.post()
    assert told(workers[0], "fraud_kernel_ready") == 0
    workers[1].show_kernel_ready()
    assert told(workers[1], "fraud_kernel_ready") == 1
    assert told(workers[1], "fraud_thresholds_version") == 7
    assert told(workers[1], "fraud_model_info", name="m", version="1", sha256="0", provider="cpu") == 1
    assert (told(workers[1], "fraud_store_links"), told(workers[1], "fraud_store_links_up")) == (6, 4)
    assert told(workers[1], "fraud_store_timeouts_total") == 10
    assert told(workers[1], "fraud_store_evictions_total") == 11
    assert told(workers[1], "fraud_archive_overflow_total") == 13


def test_a_successor_goes_on_where_the_dead_ended(tmp_path: Path) -> None:
    """What was counted stays, through any number of deaths; what was present then is gone."""
    survivor = worker(tmp_path, 1)
    survivor.observe_replay()
    for deaths in range(3):
        dying = worker(tmp_path, 0)
        dying.watch_store(lambda: StoreStatus(deferred=100, evictions=1, timeouts=1))
        dying.observe_replay()
        dying.post()
        assert told(survivor, "fraud_store_deferred") == 100
        bury(tmp_path, 0)
        assert told(survivor, "fraud_store_deferred") is None
        assert told(survivor, "fraud_replays_total") == 1 + deaths + 1
        assert told(survivor, "fraud_store_timeouts_total") == deaths + 1
        assert told(survivor, "fraud_store_evictions_total") == deaths + 1


def test_the_grave_of_a_worker_that_never_posted_is_empty(tmp_path: Path) -> None:
    """It may die before it has anything to say."""
    bury(tmp_path, 0)
    telemetry = worker(tmp_path, 0)
    telemetry.observe_replay()
    assert told(telemetry, "fraud_replays_total") == 1


def test_what_was_shown_never_falls(tmp_path: Path) -> None:
    """Whoever is asked next has at least what another one showed, though each posts only now and then."""
    workers = [worker(tmp_path, place) for place in range(2)]
    shown = 0.0
    for step in range(20):
        workers[step % 2].observe_replay()
        workers[step % 2].observe_replay()
        now = told(workers[step // 2 % 2], "fraud_replays_total")
        assert now is not None
        assert now >= shown
        shown = now


def test_a_reader_never_finds_half_a_post(tmp_path: Path) -> None:
    """Posts are replaced while they are read: every page is whole."""
    reader, writer = worker(tmp_path, 0), worker(tmp_path, 1)
    done = threading.Event()

    def keep_posting() -> None:
        while not done.is_set():
            writer.observe_problem("invalid_json")
            writer.post()

    thread = threading.Thread(target=keep_posting)
    thread.start()
    try:
        pages = [told(reader, "fraud_problems_total", code="invalid_json") for _ in range(100)]
    finally:
        done.set()
        thread.join()
    counts = [count for count in pages if count is not None]
    assert len(counts) >= len(pages) - 1  # the first may come before the first post
    assert counts == sorted(counts)
