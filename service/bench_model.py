"""The model's speed on this machine by batch, provider and threads: what `python -m service bench-model` prints."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, quantiles

import numpy as np

from service.app import bundle_directory
from service.binding import multiple_of_four
from service.bundle import Bundle, Golden
from service.errors import BundleInvalid, ProviderUnavailable
from service.model import MEASURED_ROWS, WORTH_TWICE_THE_THREADS, OnnxModel, Provider, thread_counts, usable_cores
from service.runtime import ort
from service.settings import Settings

BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = 15.0  # of measuring, in all
MIN_ROUNDS, MAX_ROUNDS = 5, 2_000  # of one batch size


@dataclass(frozen=True, slots=True)
class Way:
    """One way to score a batch.

    Attributes:
        provider: what runs the graph.
        threads: of one call, on the CPU.
        bound: as it is served, through inputs and outputs that stay in place; else `session.run` on a padded batch.
    """

    provider: Provider
    threads: int
    bound: bool = True

    @property
    def name(self) -> str:
        """What stands above its table."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"cpu, {threads}" if self.provider is Provider.CPU else str(self.provider)


ONE_THREAD = Way(Provider.CPU, 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a batch took."""

    p50_us: float
    p99_us: float
    rows_per_second: float

    @classmethod
    def of(cls, taken_s: Sequence[float], rows: int) -> "Timing":
        """From the seconds of at least two rounds over so many rows."""
        hundredths = quantiles(taken_s, n=100, method="inclusive")
        return cls(hundredths[49] * 1e6, hundredths[98] * 1e6, rows / fmean(taken_s))


Timings = Mapping[Way, Mapping[int, Timing]]  # by way, by batch size


def bench_model(settings: Settings, *, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter) -> str:
    """Measure the bundle of the settings on every provider there is, and say which to choose.

    Args:
        settings: names the bundle.
        seconds: how long to measure, in all.
        clock: seconds that never run backwards.

    Returns:
        A page of plain text.

    Raises:
        BundleInvalid: there is nothing to measure.
    """
    bundle = Bundle.load(bundle_directory(settings.model_dir))
    models, refusals = _open_all(bundle)
    timings = _measure(models, bundle.golden, seconds, clock)
    tables = [line for way in timings if way.bound for line in (*_table(way, timings), "")]
    return "\n".join([*_head(bundle), "", *tables, *refusals, "", *advice(timings), ""])


def advice(timings: Timings) -> Iterator[str]:
    """Which provider and how many threads to choose, and why."""
    taken_us = {way: by_rows[MEASURED_ROWS].p50_us for way, by_rows in timings.items() if way.bound}
    plain_us = taken_us[ONE_THREAD]
    chosen, chosen_us = ONE_THREAD, plain_us
    for way, way_us in taken_us.items():
        if chosen_us >= WORTH_TWICE_THE_THREADS * way_us:
            chosen, chosen_us = way, way_us
    yield f"Choose TOUCHSTONE_PROVIDER={chosen.provider} and TOUCHSTONE_INFERENCE_THREADS={chosen.threads}:"
    if chosen == ONE_THREAD:
        yield f"a batch of {MEASURED_ROWS} takes one thread of the CPU {plain_us:.0f} µs, and nothing here is"
        yield f"{WORTH_TWICE_THE_THREADS} times as fast. For less, other cores do more as workers of their own."
    else:
        yield f"a batch of {MEASURED_ROWS} takes it {chosen_us:.0f} µs, and one thread of the CPU {plain_us:.0f} µs."


def _open_all(bundle: Bundle) -> tuple[list[OnnxModel], list[str]]:
    """The model on everything it runs on here, and why it does not run on the rest."""
    models = [OnnxModel.load(bundle, provider=Provider.CPU, threads=threads) for threads in thread_counts()]
    refusals = []
    for provider in (Provider.CUDA, Provider.TENSORRT):
        try:
            models.append(OnnxModel.load(bundle, provider=provider))
        except (ProviderUnavailable, BundleInvalid) as error:
            refusals.append(f"Not measured: {error}.")
    return models, refusals


def _measure(models: Sequence[OnnxModel], golden: Golden, seconds: float, clock: Callable[[], float]) -> Timings:
    timings: dict[Way, dict[int, Timing]] = {}
    for rows in BATCH_SIZES:
        calls = {way: call for model in models for way, call in _calls(model, golden, rows).items()}
        for way, taken_s in _take_turns(calls, seconds / len(BATCH_SIZES), clock).items():
            timings.setdefault(way, {})[rows] = Timing.of(taken_s, rows)
    return timings


def _calls(model: OnnxModel, golden: Golden, rows: int) -> dict[Way, Callable[[], object]]:
    """What scores so many rows, bound and plain; golden rows as often as it takes."""
    size = multiple_of_four(rows)
    chosen = np.arange(size) % len(golden.logit)
    numeric, categorical = golden.numeric[chosen], golden.categorical[chosen]
    feed = {"numeric": numeric, "categorical": categorical}
    return {
        Way(model.provider, model.threads): partial(model.run, numeric[:rows], categorical[:rows]),
        Way(model.provider, model.threads, bound=False): partial(model.session.run, ("logit", "probability"), feed),
    }


def _take_turns(
    calls: Mapping[Way, Callable[[], object]], seconds: float, clock: Callable[[], float]
) -> dict[Way, list[float]]:
    """Seconds of each round by way; they take turns, so that what else runs on this machine hits all alike."""
    taken_s: dict[Way, list[float]] = {way: [] for way in calls}
    begun, rounds = clock(), 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and clock() - begun < seconds):
        for way, call in calls.items():
            call()  # brings back into the caches what the way before took out of them
            started = clock()
            call()
            taken_s[way].append(clock() - started)
        rounds += 1
    return taken_s


def _head(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    widths = f"{len(manifest.numeric)} numbers and {len(manifest.categorical)} codes a row"
    yield f"{manifest.name} {manifest.version}, {widths}; onnxruntime {ort.__version__}, {usable_cores()} cores."
    yield "µs for a batch, and rows per second."


def _table(way: Way, timings: Timings) -> Iterator[str]:
    plain = Way(way.provider, way.threads, bound=False)
    yield f"{way.name:<16}{'bound, as it is served':>30}{'session.run':>32}"
    yield f"{'batch':>8}" + 2 * f"{'p50':>11}{'p99':>9}{'rows/s':>12}"
    for rows in BATCH_SIZES:
        cells = (timings[each][rows] for each in (way, plain))
        yield f"{rows:>8}" + "".join(f"{it.p50_us:>11.1f}{it.p99_us:>9.1f}{it.rows_per_second:>12,.0f}" for it in cells)
