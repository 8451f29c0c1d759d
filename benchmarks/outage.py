"""`make bench-outage`: one page about what a service's clients see while its Redis hangs, is killed and comes back."""

import gc
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import numpy as np
import orjson
import polars as pl
import redis
from prometheus_client.parser import text_string_to_metric_families
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console

from benchmarks.connection import Connection
from benchmarks.features.server import PATIENCE_S, Server
from benchmarks.machine import describe_machine
from benchmarks.measure import OK, RequestRefused
from benchmarks.payments import request_bodies
from benchmarks.serving import PROJECT, STOP_SECONDS, Address, ServiceFailed, free_port
from service.app import bundle_directory
from service.bundle import Bundle
from service.settings import SHIPPED_MODELS
from training.simulate import SimulationConfig, simulate

RATE = 200  # payments a second
CLIENTS = 32  # each has 160 ms before its next payment is due
DAYS, SEED = 15, 5  # which gives a thousand cards
MERCHANT = "shop-of-them-all"  # in its history every payment of the run can be counted
PAST = timedelta(days=400)  # a store that is so old knows a new card when it sees one: normally nothing is degraded
NO_ANSWER = 0  # for a status
LEAD_S = 1.0  # for the clients to connect before the first payment is due, and to look at the service before the last
CALM_S = 1.0  # without a degraded answer: things are normal again

# Goals, at most.
AWAY_MS = 55.0  # a deadline of 50 ms, and 5 ms
BACK_S = 2.0
WAITING_MB = 140 / 20_000  # of a payment: its decision and what is to be appended, by the bound of docs/operations.md
STEADY_MB = 8.0  # what handing over takes, and a minute's work
FIRST, SECOND = "before the first outage", "before the second outage"


@dataclass(frozen=True, slots=True)
class Course:
    """How long each part of a run lasts, in seconds; Redis is away twice."""

    warm_up_s: float = 5.0
    normal_s: float = 10.0
    away_s: float = 15.0
    between_s: float = 10.0
    after_s: float = 20.0

    @property
    def total_s(self) -> float:
        """From the first payment to the last."""
        return self.warm_up_s + self.normal_s + 2 * self.away_s + self.between_s + self.after_s


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one payment.

    Attributes:
        number: which one it was.
        due_s: when it was to be sent, by `time.perf_counter`, as are all moments here.
        seconds: from then to the end of the answer, so what it waited for its client is part of it.
        status: of the answer, or `NO_ANSWER`.
        degraded: whether the answer says that the decision lacked something.
    """

    number: int
    due_s: float
    seconds: float
    status: int
    degraded: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run.

    Attributes:
        name: for people.
        begin_s: when the first payment could be due in it.
        end_s: from when on payments are of the next one.
        away: whether Redis was away.
        back_s: when Redis answered again after it was away; None where it was there all along or never.
    """

    name: str
    begin_s: float
    end_s: float
    away: bool = False
    back_s: float | None = None

    def of(self, answers: Iterable[Answered]) -> list[Answered]:
        """The payments that were due in it."""
        return [answer for answer in answers if self.begin_s <= answer.due_s < self.end_s]


@dataclass(frozen=True, slots=True)
class Condition:
    """How the service's process was at one moment.

    Attributes:
        rss_mb: its resident memory, in 10⁶ bytes.
        threads: how many it had.
        sockets: how many it had open, those of its clients included.
        waiting: appends and decisions that waited in it for Redis.
    """

    rss_mb: float
    threads: int
    sockets: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen: of each payment, and of the service's process at some moments, in order."""

    answers: Sequence[Answered]
    phases: Sequence[Phase]
    conditions: Mapping[str, Condition]


@dataclass(frozen=True, slots=True)
class Counts:
    """Payments counted one by one: of the merchant of all, and of each card."""

    merchant: int
    cards: Mapping[str, int]


