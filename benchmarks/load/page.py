"""What is printed of a contest: the table, what the open loops found, and each goal with whether it was met."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console

from benchmarks.features.rounds import Spread
from benchmarks.load.contenders import ASGI, MEMORY, PLAIN, RAW_ASGI, REDIS, TWO_WORKERS
from benchmarks.load.contest import Results, accepted, cheapest

CLIENTS = 32  # at which processor time is compared: enough that nobody waits for work
MANY_CLIENTS = 64
PEERS: Mapping[str, float] = {"Triton": 3, "KServe": 4, "MLServer": 4, "BentoML": 10}  # by how a name begins
OPEN_GOALS: Mapping[float, Mapping[str, float]] = {  # by rate: milliseconds at most
    500.0: {"median_ms": 1.2, "p99_ms": 3.0},
    4_000.0: {"p99_ms": 5.0, "p999_ms": 12.0},
}
_FIGURES = {"median_ms": "p50", "p99_ms": "p99", "p999_ms": "p99.9"}


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise and what was found.

    Attributes:
        what: in a few words.
        found: in the unit of the bound, once or round by round; None where it could not be measured.
        bound: at most this, or at least this.
        at_least: which of both.
    """

    what: str
    found: Spread | float | None
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the middle of what was found keeps the bound; None where nothing was found."""
        if self.found is None:
            return None
        found = self.found.middle if isinstance(self.found, Spread) else self.found
        return found >= self.bound if self.at_least else found <= self.bound

    def __str__(self) -> str:
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        if self.found is None:
            return f"  {self.what:58} {'-':>20}  {bound}: not measured"
        found = ranged(self.found) if isinstance(self.found, Spread) else f"{self.found:,.4g}"
        return f"  {self.what:58} {found:>20}  {bound}: {'met' if self.met else 'MISSED'}"


def print_contest(console: Console, results: Results) -> None:
    """The table, the open loops and what was left out."""
    console.print(
        f"{'contender':28} {'clients':>7} {'requests/s':>25} {'server CPU µs':>23} {'Redis CPU µs':>16} "
        f"{'p50 ms':>19} {'p99 ms':>19}"
    )
    for name, clients in sorted(results.turns, key=lambda turn: turn[1]):
        rate, server, redis, median, slow = (
            results.spread(name, clients, figure)
            for figure in ("per_second", "server_us", "redis_us", "median_ms", "p99_ms")
        )
        console.print(
            f"{name:28} {clients:7} {ranged(rate):>25} {ranged(server):>23} "
            f"{ranged(redis) if redis.high else '':>16} {ranged(median):>19} {ranged(slow):>19}"
        )
    console.print("\nMemory after all rounds, MB: what is shared between processes counted once, and at most")
    for name, memory in results.memory.items():
        console.print(f"  {name:28} {memory.pss_mb:7.0f} {memory.peak_mb:7.0f}")
    _print_opens(console, results)
    for name, reason in results.excluded.items():
        console.print(f"{name}: {reason}")


def contest_goals(results: Results) -> Iterator[Goal]:
    """What was promised about ours beside the others."""
    yield Goal("CPU of plain, of ours", results.times_cpu(PLAIN, REDIS, CLIENTS), 12, at_least=True)
    yield Goal("CPU of ours, of raw ASGI's", results.times_cpu(REDIS, RAW_ASGI, CLIENTS), 2.5)
    yield Goal("CPU through ASGI, of the fast lane's", results.times_cpu(ASGI, REDIS, CLIENTS), 1.4)
    yield Goal("CPU on Redis, of the embedded store's", results.times_cpu(REDIS, MEMORY, CLIENTS), 1.3, at_least=True)
    yield Goal(
        "requests/s of two workers, of one's", results.times_rate(TWO_WORKERS, REDIS, MANY_CLIENTS), 1.7, at_least=True
    )
    for rate, bounds in OPEN_GOALS.items():
        rounds = accepted(results.opens.get((REDIS, rate), []))
        for figure, most_ms in bounds.items():
            found = Spread.of([getattr(one, figure) for one in rounds]) if rounds else None
            yield Goal(f"open loop, {rate:,.0f}/s, {_FIGURES[figure]} in ms", found, most_ms)


def peer_goals(results: Results) -> Iterator[Goal]:
    """What was promised about peers that only run the model; of several ways to run one the cheapest counts."""
    for family, least in PEERS.items():
        name = cheapest(results, family, CLIENTS)
        found = None if name is None else results.times_cpu(name, REDIS, CLIENTS)
        yield Goal(f"CPU of {name or family}, of ours", found, least, at_least=True)


def ranged(spread: Spread) -> str:
    """The middle and the range, with as many digits as say something."""
    digits = 0 if spread.middle >= 100 else 1 if spread.middle >= 10 else 2  # noqa: PLR2004 - three digits in all
    return f"{spread.middle:,.{digits}f} ({spread.low:,.{digits}f} – {spread.high:,.{digits}f})"


def _print_opens(console: Console, results: Results) -> None:
    """Every round by itself: what one stall does to p99.9 is no matter of the middle."""
    if results.opens:
        console.print("\nOpen loop: requests come at a rate of their own; ms from when one was due to its answer")
    for (name, rate), rounds in results.opens.items():
        for one in rounds:
            shown = one.rejected or (
                f"p50 {one.median_ms:.2f}, p99 {one.p99_ms:.2f}, p99.9 {one.p999_ms:.2f}, slowest {one.max_ms:.2f} "
                f"(generator late by {one.lag_ms:.2f})"
                f"{f'; {one.unanswered:,} of {one.requests:,} were not answered' if one.unanswered else ''}"
            )
            console.print(f"  {name:28} {rate:7,.0f}/s  {shown}")
