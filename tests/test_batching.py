"""What waits together is done together, in order; whoever waits is answered, whatever happens."""

import asyncio
from collections.abc import Sequence

import pytest

from service.batching import LATE, MOST_BATCHES, MOST_ITEMS, Batcher


class Doubler:
    """Doubles numbers, batch by batch, when it is let; notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def double(self, numbers: Sequence[int]) -> list[int]:
        """Of each number, the double; a negative one is an error."""
        self.batches.append(list(numbers))
        await self.gate.wait()
        if min(numbers) < 0:
            raise ValueError("negative")
        return [2 * number for number in numbers]


async def turns(number: int) -> None:
    """So many turns of the event loop."""
    for _ in range(number):
        await asyncio.sleep(0)


def refuse(number: int) -> int:
    """There is room for all items of a test, but where it says otherwise."""
    raise AssertionError(number)


def test_a_lone_item_is_a_batch_and_those_of_one_turn_are_another() -> None:
    """Nobody waits for a timer, and nobody's result is another's."""

    async def act() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        assert await batcher.submit(1) == 2
        assert await asyncio.gather(*[batcher.submit(number) for number in (2, 3, 4)]) == [4, 6, 8]
        assert doubler.batches == [[1], [2, 3, 4]]

    asyncio.run(act())


@pytest.mark.parametrize(("of_a_task", "batches"), [(True, [[1, 2]]), (False, [[1], [2]])])
def test_a_task_leaves_with_one_that_was_read_while_it_began(*, of_a_task: bool, batches: list[list[int]]) -> None:
    """Its own request was read a turn before; who needs no task has read all of a turn by the end of it."""

    async def act() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=MOST_ITEMS)
        loop = asyncio.get_running_loop()

        def read(number: int) -> None:
            if of_a_task:
                batcher.submit(number)
            else:
                batcher.enqueue(number, lambda _: None)

        loop.call_soon(read, 1)
        loop.call_soon(loop.call_soon, read, 2)  # as a task that is made while the first runs
        await turns(5)
        assert doubler.batches == batches

    asyncio.run(act())


def test_batches_are_bounded_in_size_and_number() -> None:
    """While as many as may be are under way the others wait, and then leave together."""

    async def act() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        answers = [batcher.submit(number) for number in range(3 * MOST_ITEMS + 5)]
        await asyncio.sleep(0.01)
        assert [len(batch) for batch in doubler.batches] == [MOST_ITEMS] * MOST_BATCHES
        doubler.gate.set()
        assert await asyncio.gather(*answers) == [2 * number for number in range(3 * MOST_ITEMS + 5)]
        assert [len(batch) for batch in doubler.batches] == [MOST_ITEMS, MOST_ITEMS, MOST_ITEMS, 5]

    asyncio.run(act())


def test_an_error_is_told_to_all_in_its_batch_and_to_nobody_else() -> None:
    """The next batch is done as if nothing had happened."""

    async def act() -> None:
        batcher = Batcher(Doubler().double, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        results = await asyncio.gather(*[batcher.submit(number) for number in (1, -1, 2)], return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3
        assert await batcher.submit(5) == 10

    asyncio.run(act())


def test_whoever_gives_up_waiting_harms_nobody() -> None:
    """The others in the batch get their results."""

    async def act() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        first, second = batcher.submit(1), batcher.submit(2)
        await asyncio.sleep(0)
        first.cancel()
        doubler.gate.set()
        assert await second == 4
        with pytest.raises(asyncio.CancelledError):
            await first
        await batcher.close()

    asyncio.run(act())


def test_closing_waits_for_what_is_under_way_and_what_is_queued() -> None:
    """Nothing that was taken is left without an answer."""

    async def act() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        answers = [batcher.submit(number) for number in range(3 * MOST_ITEMS)]
        await asyncio.sleep(0)
        await batcher.close()
        assert all(answer.done() for answer in answers)

    asyncio.run(act())


def test_what_there_is_no_room_for_is_answered_at_once() -> None:
    """The queue is bounded; those in it, and those who come when it is empty again, are done as always."""

    async def act() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        batcher = Batcher(doubler.double, overflow=lambda number: -number, most_waiting=2)
        under_way = batcher.submit(1)
        await turns(2)
        another = batcher.submit(2)
        await turns(2)
        waiting = [batcher.submit(3), batcher.submit(4)]
        refused = batcher.submit(5)
        assert refused.done()
        assert await refused == -5
        doubler.gate.set()
        assert await asyncio.gather(under_way, another, *waiting) == [2, 4, 6, 8]
        assert await batcher.submit(6) == 12

    asyncio.run(act())


def test_an_error_that_stands_for_a_result_is_raised_to_its_owner_only() -> None:
    """A batch may hold refusals."""

    async def act() -> None:
        async def refuse_odd(numbers: Sequence[int]) -> list[int | Exception]:
            return [ValueError(number) if number % 2 else number for number in numbers]

        batcher = Batcher(refuse_odd, overflow=refuse, most_waiting=5 * MOST_ITEMS)
        results = await asyncio.gather(*[batcher.submit(number) for number in (1, 2)], return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, int]

    asyncio.run(act())


def test_whoever_comes_while_a_batch_gives_way_is_done_before_it() -> None:
    """A lone item needs two turns to leave its queue and one to be done; items that can wait let it pass."""

    async def act() -> None:
        doubler = Doubler()
        bulk = Batcher(doubler.double, overflow=refuse, most_waiting=MOST_ITEMS, turns_for_others=3)
        lone = Batcher(doubler.double, overflow=refuse, most_waiting=MOST_ITEMS)
        can_wait = bulk.submit(1)
        await turns(2)  # now its batch is under way
        assert await lone.submit(2) == 4
        assert await can_wait == 2
        assert doubler.batches == [[2], [1]]

    asyncio.run(act())


def test_nobody_waits_behind_a_batch_that_is_late() -> None:
    """One that comes while it is not waits for it, and leaves with the one that comes when it is."""

    async def act() -> None:
        doubler, now_s = Doubler(), 0.0
        batcher = Batcher(doubler.double, overflow=refuse, most_waiting=MOST_ITEMS, clock=lambda: now_s)
        doubler.gate.clear()
        usual = [batcher.submit(number) for number in (1, 2, 3)]
        await turns(2)
        now_s += 1
        doubler.gate.set()
        await asyncio.gather(*usual)
        doubler.gate.clear()
        stuck = [batcher.submit(number) for number in (4, 5, 6)]
        await turns(2)
        now_s += LATE
        waits = batcher.submit(7)
        await turns(10)
        assert doubler.batches == [[1, 2, 3], [4, 5, 6]]
        now_s += 0.1
        leaves = batcher.submit(8)
        await turns(3)
        assert doubler.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]
        doubler.gate.set()
        assert await asyncio.gather(*stuck, waits, leaves) == [8, 10, 12, 14, 16]

    asyncio.run(act())


@pytest.mark.parametrize(
    ("clients", "store_turns", "most"), [(8, 10, 110), (8, 100, 100), (32, 10, 215), (32, 100, 110)]
)
def test_clients_who_come_back_one_by_one_share_batches(clients: int, store_turns: int, most: int) -> None:
    """Where each left at once there were a third more batches; that nobody waits behind a late one costs none."""
    batches = asyncio.run(batches_of(clients, store_turns, is_late_possible=False))
    assert batches <= most
    assert asyncio.run(batches_of(clients, store_turns, is_late_possible=True)) == batches


ROUNDS = 40  # requests of a client


async def batches_of(clients: int, store_turns: int, *, is_late_possible: bool) -> int:
    """How many batches are made where the store takes so many turns, and in each turn one client asks again."""
    turn, batches = 0, 0

    async def tick() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def handle(numbers: Sequence[int]) -> Sequence[int]:
        nonlocal batches
        batches += 1
        await turns(store_turns)
        return numbers

    batcher: Batcher[int, int] = Batcher(
        handle, overflow=refuse, most_waiting=MOST_ITEMS, clock=lambda: turn if is_late_possible else 0
    )

    async def ask(number: int) -> None:
        for _ in range(ROUNDS):
            await batcher.submit(number)
            await turns(number)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*map(ask, range(clients)))
    ticking.cancel()
    return batches
