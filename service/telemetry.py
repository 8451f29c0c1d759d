"""Every metric of the service; each is moved by exactly one method here."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.decision import Decision
from service.stores.base import StoreStatus


class Stage(StrEnum):
    """Where a scoring call spends its time, in order; total spans them all."""

    READ = "read"
    STORE = "store"
    FOLD = "fold"
    MODEL = "model"
    DECIDE = "decide"
    RECORD = "record"
    TOTAL = "total"


STAGE_BUCKETS_SECONDS = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005),  # where a lone request lives
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),  # where batches and trouble live
)
PROBABILITY_BUCKETS = tuple(
    float(f"{digit}e{power}") for power in range(-5, 0) for digit in (1, 2, 5)
)  # 1e-05, 2e-05, 5e-05 .. 0.5: a portfolio's fraud rate lies in the middle of the scale


class Telemetry:
    """The metrics of one process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        stage_seconds = Histogram(
            "fraud_stage_seconds",
            "Seconds spent in each stage of a scoring call; total is what a client waits for, without the network.",
            ["stage"],
            buckets=STAGE_BUCKETS_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stage_seconds.labels(stage.value) for stage in Stage}
        decisions = Counter(
            "fraud_decisions_total", "New decisions by kind; replays are not counted.", ["decision"], registry=registry
        )
        self._decisions = {decision: decisions.labels(decision.word) for decision in Decision}
        self._probability = Histogram(
            "fraud_probability",
            "Calibrated fraud probability of new decisions: a shift means other traffic, or another model.",
            buckets=PROBABILITY_BUCKETS,
            registry=registry,
        )
        self._degraded = Counter(
            "fraud_degraded_total",
            "New decisions made without something, by what was missing: the history of an entity, or the model.",
            ["missing"],
            registry=registry,
        )
        self._replays = Counter(
            "fraud_replays_total", "Requests answered with the stored decision of an earlier one.", registry=registry
        )
        self._conflicts = Counter(
            "fraud_conflicts_total", "Requests that used a transaction_id again with another body.", registry=registry
        )
        self._problems = Counter(
            "fraud_problems_total",
            "Requests, or items of a batch, refused, by problem code.",
            ["code"],
            registry=registry,
        )
        self._outcomes = Counter(
            "fraud_outcomes_total", "Outcomes taken into the histories, by type.", ["type"], registry=registry
        )
        self._late_events = Counter(
            "fraud_late_events_total",
            "Transactions more than 7 days older than their entity's newest: some windows no longer count them.",
            registry=registry,
        )
        self._parity_cells = Counter(
            "fraud_feature_parity_cells_total",
            "Feature values of live decisions that were computed again from the archived history.",
            registry=registry,
        )
        self._parity_mismatches = Counter(
            "fraud_feature_parity_mismatch_total",
            "Of these, how many came out otherwise than they were served. Anything but 0 is a defect.",
            registry=registry,
        )
        self._parity_unknown = Counter(
            "fraud_feature_parity_unknown_total",
            "Entities in the sample that could not be computed again: their archived history has a gap.",
            registry=registry,
        )
        self._kernel_ready = Gauge(
            "fraud_kernel_ready",
            "1 once the feature kernel is compiled and the model passed its golden rows.",
            registry=registry,
        )
        self._model = Gauge(
            "fraud_model_info", "1 for the model in use.", ["name", "version", "sha256", "provider"], registry=registry
        )
        self._thresholds = Gauge(
            "fraud_thresholds_version",
            "Version of the thresholds in use; 0 before the first publication.",
            registry=registry,
        )

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Once per stage of a scoring call, whatever the size of its batch."""
        self._stages[stage].observe(seconds)

    def observe_decision(self, decision: Decision, probability: float | None, degraded: Iterable[str]) -> None:
        """Once per new decision; `degraded` from the closed list of the response."""
        self._decisions[decision].inc()
        if probability is not None:
            self._probability.observe(probability)
        for missing in degraded:
            self._degraded.labels(missing).inc()

    def observe_replay(self) -> None:
        """A stored decision was returned."""
        self._replays.inc()

    def observe_conflict(self) -> None:
        """A transaction id came back with another body."""
        self._conflicts.inc()

    def observe_problem(self, code: str) -> None:
        """A request or an item of a batch was answered with a problem of this code."""
        self._problems.labels(code).inc()

    def observe_outcome(self, outcome_type: str) -> None:
        """An outcome was taken into the histories."""
        self._outcomes.labels(outcome_type).inc()

    def observe_late_event(self) -> None:
        """A transaction arrived more than 7 days behind its entity's newest."""
        self._late_events.inc()

    def observe_parity(self, cells: int, differing: int) -> None:
        """An entity of a live decision was computed again."""
        self._parity_cells.inc(cells)
        self._parity_mismatches.inc(differing)

    def observe_parity_unknown(self) -> None:
        """An entity of a live decision could not be computed again."""
        self._parity_unknown.inc()

    def watch_store(self, status: Callable[[], StoreStatus]) -> None:
        """Ask a store how it is whenever metrics are collected."""
        self.registry.register(_StoreMetrics(status))

    def watch_thresholds(self, version: Callable[[], int]) -> None:
        """Ask for the version in use whenever metrics are collected."""
        self._thresholds.set_function(version)

    def show_model(self, *, name: str, version: str, sha256: str, provider: str) -> None:
        """Name the model in use; a former one disappears."""
        self._model.clear()
        self._model.labels(name, version, sha256, provider).set(1)

    def show_kernel_ready(self) -> None:
        """The kernel is compiled and the golden rows came out as training saw them."""
        self._kernel_ready.set(1)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, version 0.0.4."""
        return bytes(generate_latest(self.registry))


class _StoreMetrics(Collector):
    """Numbers that the store counts anyway, read when they are asked for."""

    def __init__(self, status: Callable[[], StoreStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """All of them, as of now."""
        status = self._status()
        if status.entities is not None:
            yield GaugeMetricFamily(
                "fraud_store_entities", "Entities whose history is in the store.", value=status.entities
            )
        for name, text, value in (
            ("fraud_store_links", "Servers of the store that this process talks to.", status.links),
            ("fraud_store_links_up", "Of these, how many answer; fewer: their entities are degraded.", status.links_up),
            (
                "fraud_store_deferred",
                "Appends and decisions that wait in this process for the store; lost with it.",
                status.deferred,
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        for name, text, value in (
            (
                "fraud_store_evictions_total",
                (
                    "Histories forgotten because the store was full: raise TOUCHSTONE_MEMORY_MAX_ENTITIES, or the "
                    "server's maxmemory, whose policy must be noeviction."
                ),
                status.evictions,
            ),
            ("fraud_store_timeouts_total", "Trips to the store that got no answer in time.", status.timeouts),
            (
                "fraud_store_unsent_total",
                "Trips to the store not begun: a link was down, or too much was under way.",
                status.unsent,
            ),
            (
                "fraud_store_refused_total",
                "Commands that the store answered with an error: full, loading, or not allowed; the log says which.",
                status.refused,
            ),
            ("fraud_store_dropped_total", "Deferred appends and decisions given up: too many waited.", status.dropped),
            (
                "fraud_archive_overflow_total",
                (
                    "Archived messages removed before they were collected: collect more often, or raise "
                    "TOUCHSTONE_MAX_STREAM_ARCHIVE."
                ),
                status.archive_overflow,
            ),
            (
                "fraud_decisions_overflow_total",
                (
                    "Decisions removed from the stream before they were collected: collect more often, or raise "
                    "TOUCHSTONE_MAX_STREAM_DECISIONS."
                ),
                status.decisions_overflow,
            ),
            (
                "fraud_outcomes_overflow_total",
                "Outcomes removed from the stream before they were collected: collect more often.",
                status.outcomes_overflow,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
