"""The load of `make bench` and `make bench-peers`: each request is sent once, and each figure is what it says."""

import io
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.bench import bench, bench_scale, recording_share
from benchmarks.connection import Connection, post_request
from benchmarks.features.rounds import Spread
from benchmarks.load.closed_loop import NO_WRK, closed_loop, why_no_load
from benchmarks.load.cold_start import CLIENTS, PAYMENTS, cold_start
from benchmarks.load.contenders import (
    MEMORY,
    PLAIN,
    RAW_ASGI,
    TWO_WORKERS,
    our_settings,
    own_contenders,
    raw_asgi,
    touchstone,
    touchstone_fault,
)
from benchmarks.load.contest import Course, Results, Turn, cheapest, check_answers, hold_contest
from benchmarks.load.open_loop import LAG_MS, OpenLoop, open_loop
from benchmarks.load.page import Goal, contest_goals, peer_goals, ranged
from benchmarks.load.places import Places, choose_places
from benchmarks.load.prepared import PaymentsUsedUp, Supply
from benchmarks.load.processes import ENDED, cpu_s, family, members_of_session, peak_mb, pss_mb
from benchmarks.load.running import running_contender
from benchmarks.load.scale import ENTITIES, Extent, grouped, history
from benchmarks.load.workload import Workload
from benchmarks.measure import RequestRefused
from benchmarks.serving import Address, ServiceFailed, free_port
from service.app import bundle_directory
from service.bundle import Bundle
from service.settings import SHIPPED_MODELS

ANYWHERE = Places(None, (), None)
SECOND = Course(rounds=2, clients=(1, 4), seconds=1, warm_up_s=1, open_rates=(50.0,), open_s=0.4, transactions=100_000)

under_load = pytest.mark.skipif(why_no_load() is not None, reason=str(why_no_load()))
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one."""
    return Bundle.load(bundle_directory(SHIPPED_MODELS))


@pytest.fixture(scope="module")
def workload(bundle: Bundle) -> Workload:
    """Some payments, the first of them with the model's input."""
    return Workload.simulate(bundle, transactions=SECOND.transactions, vectors=300)


# What is sent


def test_every_payment_names_all_four_entities_and_no_id_comes_twice(workload: Workload) -> None:
    """All do the same work, none is a retry, and the first one makes a store old enough to know a new card."""
    frame = workload.frame
    assert frame.select("card_id", "merchant_id", "terminal_id", "device_id").null_count().sum_horizontal()[0] == 0
    assert frame["transaction_id"].is_unique().all()
    assert frame["timestamp"].is_sorted()
    assert (frame["timestamp"][1] - frame["timestamp"][0]).days >= 399


def test_stateless_contenders_are_sent_what_the_model_was_trained_on(workload: Workload) -> None:
    """A vector has the model's columns in their order; what is missing is None, for JSON knows no NaN."""
    manifest = workload.bundle.manifest
    assert {len(payment.numeric) for payment in workload.vectors} == {len(manifest.numeric)}
    assert {len(payment.categorical) for payment in workload.vectors} == {len(manifest.categorical)}
    values = [value for payment in workload.vectors for value in payment.numeric]
    assert None in values
    assert not any(np.isnan(value) for value in values if value is not None)
    assert len(workload.probabilities(290, 20)) == 20  # past the last comes the first


def test_prepared_requests_are_taken_in_order_and_each_once(tmp_path: Path) -> None:
    """Whether they were written before or not, until there are none left."""
    supply = Supply(tmp_path / "once", (b"request %d" % number for number in range(10)))
    assert supply.take(0, 3) + supply.take(3, 4) == [b"request %d" % number for number in range(7)]
    supply.prepare(7, 100)
    with pytest.raises(PaymentsUsedUp, match="4 payments were wanted, 3 are left"):
        supply.take(7, 4)


def test_those_that_may_be_sent_again_never_end(tmp_path: Path) -> None:
    """After the last comes the first, as often as one likes."""
    supply = Supply(tmp_path / "again", [b"a", b"bc", b"d"], again=True)
    assert supply.take(2, 8) == [b"d", b"a", b"bc", b"d", b"a", b"bc", b"d", b"a"]
    assert supply.offset(4) == supply.offset(1)


# How it is sent


