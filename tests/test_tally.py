"""Tallies: counters and histograms that show what prometheus_client's own would."""

import math

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.tally import Counter, Histogram

BOUNDS = (0.00002, 0.001, 0.5, 1.0)


def shown(registry: CollectorRegistry) -> list[str]:
    """The metrics page, without what only prometheus_client's own classes add: when a series began."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.one_of(st.sampled_from(BOUNDS), st.floats(0, 2)))))
def test_a_histogram_shows_what_prometheus_would(observed: list[tuple[str, float]]) -> None:
    """Every value falls into the same bucket, those on a bound too; counts and sums are the same."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram(ours, "h", "Text.", bounds=BOUNDS, label="kind", known="ab")
    reference = prometheus_client.Histogram("h", "Text.", ["kind"], buckets=BOUNDS, registry=theirs)
    for kind in "ab":
        reference.labels(kind)
    for kind, value in observed:
        histogram.of[kind].observe(value)
        reference.labels(kind).observe(value)
    assert shown(ours) == shown(theirs)


@given(st.lists(st.sampled_from("abc")))
def test_a_counter_shows_what_prometheus_would(observed: list[str]) -> None:
    """Values of the label that are known are shown before they are counted, others once they are."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counter = Counter(ours, "c_total", "Text.", "kind", ["a"])
    reference = prometheus_client.Counter("c_total", "Text.", ["kind"], registry=theirs)
    reference.labels("a")
    for kind in observed:
        counter.add(kind)
        reference.labels(kind).inc()
    assert shown(ours) == shown(theirs)


def test_without_a_label_there_is_one_series_from_the_beginning() -> None:
    """A counter of 0 is shown: one that appears only with its first event has no increase to alert on."""
    registry = CollectorRegistry()
    counter = Counter(registry, "c_total", "Text.")
    Histogram(registry, "h", "Text.", bounds=BOUNDS).of[""].observe(math.inf)
    assert registry.get_sample_value("c_total") == 0
    counter.add(times=3)
    assert registry.get_sample_value("c_total") == 3
    assert registry.get_sample_value("h_bucket", {"le": "1.0"}) == 0
    assert registry.get_sample_value("h_count") == 1
