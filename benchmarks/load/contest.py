"""The contest: every contender under the same load, in turn, round after round, with what it took of the machine."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.connection import Connection
from benchmarks.features.cores import pinned
from benchmarks.features.rounds import Spread
from benchmarks.load.closed_loop import closed_loop
from benchmarks.load.contender import Contender
from benchmarks.load.open_loop import OpenLoop, open_loop
from benchmarks.load.places import Places
from benchmarks.load.processes import cpu_s, peak_mb, pss_mb
from benchmarks.load.running import Started, running_contender
from benchmarks.load.workload import Workload
from benchmarks.measure import OK, RequestRefused

SAMPLE = 64  # answers looked at before the clock starts, and again at the end
PROBABILITY_TOLERANCE = 1e-5  # of a peer, to what onnxruntime says here


@dataclass(frozen=True, slots=True)
class Course:
    """How long everything takes.

    Attributes:
        rounds: in each of which everybody has a turn.
        clients: numbers of clients, each a turn of its own.
        seconds: of a turn; whole ones.
        warm_up_s: of load before the first round, with the most clients.
        open_rates: requests a second of the open loops.
        open_s: how long each of them lasts, in every round.
        transactions: payments that are simulated; what is not sent is not prepared.
    """

    rounds: int = 3
    clients: tuple[int, ...] = (1, 8, 32, 64)
    seconds: float = 2.0
    warm_up_s: float = 1.0
    open_rates: tuple[float, ...] = (500.0, 4_000.0)
    open_s: float = 2.0
    transactions: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one contender.

    Attributes:
        per_second: requests answered in a second.
        server_us: processor time of all its processes for a request.
        redis_us: that of its Redis; 0 where it has none.
        median_ms, p99_ms: of a request, at the client.
    """

    per_second: float
    server_us: float
    redis_us: float
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What a contender took after all rounds, in megabytes: at the end, what is shared counting once, and at most."""

    pss_mb: float
    peak_mb: float


@dataclass(slots=True)
class Results:
    """What was found.

    Attributes:
        turns: by contender and number of clients, one for each round.
        opens: by contender and rate, one for each round, rejected ones too.
        memory: by contender.
        excluded: by contender, why it is in no table.
        redis: what those that need one have each for itself.
    """

    turns: dict[tuple[str, int], list[Turn]] = field(default_factory=dict)
    opens: dict[tuple[str, float], list[OpenLoop]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    redis: str = "no Redis"

    def spread(self, name: str, clients: int, figure: str) -> Spread:
        """The middle and the range of a figure of `Turn`."""
        return Spread.of([getattr(turn, figure) for turn in self.turns[name, clients]])

    def times_cpu(self, name: str, other: str, clients: int) -> Spread | None:
        """How many times the processor time of another contender one takes, round by round; None if one is missing."""
        over, under = self.turns.get((name, clients)), self.turns.get((other, clients))
        if not over or not under:
            return None
        return Spread.of_ratios([turn.server_us for turn in over], [turn.server_us for turn in under])

    def times_rate(self, name: str, other: str, clients: int) -> Spread | None:
        """How many times the requests of another one answers, round by round; None if one is missing."""
        over, under = self.turns.get((name, clients)), self.turns.get((other, clients))
        if not over or not under:
            return None
        return Spread.of_ratios([turn.per_second for turn in over], [turn.per_second for turn in under])


def hold_contest(
    contenders: Sequence[Contender],
    workload: Workload,
    places: Places,
    course: Course,
    *,
    directory: Path,
    open_for: Sequence[str] = (),
) -> Results:
    """Start everybody, check that they answer rightly, and let them take turns.

    Args:
        contenders: those that are missing are excluded, with their reason.
        workload: what they are sent.
        places: who runs where; this process moves to the generator's core meanwhile.
        course: how long.
        directory: for requests and logs.
        open_for: names of those that open loops are for.

    Raises:
        ServiceFailed: a contender did not start, or did not end as it should.
        RequestRefused: an answer is not what it should be: then its time says nothing.
        PaymentsUsedUp: there were fewer payments than they answered.
    """
    results = Results(excluded={one.name: one.missing for one in contenders if one.missing is not None})
    present = [one for one in contenders if one.missing is None]
    with pinned(places.generator), all_running(present, workload, places, directory=directory) as started:
        for one in started:
            check_answers(one, workload)
            warm_up(one, course)
        for number in range(course.rounds):
            first = number % len(started)
            for one in [*started[first:], *started[:first]]:
                _play_round(one, course, results, number, opens=one.contender.name in open_for)
        for one in started:
            check_answers(one, workload)
            results.memory[one.contender.name] = Memory(pss_mb(one.pid), peak_mb(one.pid))
            results.redis = results.redis if one.redis is None else one.redis.name
    return results


@contextmanager
def all_running(
    contenders: Sequence[Contender], workload: Workload, places: Places, *, directory: Path
) -> Iterator[list[Started]]:
    """Everybody at once: who has no turn has nothing to do, and waits."""
    with ExitStack() as closing:
        yield [
            closing.enter_context(running_contender(one, workload.supply(one, directory), places, directory=directory))
            for one in contenders
        ]


def check_answers(one: Started, workload: Workload | None = None) -> None:
    """Look at some answers: time is only worth taking of a server that does what it should.

    Args:
        one: the contender.
        workload: what it is sent; needed where its probabilities are to be checked.

    Raises:
        RequestRefused: an answer is not 200, or is wrong.
    """
    contender, first = one.contender, one.next
    expected: list[float] = []
    if contender.probability_in is not None:
        assert workload is not None, contender.name
        expected = workload.probabilities(first, SAMPLE)
    with Connection(one.address) as connection:
        for place, request in enumerate(one.take(SAMPLE)):
            reply = connection.exchange(request)
            if reply.status != OK:
                raise RequestRefused(f"{contender.name}: {reply.status}: {reply.body.decode(errors='replace')}")
            if contender.probability_in is not None:
                found, right = contender.probability_in(reply.body), expected[place]
                if not abs(found - right) <= PROBABILITY_TOLERANCE:
                    raise RequestRefused(f"{contender.name}: the probability is {found:g}, it should be {right:g}")
            fault = contender.fault_in(reply.body) if contender.fault_in is not None else None
            if fault is not None and first + place > 0:  # the very first payment makes the store old
                raise RequestRefused(f"{contender.name}: {fault}: {reply.body.decode(errors='replace')}")


def warm_up(one: Started, course: Course) -> None:
    """Load it as it will be loaded, and give its entities a history."""
    found = closed_loop(one.address, one.supply, one.next, clients=max(course.clients), seconds=course.warm_up_s)
    one.next += found.taken


def take_turn(one: Started, *, clients: int, seconds: float) -> Turn:
    """Load a contender, and see what it takes meanwhile."""
    server_s, redis_s = cpu_s(one.pid), one.redis.cpu_s() if one.redis else 0.0
    found = closed_loop(one.address, one.supply, one.next, clients=clients, seconds=seconds)
    server_s, redis_s = cpu_s(one.pid) - server_s, (one.redis.cpu_s() if one.redis else 0.0) - redis_s
    one.next += found.taken
    each = 1e6 / found.requests
    return Turn(found.per_second, server_s * each, redis_s * each, found.median_ms, found.p99_ms)


def _play_round(one: Started, course: Course, results: Results, number: int, *, opens: bool) -> None:
    name = one.contender.name
    for clients in course.clients:
        turn = take_turn(one, clients=clients, seconds=course.seconds)
        results.turns.setdefault((name, clients), []).append(turn)
    for rate in course.open_rates if opens else ():
        found = open_loop(one.address, one.take(round(rate * course.open_s)), rate=rate, seed=number)
        results.opens.setdefault((name, rate), []).append(found)


def accepted(opens: Sequence[OpenLoop]) -> Sequence[OpenLoop]:
    """Those in which the generator kept its own times."""
    return [found for found in opens if found.rejected is None]


def cheapest(results: Results, family: str, clients: int) -> str | None:
    """Of those whose name begins so, the one that takes the least processor time for a request."""
    present = [name for name, played in results.turns if played == clients and name.startswith(family)]
    return min(present, key=lambda name: results.spread(name, clients, "server_us").middle, default=None)
