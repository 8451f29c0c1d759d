"""Every metric of the service; each is moved by exactly one method here."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.board import Board, Combine
from service.decision import Decision
from service.stores.base import StoreStatus
from service.tally import Counter, Histogram


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

# How the values of two workers become one, where they are not added. What stands in the store every worker counts.
COMBINED: Mapping[str, Combine] = {
    "fraud_kernel_ready": min,
    "fraud_thresholds_version": min,
    "fraud_model_info": max,
    "fraud_store_entities": max,
    "fraud_store_evictions": max,
    "fraud_archive_overflow": max,
    "fraud_decisions_overflow": max,
    "fraud_outcomes_overflow": max,
}


class Telemetry:
    """The metrics of one process, in a registry of its own. Its event loop alone moves them, so none takes a lock."""

    def __init__(self, registry: CollectorRegistry, board: Board | None = None) -> None:
        """`board`: where the workers of one service post their metrics; None for a process that is alone."""
        self.registry = registry
        self._board = board
        self._stages = Histogram(
            registry,
            "fraud_stage_seconds",
            "Seconds spent in each stage of a scoring call; total is what a client waits for, without the network.",
            bounds=STAGE_BUCKETS_SECONDS,
            label="stage",
            known=[stage.value for stage in Stage],
        ).of
        self._decisions = Counter(
            registry,
            "fraud_decisions_total",
            "New decisions by kind; replays are not counted.",
            "decision",
            [decision.word for decision in Decision],
        ).counts
        self._probability = Histogram(
            registry,
            "fraud_probability",
            "Calibrated fraud probability of new decisions: a shift means other traffic, or another model.",
            bounds=PROBABILITY_BUCKETS,
        ).of[""]
        self._degraded = Counter(
            registry,
            "fraud_degraded_total",
            "New decisions made without something, by what was missing: the history of an entity, or the model.",
            "missing",
        ).counts
        self._replays = Counter(
            registry, "fraud_replays_total", "Requests answered with the stored decision of an earlier one."
        )
        self._conflicts = Counter(
            registry, "fraud_conflicts_total", "Requests that used a transaction_id again with another body."
        )
        self._problems = Counter(
            registry, "fraud_problems_total", "Requests, or items of a batch, refused, by problem code.", "code"
        )
        self._outcomes = Counter(
            registry, "fraud_outcomes_total", "Outcomes taken into the histories, by type.", "type"
        )
        self._unwritten = Counter(
            registry,
            "fraud_decisions_unwritten_total",
            "Decisions made at once under overload that a defect kept from being written down; the log has it.",
        )
        self._late_events = Counter(
            registry,
            "fraud_late_events_total",
            "Transactions more than 7 days older than their entity's newest: some windows no longer count them.",
        )
        self._parity_cells = Counter(
            registry,
            "fraud_feature_parity_cells_total",
            "Feature values of live decisions that were computed again from the archived history.",
        )
        self._parity_mismatches = Counter(
            registry,
            "fraud_feature_parity_mismatch_total",
            "Of these, how many came out otherwise than they were served. Anything but 0 is a defect.",
        )
        self._parity_unknown = Counter(
            registry,
            "fraud_feature_parity_unknown_total",
            "Entities in the sample that could not be computed again: their archived history has a gap.",
        )
        self._restarts = Counter(
            registry, "fraud_worker_restarts_total", "Workers that died and were replaced; the log says how they ended."
        )
        self._kernel_ready = Gauge(
            "fraud_kernel_ready",
            "1 once the feature kernel is compiled and the model passed its golden rows, in every worker.",
            registry=registry,
        )
        self._model = Gauge(
            "fraud_model_info", "1 for the model in use.", ["name", "version", "sha256", "provider"], registry=registry
        )

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Once per stage of a scoring call, whatever the size of its batch."""
        self._stages[stage].observe(seconds)

    def observe_decision(self, decision: Decision, probability: float | None, degraded: Iterable[str]) -> None:
        """Once per new decision; see `observe_decisions`."""
        self.observe_decisions((decision,), (probability,), degraded)

    def observe_decisions(
        self, decisions: Iterable[Decision], probabilities: Iterable[float | None], degraded: Iterable[str]
    ) -> None:
        """Once per batch, for what is new in it.

        Args:
            decisions: (batch,).
            probabilities: (batch,), None where there is none.
            degraded: what they lacked, all in one, from the closed list of the response.
        """
        counts = self._decisions
        for decision in decisions:
            counts[decision.word] += 1
        for probability in probabilities:
            if probability is not None:
                self._probability.observe(probability)
        for missing in degraded:
            self._degraded[missing] += 1

    def observe_replay(self) -> None:
        """A stored decision was returned."""
        self._replays.add()

    def observe_conflict(self) -> None:
        """A transaction id came back with another body."""
        self._conflicts.add()

    def observe_problem(self, code: str) -> None:
        """A request or an item of a batch was answered with a problem of this code."""
        self._problems.add(code)

    def observe_outcome(self, outcome_type: str) -> None:
        """An outcome was taken into the histories."""
        self._outcomes.add(outcome_type)

    def observe_unwritten(self, times: int) -> None:
        """Decisions made at once could not be written down."""
        self._unwritten.add(times=times)

    def observe_late_event(self, times: int = 1) -> None:
        """A transaction arrived more than 7 days behind its entity's newest; or several did."""
        self._late_events.add(times=times)

    def observe_parity(self, cells: int, differing: int) -> None:
        """An entity of a live decision was computed again."""
        self._parity_cells.add(times=cells)
        self._parity_mismatches.add(times=differing)

    def observe_restart(self) -> None:
        """This worker takes the place of one that died."""
        self._restarts.add()

    def observe_parity_unknown(self) -> None:
        """An entity of a live decision could not be computed again."""
        self._parity_unknown.add()

    def watch_store(self, status: Callable[[], StoreStatus]) -> None:
        """Ask a store how it is whenever metrics are collected."""
        self.registry.register(_StoreMetrics(status))

    def watch_thresholds(self, version: Callable[[], int]) -> None:
        """Ask for the version in use whenever metrics are collected."""
        Gauge(
            "fraud_thresholds_version",
            "Version of the thresholds in use, by every worker; 0 before the first publication.",
            registry=self.registry,
        ).set_function(version)

    def show_model(self, *, name: str, version: str, sha256: str, provider: str) -> None:
        """Name the model in use; a former one disappears."""
        self._model.clear()
        self._model.labels(name, version, sha256, provider).set(1)

    def show_kernel_ready(self) -> None:
        """The kernel is compiled and the golden rows came out as training saw them."""
        self._kernel_ready.set(1)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, version 0.0.4; of all workers, where there are others."""
        if self._board is None:
            return generate_latest(self.registry)
        self.post()
        return generate_latest(_Collected(self._board.read(COMBINED)))

    def post(self) -> None:
        """Show this worker's metrics to the others; what it counts later is lost if it dies."""
        assert self._board is not None, "a process that is alone has nobody to post for"
        self._board.post(self.registry.collect())


class _Collected(Collector):
    """Metrics that were collected already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics


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
            ("fraud_store_links", "Links to servers of the store: each worker has one to each server.", status.links),
            ("fraud_store_links_up", "Of these, how many answer; fewer: their entities are degraded.", status.links_up),
            (
                "fraud_store_deferred",
                "Appends and decisions that wait in memory for the store; lost with their process.",
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