@under_load
def test_a_closed_loop_sends_each_prepared_request_once(tmp_path: Path) -> None:
    """What arrived is what stands in the file from where it was told to begin, and a later run goes on behind it."""
    requests = [post_request("/", b"%d" % number) for number in range(100_000)]
    supply = Supply(tmp_path / "requests", requests)
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as (address, bodies):
        first = closed_loop(address, supply, 7, clients=3, seconds=1)
        sent = sorted(bodies)
        bodies.clear()
        closed_loop(address, supply, 7 + first.taken, clients=3, seconds=1)
        again = sorted(bodies)
    assert len(sent) == len(set(sent))
    assert first.requests <= len(sent) <= first.taken <= len(sent) + 1  # the first is looked at, and not sent
    assert set(sent) <= set(range(7, 7 + first.taken))
    assert again[0] >= 7 + first.taken
    assert 0 < first.median_ms <= first.p99_ms
    assert first.per_second == pytest.approx(first.requests, rel=0.2)


@under_load
@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"422 Unprocessable Content"])
def test_a_closed_loop_takes_nothing_but_success(tmp_path: Path, status: bytes) -> None:
    """The rate of refusals is not the rate of decisions."""
    supply = Supply(tmp_path / "requests", [post_request("/", b"0")], again=True)
    with (
        answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n") as (address, _),
        pytest.raises(RequestRefused, match="one that is not 2xx"),
    ):
        closed_loop(address, supply, 0, clients=2, seconds=1)


@under_load
def test_a_closed_loop_that_runs_out_of_payments_says_so(tmp_path: Path) -> None:
    """To send some twice would measure how fast stored answers are given."""
    supply = Supply(tmp_path / "requests", [post_request("/", b"0")] * 5)
    with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (address, _),
        pytest.raises(PaymentsUsedUp, match="more than 5 payments"),
    ):
        closed_loop(address, supply, 0, clients=2, seconds=1)


@on_linux
def test_without_wrk_one_learns_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that says what to install, not a stack of calls."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["contest"]) == 1
    assert f"ServiceFailed: {NO_WRK}\n" in capsys.readouterr().err


