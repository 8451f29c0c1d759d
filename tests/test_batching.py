"""What waits together is done together, in order; whoever waits is answered, whatever happens."""

import asyncio
from collections.abc import Sequence

import pytest

from service.batching import MOST_BATCHES, MOST_ITEMS, Batcher


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


def test_a_lone_item_is_a_batch_and_those_of_one_turn_are_another() -> None:
    """Nobody waits for a timer, and nobody's result is another's."""

    async def act() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler.double)
        assert await batcher.submit(1) == 2
        assert await asyncio.gather(*[batcher.submit(number) for number in (2, 3, 4)]) == [4, 6, 8]
        assert doubler.batches == [[1], [2, 3, 4]]

    asyncio.run(act())


def test_batches_are_bounded_in_size_and_number() -> None:
    """While as many as may be are under way the others wait, and then leave together."""

    async def act() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        batcher = Batcher(doubler.double)
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
        batcher = Batcher(Doubler().double)
        results = await asyncio.gather(*[batcher.submit(number) for number in (1, -1, 2)], return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3
        assert await batcher.submit(5) == 10

    asyncio.run(act())


def test_whoever_gives_up_waiting_harms_nobody() -> None:
    """The others in the batch get their results."""

    async def act() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        batcher = Batcher(doubler.double)
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
        batcher = Batcher(doubler.double)
        answers = [batcher.submit(number) for number in range(3 * MOST_ITEMS)]
        await asyncio.sleep(0)
        await batcher.close()
        assert all(answer.done() for answer in answers)

    asyncio.run(act())