def bench_outage(console: Console, *, port: int, model_dir: Path | None, log: Path, course: Course) -> None:
    """Measure and print.

    Args:
        console: where the page goes.
        port: a free one, for the service that is measured.
        model_dir: a bundle or a directory of versions with card_count_1h and merchant_count_1h, or None for the
            shipped one.
        log: the file for what the service itself says.
        course: how long everything takes.

    Raises:
        ServiceFailed: the service or Redis did not start, or this is not Linux.
        RequestRefused: what is in the histories could not be found out.
    """
    if sys.platform != "linux":
        raise ServiceFailed("this benchmark reads /proc, which only Linux has")
    bundle = Bundle.load(bundle_directory(model_dir or SHIPPED_MODELS))
    console.print(f"{describe_machine()}\nmodel {bundle.manifest.name} {bundle.manifest.version}")
    gc.disable()  # a collection in this process would show up as one slow request of the service
    frame = _payments(int(course.total_s * RATE))
    with ExitStack() as stack:
        server = stack.enter_context(_frail_redis())
        name = server.start()
        service = stack.enter_context(_running_service(port=port, server=server, model_dir=model_dir, log=log))
        console.print(f"{name}; {RATE} payments a second, each sent when it is due, from {CLIENTS} clients\n")
        with Connection(service.address) as connection:
            _age(connection, frame)
            run = _run(service, server, connection, frame, course)
            _print_phases(console, run)
            _print_conditions(console, run.conditions)
            _wait_for_handover(connection)
            held = _count(connection, frame)
    _print_goals(console, run, expected=_expected(run.answers, frame["card_id"].to_list()), held=held)
    console.print(f"\nWhat the service itself said is in {log}.")


def _payments(count: int) -> pl.DataFrame:
    """Simulated payments of all kinds, all at one merchant. None follows another, so each is counted."""
    frame = simulate(SimulationConfig(transactions=count, days=DAYS, seed=SEED))
    return frame.drop("follows", "follow_kind").with_columns(merchant_id=pl.lit(MERCHANT))


def _age(connection: Connection, frame: pl.DataFrame) -> None:
    """Make the store old: the first payment it hears of was long ago, with a card and at a merchant of its own."""
    past = frame[:1].with_columns(
        transaction_id=pl.lit("long-ago"),
        timestamp=_instants([datetime.now(UTC) - PAST]),
        card_id=pl.lit("card-of-the-past"),
        merchant_id=pl.lit("shop-of-the-past"),
    )
    _checked(connection, next(request_bodies(past)))


def _run(service: "Service", server: "FrailRedis", connection: Connection, frame: pl.DataFrame, course: Course) -> Run:
    """Send all payments while Redis comes and goes."""
    enough = Event()
    begin_s = time.perf_counter() + LEAD_S
    start = datetime.now(UTC) + timedelta(seconds=LEAD_S)
    dues = [number / RATE for number in range(len(frame))]
    instants = _instants([start + timedelta(seconds=due) for due in dues])
    bodies = list(request_bodies(frame.with_columns(timestamp=instants)))
    payments = [(number, begin_s + due, body) for number, (due, body) in enumerate(zip(dues, bodies, strict=True))]
    with ThreadPoolExecutor(CLIENTS) as pool:
        hands = [pool.submit(send_when_due, service.address, payments[n::CLIENTS], enough) for n in range(CLIENTS)]
        try:
            phases, conditions = _let_redis_fail(service, server, connection, begin_s, course)
        except BaseException:
            enough.set()
            raise
        answers = [answer for hand in hands for answer in hand.result()]
    return Run(answers, phases, conditions)


def send_when_due(address: Address, payments: Sequence[tuple[int, float, bytes]], enough: Event) -> list[Answered]:
    """One client: sends each payment when it is due, or as soon as the one before is answered.

    Args:
        address: of the service.
        payments: the number of each, when it is due and its body, in order.
        enough: ends it early.

    Raises:
        OSError: nobody listens there any more.
    """
    answers: list[Answered] = []
    rest = iter(payments)
    while True:
        with Connection(address) as connection:
            for number, due_s, body in rest:
                if enough.wait(max(0.0, due_s - time.perf_counter())):
                    return answers
                answers.append(_answered(connection, number, due_s, body))
                if answers[-1].status == NO_ANSWER:
                    break  # and go on with another connection
            else:
                return answers