def test_latency_in_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """A server that answers one request after the other, 20 ms each, is seen to fall behind by those who wait."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", each_s=0.02) as (address, bodies):
        found = open_loop(address, [post_request("/", b"%d" % number) for number in range(40)], rate=1_000, seed=1)
    assert sorted(bodies) == list(range(40))
    assert (found.requests, found.unanswered) == (40, 0)
    assert found.max_ms >= 40 * 20 - 100  # the last was due after about 40 ms, and answered after 800
    assert found.median_ms >= 200
    assert found.median_ms <= found.p99_ms <= found.p999_ms <= found.max_ms


def test_an_open_loop_whose_generator_lags_is_rejected() -> None:
    """What was held up itself, here for 50 ms, must not blame the server."""
    requests = [post_request("/", b"%d" % number) for number in range(200)]
    held_up_s = time.perf_counter() + 0.1

    def clock() -> float:
        now_s = time.perf_counter()
        return now_s + 0.05 if now_s > held_up_s else now_s

    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (address, _):
        found = open_loop(address, requests, rate=1_000, seed=1, clock=clock)
    assert found.lag_ms > 40
    assert found.rejected is not None
    assert "the generator itself was" in found.rejected
    assert replace(found, lag_ms=LAG_MS).rejected is None


def test_an_open_loop_takes_nothing_but_success() -> None:
    """Neither a refusal nor a closed connection is an answer."""
    with (
        answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nout") as (address, _),
        pytest.raises(RequestRefused, match="503: out"),
    ):
        open_loop(address, [post_request("/", b"0")], rate=100, seed=1)
    with answering(b"") as (address, _), pytest.raises(RequestRefused, match="closed a connection"):
        open_loop(address, [post_request("/", b"0")], rate=100, seed=1)


# What a server takes


@on_linux
def test_processor_time_is_that_of_the_whole_family() -> None:
    """A worker's work is its server's, whatever process does it, and sleeping is none."""
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = f"{work}time.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n{work}print(flush=True)\n"
    process = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", f"{parent}time.sleep(60)"], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        members = family(process.pid)
        assert members == members_of_session(process.pid)
        assert len(members) == 2
        deadline = time.monotonic() + 20
        while cpu_s(process.pid) < 0.6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cpu_s(process.pid) >= 0.6
        before = cpu_s(process.pid)
        time.sleep(0.2)
        assert cpu_s(process.pid) - before < 0.2
        assert 1 < pss_mb(process.pid) <= peak_mb(process.pid)
    finally:
        for pid in members_of_session(process.pid):
            os.kill(pid, 9)
        process.communicate()


@on_linux
@pytest.mark.parametrize("own_session", [False, True])
def test_nothing_is_left_of_a_contender_that_ends_badly(workload: Workload, tmp_path: Path, own_session: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """One that has a child and does not end when told is killed with it, be it in another session, and named."""
    code = (
        "import http.server, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session={own_session})\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"
    )
    deaf = replace(raw_asgi(), name="deaf", command=lambda port: [sys.executable, "-c", code, str(port)])
    deaf = replace(deaf, ends_within_s=0.5)
    running = running_contender(deaf, workload.supply(deaf, tmp_path), ANYWHERE, directory=tmp_path)
    one = running.__enter__()
    started = family(one.pid)
    assert len(started) == 2
    with pytest.raises(ServiceFailed, match=r"deaf did not end in 0\.5 s"):
        running.__exit__(None, None, None)
    ended_by_s = time.monotonic() + 20
    while left := [pid for pid in started if is_running(pid)]:  # its own parent has ended, so init asks how it did
        assert time.monotonic() < ended_by_s, left
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process has not ended, nor is one that nobody has asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ENDED
    except FileNotFoundError:
        return False


def test_a_contender_that_does_not_start_says_why(workload: Workload, tmp_path: Path) -> None:
    """Its own last words."""
    contender = replace(raw_asgi(), name="ill", command=lambda _: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with (
        pytest.raises(ServiceFailed, match=r"ill ended with 1 before it was ready:\nno luck"),
        running_contender(contender, workload.supply(contender, tmp_path), ANYWHERE, directory=tmp_path),
    ):
        pytest.fail("it started")


def test_cores_are_shared_out_so_that_a_server_has_one_alone() -> None:
    """Nobody else runs where a server does; from four cores on Redis has its own too."""
    places = choose_places()
    assert places.generator not in places.servers or places.generator is None
    assert places.redis not in places.servers or places.redis is None


# The contest


@under_load
def test_a_small_contest_gives_every_figure_of_every_contender(workload: Workload, tmp_path: Path) -> None:
    """Two contenders, two rounds, two numbers of clients, an open loop; a third contender is missing and says why."""
    settings = our_settings(tmp_path, model_dir=workload.bundle.path)
    contenders = [
        one for one in own_contenders(tmp_path, settings, server_cores=1) if one.name in {RAW_ASGI, MEMORY, TWO_WORKERS}
    ]
    results = hold_contest(contenders, workload, choose_places(), SECOND, directory=tmp_path, open_for=[MEMORY])
    assert set(results.turns) == {(name, clients) for name in (RAW_ASGI, MEMORY) for clients in SECOND.clients}
    assert set(results.excluded) == {TWO_WORKERS}
    for turns in results.turns.values():
        assert len(turns) == SECOND.rounds
        for turn in turns:
            assert turn.server_us > 0
            assert turn.redis_us == 0
            assert 0 < turn.per_second <= 1e6 / turn.server_us * 1.1  # one core at most
            assert 0 < turn.median_ms <= turn.p99_ms
    dearer = results.times_cpu(MEMORY, RAW_ASGI, 4)
    assert dearer is not None
    assert dearer.low > 1  # a decision costs more than a constant
    assert [found.requests for found in results.opens[MEMORY, 50.0]] == [20, 20]
    assert results.memory[MEMORY].pss_mb > 50


@under_load
def test_plain_does_the_work_it_is_compared_for(workload: Workload, tmp_path: Path) -> None:
    """It scores, counts, keeps, tells a retry, and lets nobody in without a key."""
    settings = our_settings(tmp_path, model_dir=workload.bundle.path)
    (contender,) = [one for one in own_contenders(tmp_path, settings, server_cores=1) if one.name == PLAIN]
    supply = workload.supply(contender, tmp_path)
    with running_contender(contender, supply, ANYWHERE, directory=tmp_path) as one, Connection(one.address) as asked:
        check_answers(one)
        (request,) = one.take(1)
        first, second = asked.exchange(request), asked.exchange(request)
        assert first.body == second.body
        assert asked.exchange(request.replace(b"Bearer the", b"Bearer no")).status == 401
        metrics = asked.get("/metrics").body.decode()
        assert "plain_replays_total 1.0" in metrics
        assert "plain_probability_count 65.0" in metrics
        assert one.redis is not None
        assert one.redis.work().commands["xadd"].calls == 65
        assert one.redis.work().commands["zadd"].calls == 66 * 4


def test_an_answer_that_is_not_a_whole_decision_is_found_out(workload: Workload, tmp_path: Path) -> None:
    """Not only the status counts: ours must be made with everything, a peer's must be the right probability."""
    assert touchstone_fault(b'{"decision_id":"d","probability":0.5,"degraded":[]}') is None
    assert touchstone_fault(b'{"decision_id":"d","probability":0.5,"degraded":["card"]}') is not None
    assert touchstone_fault(b'{"decision_id":"d","probability":null,"degraded":[]}') is not None
    peer = replace(raw_asgi(), probability_in=lambda _: 0.5)
    with (
        running_contender(peer, workload.supply(peer, tmp_path), ANYWHERE, directory=tmp_path) as one,
        pytest.raises(RequestRefused, match=r"the probability is 0\.5, it should be"),
    ):
        check_answers(one, workload)


