"""Counters and histograms for Prometheus that are moved by one thread only.

prometheus_client's own take a lock at each step and look for a bucket in Python: five times the time, on a path where
one request moves a dozen of them.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_NO_LABEL = ("",)


class Counter(Collector):
    """Counts by the values of one label, or without one.

    Attributes:
        counts: by the label's value, "" where there is none; what counts often may move them itself.
    """

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, label: str | None = None, known: Iterable[str] = ()
    ) -> None:
        """`known`: values of the label that are shown before they are first counted."""
        self.counts: defaultdict[str, int] = defaultdict(int, dict.fromkeys(known if label else _NO_LABEL, 0))
        self._about = (name, text)
        self._labels = [label] if label else []
        registry.register(self)

    def add(self, value: str = "", *, times: int = 1) -> None:
        """It happened, perhaps several times."""
        self.counts[value] += times

    def collect(self) -> Iterator[Metric]:
        """All counts, as of now."""
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for value, count in list(self.counts.items()):
            family.add_metric([value], count)
        yield family


class Histogram(Collector):
    """Distributions by the values of one label, or one without.

    Attributes:
        of: the distribution of each value of the label, of "" where there is none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        *,
        bounds: Sequence[float],
        label: str | None = None,
        known: Iterable[str] = (),
    ) -> None:
        """`bounds`: ascending, each belongs to the bucket below it; one without a bound is added."""
        self.of = {value: Distribution(bounds) for value in (known if label else _NO_LABEL)}
        self._about = (name, text)
        self._labels = [label] if label else []
        self._buckets = [*map(repr, bounds), "+Inf"]
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All distributions, as of now."""
        family = HistogramMetricFamily(*self._about, labels=self._labels)
        for value, distribution in self.of.items():
            up_to = zip(self._buckets, accumulate(distribution.counts), strict=True)
            family.add_metric([value], list(up_to), distribution.total)
        yield family


class Distribution:
    """How often values fell into each bucket."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value