def _answered(connection: Connection, number: int, due_s: float, body: bytes) -> Answered:
    try:
        reply = connection.post("/score", body)
    except OSError:  # closed, or silent for too long
        return Answered(number, due_s, time.perf_counter() - due_s, NO_ANSWER, degraded=False)
    seconds = time.perf_counter() - due_s
    degraded = reply.status == OK and bool(orjson.loads(reply.body)["degraded"])
    return Answered(number, due_s, seconds, reply.status, degraded)


def _let_redis_fail(
    service: "Service", server: "FrailRedis", connection: Connection, begin_s: float, course: Course
) -> tuple[list[Phase], dict[str, Condition]]:
    """Stop, resume, kill and start Redis, each at its time; look at the service meanwhile."""
    conditions: dict[str, Condition] = {}

    def look(moment: str, at_s: float) -> float:
        time.sleep(max(0.0, at_s - time.perf_counter()))
        conditions[moment] = _look(service, connection)
        return time.perf_counter()

    normal_s = look("in the beginning", begin_s + course.warm_up_s)
    look(FIRST, normal_s + course.normal_s)
    server.hang()
    hung_s = time.perf_counter()
    look(f"Redis hangs for {course.away_s / 3:g} s", hung_s + course.away_s / 3)
    resumed_s = look(f"Redis hangs for {course.away_s:g} s", hung_s + course.away_s)
    server.go_on()
    look(f"{BACK_S:g} s after it went on", resumed_s + BACK_S)
    look(SECOND, resumed_s + course.between_s)
    server.kill()
    killed_s = time.perf_counter()
    look(f"Redis is dead for {course.away_s / 3:g} s", killed_s + course.away_s / 3)
    started_s = look(f"Redis is dead for {course.away_s:g} s", killed_s + course.away_s)
    server.start()
    back_s = time.perf_counter()
    look(f"{BACK_S:g} s after it started", back_s + BACK_S)
    end_s = begin_s + course.total_s
    look("in the end", end_s - LEAD_S)  # while its clients are still there
    return [
        Phase("normal", normal_s, hung_s),
        Phase("Redis hangs (SIGSTOP)", hung_s, resumed_s, away=True),
        Phase("it goes on", resumed_s, killed_s, back_s=resumed_s),
        Phase("Redis is dead (SIGKILL)", killed_s, started_s, away=True),
        Phase("it is started again", started_s, end_s, back_s=back_s),
    ], conditions


def _look(service: "Service", connection: Connection) -> Condition:
    return read_condition(service.pid, waiting=int(_metric(connection, "fraud_store_deferred")))