def test_nothing_is_lost_in_a_cold_start_under_load(workload: Workload, tmp_path: Path) -> None:
    """Clients that were there first get all of their payments decided."""
    contender = touchstone("cold", tmp_path, our_settings(tmp_path, model_dir=workload.bundle.path), shared=False)
    met = cold_start(contender, workload.supply(contender, tmp_path), ANYWHERE, directory=tmp_path)
    assert (met.decided, met.lost) == (CLIENTS * PAYMENTS, 0)
    assert met.slowest_ms > 0


# What is made of it


def test_ratios_are_taken_within_a_round() -> None:
    """What slows the machine for a round slows both, and cancels."""
    results = Results(
        turns={
            ("Triton", 32): [turn(server_us=300), turn(server_us=900), turn(server_us=400)],
            ("touchstone redis", 32): [turn(server_us=100), turn(server_us=300), turn(server_us=100)],
        }
    )
    assert results.times_cpu("Triton", "touchstone redis", 32) == Spread(3, 3, 4)
    assert results.times_cpu("Triton", "touchstone redis", 64) is None
    assert results.times_rate("Triton", "touchstone redis", 32) == Spread(1, 1, 1)
    assert results.spread("Triton", 32, "server_us") == Spread(400, 300, 900)


def test_goals_are_judged_by_the_middle_and_only_where_something_was_measured() -> None:
    """A missing contender is neither met nor missed; of several ways to run a peer the cheapest counts."""
    results = Results(
        turns={
            ("KServe V1", 32): [turn(server_us=500)],
            ("KServe V2", 32): [turn(server_us=450)],
            ("touchstone redis", 32): [turn(server_us=100)],
            ("raw ASGI", 32): [turn(server_us=30)],
        }
    )
    assert cheapest(results, "KServe", 32) == "KServe V2"
    goals = {goal.what: goal for goal in [*contest_goals(results), *peer_goals(results)]}
    assert goals["CPU of KServe V2, of ours"].found == Spread(4.5, 4.5, 4.5)
    assert goals["CPU of KServe V2, of ours"].met is True
    assert goals["CPU of ours, of raw ASGI's"].met is False
    assert goals["CPU of Triton, of ours"].met is None
    assert "not measured" in str(goals["CPU of Triton, of ours"])


def test_an_open_loop_that_was_rejected_is_no_figure() -> None:
    """A goal is judged by the rounds in which the generator kept its times."""
    kept = OpenLoop(requests=1, unanswered=0, median_ms=1, p99_ms=2, p999_ms=3, max_ms=4, lag_ms=0.1)
    results = Results(opens={("touchstone redis", 500.0): [kept, replace(kept, p99_ms=90, lag_ms=50)]})
    goals = {goal.what: goal for goal in contest_goals(results)}
    assert goals["open loop, 500/s, p99 in ms"].found == Spread(2, 2, 2)
    assert goals["open loop, 4,000/s, p99 in ms"].met is None


