"""The board: where the workers of one service post their metrics, so that each of them can tell for all."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import orjson
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

Combine = Callable[[float, float], float]
_ADDED: Mapping[str, Combine] = {}
_NEVER_FALL = {"counter", "histogram"}


class Board:
    """One worker's place among those of all, which are files in a directory.

    A worker that takes the place of one that died continues its counters: what was once shown never falls. For the same
    reason a worker posts before it reads.
    """

    def __init__(self, directory: Path, place: int) -> None:
        self._directory = directory
        self._mine = _file(directory, place)
        self._before = [metric for metric in _read(self._mine) if metric.type in _NEVER_FALL]

    def post(self, metrics: Iterable[Metric]) -> None:
        """Replace what was posted by these metrics, and what the predecessors in this place counted."""
        _write(self._mine, merged([list(metrics), self._before], _ADDED))

    def read(self, combine: Mapping[str, Combine]) -> list[Metric]:
        """What all posted last, as one.

        Args:
            combine: how two workers' values become one, by the name of the metric; those not named are added.
        """
        others = (file for file in sorted(self._directory.glob("*.json")) if file != self._mine)
        return merged([_read(file) for file in (self._mine, *others)], combine)


def bury(directory: Path, place: int) -> None:
    """Take away what a worker that died said about its present; what it counted stays."""
    file = _file(directory, place)
    _write(file, [metric for metric in _read(file) if metric.type in _NEVER_FALL])


def merged(posts: Sequence[Iterable[Metric]], combine: Mapping[str, Combine]) -> list[Metric]:
    """Several posts as one, in the order in which metrics and their series were first met; see `Board.read`."""
    metrics: dict[str, Metric] = {}
    series: dict[str, dict[tuple[str, ...], Sample]] = {}
    for metric in (metric for post in posts for metric in post):
        metrics.setdefault(metric.name, metric)
        known = series.setdefault(metric.name, {})
        together: Combine = combine.get(metric.name, operator.add)
        for sample in metric.samples:
            key = (sample.name, *sample.labels.values())
            value = together(known[key].value, sample.value) if key in known else sample.value
            known[key] = Sample(sample.name, sample.labels, value)
    return [_metric(metric, series[name].values()) for name, metric in metrics.items()]


def _metric(like: Metric, samples: Iterable[Sample]) -> Metric:
    metric = Metric(like.name, like.documentation, like.type)
    metric.samples = list(samples)
    return metric


def _file(directory: Path, place: int) -> Path:
    return directory / f"{place}.json"


def _read(file: Path) -> list[Metric]:
    """What was posted there; nothing where nobody posted yet."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    return [
        _metric(Metric(name, text, kind), (Sample(*sample) for sample in samples))
        for name, text, kind, samples in orjson.loads(content)
    ]


def _write(file: Path, metrics: Iterable[Metric]) -> None:
    """Whoever reads finds the former content or this, never a part of it."""
    content = orjson.dumps(
        [
            (metric.name, metric.documentation, metric.type, [(*sample[:3],) for sample in metric.samples])
            for metric in metrics
        ]
    )
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)
