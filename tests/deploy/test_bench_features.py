"""`make bench-features` compares like with like: its arithmetic, its payments, and what it reads off a server."""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import polars as pl
import pytest

from benchmarks.__main__ import main
from benchmarks.features.bench import SPECS, read_plan
from benchmarks.features.contest import Manner, Results, lead, our_name
from benchmarks.features.cores import choose_cores, pinned
from benchmarks.features.footprint import EntityCost
from benchmarks.features.ours import Reader
from benchmarks.features.payments import A_MONTH, CARDS, Payments, transactions
from benchmarks.features.peer import running_peer
from benchmarks.features.rounds import Round, Spread
from benchmarks.features.server import Commands, Server, Work, running_server
from benchmarks.features.timing import Timed, time_calls, time_waiting
from benchmarks.serving import ServiceFailed
from service.app import bundle_directory
from service.bundle import Bundle
from service.settings import SHIPPED_MODELS
from service.stores.redis import StoreLimits, open_redis_store

ROWS = 300


@pytest.fixture(scope="module")
def payments() -> Payments:
    """A month of history and some payments after it."""
    return Payments.simulate(later=ROWS)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with nothing in it."""
    with running_server(core=None) as server:
        yield server


def test_every_card_pays_about_thirty_times_in_the_month_of_history(payments: Payments) -> None:
    """A thousand cards, no other ones later, and every payment names all four entities."""
    counts = payments.history.group_by("card_id").len()["len"]
    assert len(counts) == CARDS
    assert counts.is_between(*A_MONTH).all()
    assert payments.later["card_id"].is_in(payments.history["card_id"].unique().implode()).all()
    assert len(payments.later) == ROWS
    both = pl.concat([payments.history, payments.later])
    assert both["timestamp"].is_sorted()
    assert both.select("card_id", "merchant_id", "terminal_id", "device_id").null_count().sum_horizontal().sum() == 0


@pytest.mark.parametrize("entities", SPECS)
def test_as_many_features_are_read_of_two_entities_as_of_four(entities: int) -> None:
    """Thirty, so that the two differ by the number of logs alone."""
    plan = read_plan(SPECS[entities])
    assert (len(plan.entities), len(plan.numeric)) == (entities, 30)


def test_what_is_read_is_in_the_histories_afterwards(server: Server, payments: Payments) -> None:
    """Each payment is one append and one read for each entity, and the server's account of it adds up."""
    plan = read_plan(SPECS[4])
    currencies = Bundle.load(bundle_directory(SHIPPED_MODELS)).currencies

    async def read() -> EntityCost:
        store = await open_redis_store(server.url, StoreLimits(timeout_ms=1_000))
        reader = Reader(plan, currencies, store)
        before = server.work()
        await reader.fill(transactions(payments.history.head(ROWS)))
        cost = EntityCost.of(server.work().since(before))
        again = await reader.read(reader.prepared(list(transactions(payments.history.head(1)))))
        await store.close()
        assert again.revs.tolist() == [[0, 0, 0, 0]]  # read again, it is still the first that its entities saw
        return cost

    cost = asyncio.run(read())
    assert server.work().commands["rpush"].calls == 4 * (ROWS + 1)
    assert cost.commands["rpush"][0] == 1
    assert 0 < cost.read_us < cost.all_us
    cards, size = server.mean_bytes(f"{plan.spec.sha256[:8]}:card:*")
    assert cards == payments.history.head(ROWS)["card_id"].n_unique()
    assert 100 < size < 10_000


def test_the_lead_is_over_the_better_way_to_call_feast() -> None:
    """Alone the lower median counts, else the higher throughput; each round is compared with its own neighbour."""
    results: Results = {
        (Manner.ALONE, our_name(2)): rounds(median_us=(10, 20, 10)),
        (Manner.ALONE, "Feast, sync"): rounds(median_us=(40, 80, 50)),
        (Manner.ALONE, "Feast, async"): rounds(median_us=(90, 90, 90)),
        (Manner.AT_ONCE, our_name(2)): rounds(per_second=(600, 600, 500)),
        (Manner.AT_ONCE, "Feast, sync"): rounds(per_second=(20, 20, 20)),
        (Manner.AT_ONCE, "Feast, async"): rounds(per_second=(100, 200, 100)),
    }
    assert lead(results, Manner.ALONE, 2) == Spread(4, 4, 5)
    assert lead(results, Manner.AT_ONCE, 2) == Spread(5, 3, 6)


def rounds(*, median_us: tuple[float, ...] = (1, 1, 1), per_second: tuple[float, ...] = (1, 1, 1)) -> list[Round]:
    return [Round(middle, 0, rate, 0) for middle, rate in zip(median_us, per_second, strict=True)]


def test_a_round_is_summed_up_by_request() -> None:
    """Times in microseconds; a call that holds several requests counts as so many."""
    timed = Timed([second / 1e6 for second in range(101)], elapsed_s=0.5)
    assert astuple(Round.of(timed, requests=202, server_s=0.00101)) == pytest.approx((50, 99, 404, 5))


def test_work_between_two_looks_is_their_difference() -> None:
    """Of a command that was not there before, all of it."""
    before = Work(1.0, {"get": Commands(1, 10)})
    after = Work(3.0, {"get": Commands(4, 50), "set": Commands(2, 6)})
    assert after.since(before) == Work(2.0, {"get": Commands(3, 40), "set": Commands(2, 6)})


def test_everything_asked_is_answered_once_by_no_more_than_may_wait() -> None:
    """The crowd is as large as it was said to be, until there are fewer left."""
    under_way, most, seen = set(), 0, []

    async def call(item: int) -> None:
        nonlocal most
        under_way.add(item)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.remove(item)
        seen.append(item)

    timed = asyncio.run(time_waiting(call, range(50), waiting=8))
    assert (most, sorted(seen), len(timed.latencies_s)) == (8, list(range(50)), 50)
    assert len(time_calls(seen.append, range(5)).latencies_s) == 5
    assert seen[50:] == list(range(5))


def test_where_a_process_may_run_is_as_before_afterwards() -> None:
    """Whoever calls the benchmark keeps all cores."""
    before = choose_cores()
    with pinned(before.client):
        assert before.client is None or choose_cores().client is None  # one core leaves nothing to choose
    assert choose_cores() == before


def test_without_feast_one_learns_how_to_get_it(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    """No environment, or one without Feast: the message says what is missing."""
    assert main(["features", "--feast-python", "nowhere/bin/python"]) == 1
    assert "there is no nowhere/bin/python; `make bench-features` installs Feast there" in capsys.readouterr().err

    async def start() -> None:
        async with running_peer(Path(sys.executable), port=server.port, core=None):
            pytest.fail("it started without Feast")

    with pytest.raises(ServiceFailed, match="No module named 'feast'"):
        asyncio.run(start())