def read_condition(pid: int, *, waiting: int) -> Condition:
    """How a process is now, by proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    fields = {name: value for name, _, value in (line.partition(":") for line in status.splitlines())}
    sockets = sum(_is_socket(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    return Condition(int(fields["VmRSS"].split()[0]) * 1024 / 1e6, int(fields["Threads"]), sockets, waiting)


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed since it was listed
        return False


def _metric(connection: Connection, name: str) -> float:
    families = text_string_to_metric_families(connection.get("/metrics").body.decode())
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def _wait_for_handover(connection: Connection) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while _metric(connection, "fraud_store_deferred"):
        if time.monotonic() > deadline_s:
            raise RequestRefused("Redis has been back for long, and something still waits for it in the service")
        time.sleep(0.1)


def _count(connection: Connection, frame: pl.DataFrame) -> Counts:
    """Pay once more with every card, and read what each of these decisions saw before itself."""
    last = frame.unique("card_id", maintain_order=True)
    last = last.with_columns(
        transaction_id=pl.lit("last-") + pl.col("card_id"), timestamp=_instants([datetime.now(UTC)] * len(last))
    )
    merchant: list[int] = []
    cards: dict[str, int] = {}
    for card, name, body in zip(last["card_id"], last["transaction_id"], request_bodies(last), strict=True):
        _checked(connection, body)
        reply = connection.get(f"/decisions/{name}")
        if reply.status != OK:
            raise RequestRefused(f"{reply.status}: {reply.body.decode()}")
        seen = orjson.loads(reply.body)["seen"]["numeric"]
        if seen.get("card_count_1h") is None or seen.get("merchant_count_1h") is None:
            raise RequestRefused("a history did not come, or the model has no card_count_1h and merchant_count_1h")
        cards[card] = int(seen["card_count_1h"])
        merchant.append(int(seen["merchant_count_1h"]))
    return Counts(merchant[0], cards)


def _expected(answers: Iterable[Answered], cards: Sequence[str]) -> Counts:
    """What the histories should hold: each payment that was answered, once. `cards`: by number of the payment."""
    counted = Counter(cards[answer.number] for answer in answers if answer.status == OK)
    return Counts(counted.total(), counted)


def _checked(connection: Connection, body: bytes) -> None:
    reply = connection.post("/score", body)
    if reply.status != OK:
        raise RequestRefused(f"{reply.status}: {reply.body.decode()}")


def _instants(instants: Sequence[datetime]) -> pl.Series:
    return pl.Series(instants, dtype=pl.Datetime("ms", "UTC"))


def normal_again_s(answers: Iterable[Answered], phase: Phase) -> float:
    """How long after Redis' return payments were degraded for the last time before all was calm.

    Args:
        answers: of the run.
        phase: one in which Redis came back.

    Returns:
        Seconds, 0 if none was degraded; infinity if nothing was calm before the phase ended.
    """
    assert phase.back_s is not None, phase
    last_s = phase.back_s
    for answer in sorted(phase.of(answers), key=lambda answer: answer.due_s):
        if answer.due_s > last_s + CALM_S:
            break
        if answer.degraded:
            last_s = max(last_s, answer.due_s)
    return last_s - phase.back_s if last_s + CALM_S <= phase.end_s else math.inf


def grown_mb(conditions: Mapping[str, Condition], *, since: str) -> float:
    """By how much the process was at most larger than at a moment, then or later."""
    moments = list(conditions)
    later = [conditions[moment].rss_mb for moment in moments[moments.index(since) :]]
    return max(later) - later[0]


def _print_phases(console: Console, run: Run) -> None:
    console.print(f"{'':26} {'requests':>9} {'200':>7} {'degraded':>9} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for phase in run.phases:
        answers = phase.of(run.answers)
        p50, p99, slowest = np.percentile([answer.seconds for answer in answers], (50, 99, 100)) * 1e3
        fine = sum(answer.status == OK for answer in answers)
        degraded = sum(answer.degraded for answer in answers)
        name = f"{phase.name}, {phase.end_s - phase.begin_s:.0f} s"
        console.print(f"{name:30} {len(answers):8,} {fine:8,} {degraded:8,} {p50:8.2f} {p99:8.2f} {slowest:8.2f}")
    for phase in run.phases:
        if phase.back_s is not None:
            loading_ms = (phase.back_s - phase.begin_s) * 1e3
            console.print(
                f"{phase.name}: it answers after {loading_ms:.0f} ms, "
                f"nothing is degraded {normal_again_s(run.answers, phase):.2f} s later"
            )


def _print_conditions(console: Console, conditions: Mapping[str, Condition]) -> None:
    console.print(f"\n{'the process of the service':26} {'RSS MB':>8} {'threads':>8} {'sockets':>8} {'waiting':>8}")
    for moment, now in conditions.items():
        console.print(f"{moment:26} {now.rss_mb:8.1f} {now.threads:8} {now.sockets:8} {now.waiting:8,}")


def _print_goals(console: Console, run: Run, *, expected: Counts, held: Counts) -> None:
    """Each goal beside what was found."""
    outages = [phase.of(run.answers) for phase in run.phases if phase.away]
    away = [answer for outage in outages for answer in outage]
    marked = sum(answer.degraded for answer in away)
    slowest_ms = max(answer.seconds for answer in away) * 1e3
    back_s = max(normal_again_s(run.answers, phase) for phase in run.phases if phase.back_s is not None)
    sockets = [now.sockets for now in run.conditions.values()]
    room_mb = max(map(len, outages)) * WAITING_MB + STEADY_MB
    first_mb, second_mb = (grown_mb(run.conditions, since=moment) for moment in (FIRST, SECOND))
    right = sum(count == expected.cards.get(card, 0) for card, count in held.cards.items())
    sent, fine, cards = len(run.answers), expected.merchant, len(held.cards)
    console.print("\nGoals")
    for goal, found, met in (
        ("payments that are answered 200", f"{fine:,} of {sent:,}", fine == sent),
        ("while Redis is away, marked as degraded", f"{marked:,} of {len(away):,}", marked == len(away)),
        ("while Redis is away, the slowest", f"{slowest_ms:.1f} ms of {AWAY_MS:g}", slowest_ms <= AWAY_MS),
        ("normal after its return", f"{back_s:.2f} s of {BACK_S:g}", back_s <= BACK_S),
        ("most sockets, of those in the beginning", f"{max(sockets)} of {sockets[0]}", max(sockets) <= sockets[0]),
        ("growth, of what may wait", f"{first_mb:.1f} MB of {room_mb:.1f}", first_mb <= room_mb),
        ("further growth from the second outage on", f"{second_mb:.1f} MB of {STEADY_MB:g}", second_mb <= STEADY_MB),
        ("in the merchant's history", f"{held.merchant:,} of {fine:,}", held.merchant == fine),
        ("cards whose history has all, each once", f"{right:,} of {cards:,}", right == cards),
    ):
        console.print(f"  {goal:42} {found:>20}  {'met' if met else 'MISSED'}")


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs: where it listens, and the id of its process."""

    address: Address
    pid: int


