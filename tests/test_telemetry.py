"""Metrics and log lines: each number is moved by one method, each line is one JSON object without card numbers."""

import json
import logging
from io import StringIO

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.card_number import looks_like_card_number, mask_card_numbers
from service.decision import Decision
from service.stores.base import StoreStatus
from service.telemetry import Stage, Telemetry
from tests.serving import Service


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def value(telemetry: Telemetry, metric: str, **labels: str) -> float | None:
    found: float | None = telemetry.registry.get_sample_value(metric, labels)
    return found


def test_two_telemetries_do_not_share_numbers() -> None:
    """Each has a registry of its own, so that tests and tenants of a process do not meet."""
    one, other = Telemetry(CollectorRegistry()), Telemetry(CollectorRegistry())
    one.observe_replay()
    assert (value(one, "fraud_replays_total"), value(other, "fraud_replays_total")) == (1, 0)


def test_each_observation_moves_its_metric(telemetry: Telemetry) -> None:
    """What is told once is counted once, under its label."""
    telemetry.observe_decision(Decision.REVIEW, 0.02, ("card", "merchant"))
    telemetry.observe_decision(Decision.REVIEW, None, ())
    telemetry.observe_stage(Stage.MODEL, 0.0003)
    telemetry.observe_problem("invalid_json")
    telemetry.observe_outcome("refund")
    telemetry.observe_conflict()
    telemetry.observe_late_event()
    assert value(telemetry, "fraud_decisions_total", decision="review") == 2
    assert value(telemetry, "fraud_probability_count") == 1
    assert value(telemetry, "fraud_probability_bucket", le="0.02") == 1
    assert value(telemetry, "fraud_probability_bucket", le="0.01") == 0
    assert value(telemetry, "fraud_degraded_total", missing="card") == 1
    assert value(telemetry, "fraud_stage_seconds_bucket", stage="model", le="0.0005") == 1
    assert value(telemetry, "fraud_problems_total", code="invalid_json") == 1
    assert value(telemetry, "fraud_outcomes_total", type="refund") == 1
    assert value(telemetry, "fraud_conflicts_total") == 1
    assert value(telemetry, "fraud_late_events_total") == 1


def test_what_others_count_is_asked_for_at_collection(telemetry: Telemetry) -> None:
    """The store's size and the thresholds' version are never stale."""
    sizes = iter([5, 6])
    telemetry.watch_thresholds(lambda: 7)
    telemetry.watch_store(lambda: StoreStatus(entities=next(sizes), evictions=2))
    assert value(telemetry, "fraud_store_evictions_total") == 2
    assert value(telemetry, "fraud_store_entities") == 6
    assert value(telemetry, "fraud_thresholds_version") == 7


def test_only_the_model_in_use_is_named(telemetry: Telemetry) -> None:
    """A former model's series disappears."""
    for number in ("1", "2"):
        telemetry.show_model(name="m", version=number, sha256="0", provider="cpu")
    assert value(telemetry, "fraud_model_info", name="m", version="1", sha256="0", provider="cpu") is None
    assert value(telemetry, "fraud_model_info", name="m", version="2", sha256="0", provider="cpu") == 1


def test_the_metrics_page_is_prometheus_text_with_our_prefix(service: Service) -> None:
    """Everything exported can be parsed, explains itself and starts with fraud_."""
    response = service.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert len(families) > 10
    for family in families:
        assert family.name.startswith("fraud_")
        assert family.documentation.endswith(".") or "TOUCHSTONE_" in family.documentation
    assert service.metric("fraud_kernel_ready") in {0, 1}


def test_a_log_line_is_one_json_object(log_stream: StringIO) -> None:
    """Line feeds and control characters in a value do not make a second line, whoever logs."""
    structlog.get_logger("ours").error("something_happened", detail="a\nb\x1b[31m\u202e")
    logging.getLogger("theirs").error("also %s", "this\r\n")
    first, second = (json.loads(line) for line in log_stream.getvalue().splitlines())
    assert (first["event"], first["detail"], first["level"]) == ("something_happened", "a\nb\x1b[31m\u202e", "error")
    assert (second["event"], second["logger"]) == ("also this\r\n", "theirs")
    assert "\x1b" not in log_stream.getvalue()


def test_card_numbers_do_not_reach_the_log(log_stream: StringIO) -> None:
    """Neither in a field, nor in a sentence, nor in a traceback."""
    log = structlog.get_logger("ours")
    try:
        int("4111-1111-1111-1111")
    except ValueError:
        log.exception("failed", card="4111111111111111", path="/decisions/5555555555554444")
    logging.getLogger("theirs").error("got %s", "378282246310005")
    assert "invalid literal for int() with base 10: '****'" in log_stream.getvalue()
    for digits in ("1111", "4444", "10005"):
        assert digits not in log_stream.getvalue()


@given(st.text(alphabet="0123456789 -.", max_size=40))
def test_masking_leaves_no_card_number_that_stands_alone(text: str) -> None:
    """After masking, the text as a whole is no card number, and masking again changes nothing."""
    masked = mask_card_numbers(text)
    assert not looks_like_card_number(masked.strip(" -."))
    assert mask_card_numbers(masked) == masked