@pytest.mark.parametrize(
    ("spread", "shown"),
    [
        (Spread(1234.5, 1000, 2000), "1,234 (1,000 – 2,000)"),
        (Spread(12.34, 10, 20), "12.3 (10.0 – 20.0)"),
        (Spread(1.234, 1, 2), "1.23 (1.00 – 2.00)"),
    ],
)
def test_a_range_has_as_many_digits_as_say_something(spread: Spread, shown: str) -> None:
    """Three or so."""
    assert ranged(spread) == shown


def test_a_bound_holds_on_its_side() -> None:
    """At most and at least, the bound itself included."""
    assert Goal("x", 2.0, 2).met
    assert not Goal("x", 2.1, 2).met
    assert Goal("x", 2.1, 2, at_least=True).met
    assert str(Goal("x", 3.0, 2)).endswith("at most 2: MISSED")


# What must not grow


def test_histories_to_be_copied_end_before_the_payments_begin() -> None:
    """One group, as many events as told, evenly over a month."""
    frame = history(50)
    assert len(frame) == 50
    assert frame["timestamp"].is_sorted()
    assert (frame["timestamp"][-1] - frame["timestamp"][0]).days == 29
    assert all(frame[f"{entity}_id"].unique().to_list() == ["template"] for entity in ENTITIES)
    assert frame["transaction_id"].is_unique().all()


def test_groups_come_in_turn(workload: Workload) -> None:
    """So that the logs of all grow alike."""
    frame = grouped(workload.frame.head(10), 3)
    assert frame["card_id"].to_list() == frame["device_id"].to_list()
    assert frame["card_id"].to_list() == [f"g-{number % 3}" for number in range(10)]


@pytest.mark.long
@under_load
def test_the_pages_are_whole() -> None:
    """Everything that is promised has its line on one of them, measured or not."""
    console = Console(file=io.StringIO(), record=True, width=200)
    course = replace(SECOND, rounds=1, clients=(32,))
    bench(console, port=free_port(), model_dir=None, course=course)
    extent = Extent(rounds=1, seconds=1, groups=50, long=1_000, few=200, many=2_000, cards=1_000, transactions=100_000)
    bench_scale(console, model_dir=None, extent=extent)
    page = console.export_text()
    for line in (
        *(
            "median",
            "goal: a median",
            "record and metrics",
            "events/s",
            RAW_ASGI,
            PLAIN,
            MEMORY,
            "touchstone redis, ASGI",
        ),
        *("CPU of plain", "CPU of ours", "open loop, 4,000/s", "CPU of entities with 1,000 events"),
        *("CPU beside 2,000 keys", "PSS in MB after 1,000 cards", "payments lost or stuck"),
    ):
        assert line in page, line


def test_what_no_stage_counts_is_put_down_to_the_record() -> None:
    """So that the share is never smaller than what recording takes."""
    assert recording_share({"read": 10, "store": 20, "model": 30, "record": 30, "total": 100}) == pytest.approx(0.4)


def turn(*, server_us: float) -> Turn:
    return Turn(per_second=1_000, server_us=server_us, redis_us=0, median_ms=1, p99_ms=2)


@contextmanager
def answering(reply: bytes, *, each_s: float = 0.0) -> Iterator[tuple[Address, list[int]]]:
    """A server that gives everybody the same reply, one after the other, and notes the numbers it was sent."""
    bodies: list[int] = []
    alone = threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with suppress(OSError):  # the client left
                while (length := content_length(self.rfile)) is not None:
                    bodies.append(int(self.rfile.read(length)))
                    with alone:
                        time.sleep(each_s)
                    if not reply:
                        return
                    self.wfile.write(reply)

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address[:2]
        yield Address(str(host), port), bodies
        server.shutdown()
        thread.join()


class Server(socketserver.ThreadingTCPServer):
    """Waits for its connections to be closed."""

    request_queue_size = 128


def content_length(lines: Iterable[bytes]) -> int | None:
    """Of the next request; None where there is none."""
    length = None
    for line in lines:
        if line == b"\r\n":
            return length
        if line.startswith(b"Content-Length"):
            length = int(line.split(b":")[1])
    return None