@contextmanager
def _running_service(*, port: int, server: "FrailRedis", model_dir: Path | None, log: Path) -> Iterator[Service]:
    """Start the service with default settings on this Redis; stop it at the end.

    Raises:
        ServiceFailed: it did not become ready, or ended with an error.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTONE_")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as state, log.open("wb") as said:
        command = [
            sys.executable,
            "-m",
            "service",
            "--port",
            str(port),
            "--store-url",
            server.url,
            "--state-dir",
            state,
        ]
        command += ["--model-dir", str(model_dir)] if model_dir else []
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
            command, cwd=PROJECT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            address = Address("127.0.0.1", port)
            _wait_until_ready(process, address)
            yield Service(address, process.pid)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
            if process.returncode != 0:
                raise ServiceFailed(f"the service ended with {process.returncode}; see {log}")


def _wait_until_ready(process: "subprocess.Popen[bytes]", address: Address) -> None:
    """Ask as long as it runs: the first start in a checkout compiles the kernel."""
    while process.poll() is None:
        try:
            with Connection(address) as connection:
                if connection.get("/health/ready").status == OK:
                    return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise ServiceFailed("the service did not start")


class FrailRedis:
    """A Redis with the configuration that comes with Touchstone; it fails when told to, and keeps port and files."""

    def __init__(self, directory: Path) -> None:
        """Describe one that keeps its files there.

        Raises:
            ServiceFailed: Redis is not installed.
        """
        binary = shutil.which("redis-server")
        if binary is None:
            raise ServiceFailed("there is no redis-server; Debian's package redis-server has one")
        self._port = free_port()
        where = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(directory)]
        self._command = [binary, str(PROJECT / "k8s" / "base" / "redis.conf"), *where]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For the store."""
        return f"redis://127.0.0.1:{self._port}"

    def start(self) -> str:
        """Start it, with what it has kept, and wait until it answers. Returns what it is, and its version.

        Raises:
            ServiceFailed: it does not answer.
        """
        assert self._process is None, "it runs"
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
        deadline_s = time.monotonic() + PATIENCE_S
        at_once = Retry(NoBackoff(), retries=0)  # else the moment of its return would be seen late
        with redis.Redis(port=self._port, protocol=2, socket_timeout=PATIENCE_S, retry=at_once) as client:
            client.response_callbacks.clear()
            while not _answers(client):
                if time.monotonic() > deadline_s:
                    raise ServiceFailed("the Redis server does not answer")
                time.sleep(0.002)
            return Server(client, self._port).name

    def hang(self) -> None:
        """Let it do nothing; the kernel still takes connections for it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `hang`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without warning; does nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)


@contextmanager
def _frail_redis() -> Iterator[FrailRedis]:
    """One that does not run yet; it and its files are gone afterwards."""
    with TemporaryDirectory(prefix="redis-") as directory:
        server = FrailRedis(Path(directory))
        try:
            yield server
        finally:
            server.kill()


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ConnectionError:  # among them: it is still loading what it kept
        return False
    return True
