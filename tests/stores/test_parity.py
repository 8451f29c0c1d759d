"""The parity meter computes live decisions again, and notices when what was served is not what training would see."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.app import epoch_ms
from service.parity import Served, differing_cells
from service.stores.base import Chunk, Past, Replacement
from service.stores.fallback import FallbackStore
from service.stores.memory import MemoryStore
from tests.scoring import Scoring, request, scoring
from tests.stores.conftest import Opener

CARD = 0  # which entity of the small bundle


async def use(one: Scoring, times: int) -> None:
    for index in range(times):
        await one.score(request(f"{index}", seconds=index))
        await asyncio.sleep(0.001)  # for what runs behind the answers


def test_a_hundred_decisions_over_compactions_come_out_as_they_were_served(
    open_store: Opener, small_bundle: Path, tmp_path: Path
) -> None:
    """Every one of them is computed again from everything its entities ever saw, and no cell differs."""

    async def told() -> None:
        async with open_store() as store:
            one = scoring(small_bundle, FallbackStore(store, now_ms=epoch_ms), tmp_path)
            for index in range(100):
                await one.score(request(f"{index}", seconds=index, terminal_id=f"t{index % 3}"))
                await asyncio.sleep(0.002)  # so that the checks are not left out for want of time
            await one.scorer.close()
            assert one.metric("fraud_feature_parity_mismatch_total") == 0
            assert one.metric("fraud_feature_parity_unknown_total") == 0
            assert one.metric("fraud_feature_parity_cells_total") > 200

    asyncio.run(told())


class Forgetful(MemoryStore):
    """A store that loses every other base: a card's log goes on from an older one."""

    async def replace(self, replacements: Sequence[Replacement]) -> list[bool]:
        """Say that it is done, and keep only what came after."""
        done = await super().replace(replacements)
        for key, compaction, _ in replacements:
            self._logs.put(key, (self._logs.peek(key) or b"").removeprefix(compaction.base))
        return done


def test_a_base_that_serving_lost_is_noticed(small_bundle: Path, tmp_path: Path) -> None:
    """The features are computed from the entries themselves, so a wrong base shows."""

    async def told() -> float:
        one = scoring(small_bundle, Forgetful(max_entities=1000, max_decisions=1000), tmp_path)
        await use(one, 30)
        await one.scorer.close()
        return one.metric("fraud_feature_parity_mismatch_total")

    assert asyncio.run(told()) > 0


def test_a_share_of_nothing_checks_nothing(small_bundle: Path, tmp_path: Path) -> None:
    """And keeps nothing beside the logs."""

    async def told() -> None:
        store = MemoryStore(max_entities=1000, max_decisions=1000)
        one = scoring(small_bundle, store, tmp_path, parity_share=0.0)
        await use(one, 30)
        await one.scorer.close()
        past = await store.find_past(one.layout.keys([("card", *[None] * 6)])[CARD] or b"")
        assert past is not None
        assert past.chunks == []
        assert one.metric("fraud_feature_parity_cells_total") == 0

    asyncio.run(told())


@pytest.fixture(scope="module")
def whole(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Served, Past]:
    """A card's last decision after fifty, and all that is known of the card."""

    async def told() -> tuple[Served, Past]:
        store = MemoryStore(max_entities=1000, max_decisions=1000)
        one = scoring(small_bundle, store, tmp_path_factory.mktemp("state"))
        await use(one, 50)
        await one.scorer.close()
        layout = one.layout
        tokens = ("card", *[None] * 6)
        past = await store.find_past(layout.keys([tokens])[CARD] or b"")
        assert past is not None
        assert len(past.chunks) > 1
        stored = await one.scorer.find_decision("49")
        assert stored is not None
        assert stored.seen is not None
        own = layout.plan.numeric[layout.plan.entity_features[CARD]]
        features = np.array([stored.seen.numeric[name] for name in own], np.float32)
        row = np.array(one.scorer._case(request("49", seconds=49)).row, np.int64)
        return Served(layout.plan, CARD, row, features, 49, past.chunks[0].generation), past

    return asyncio.run(told())


def test_what_was_served_is_compared_cell_by_cell(whole: tuple[Served, Past]) -> None:
    """None differs as it was; changed ones are counted; at another place in the log all are wrong."""
    served, past = whole
    assert differing_cells(served, past) == 0
    changed = served.features.copy()
    changed[0] += 1
    assert differing_cells(replace(served, features=changed), past) == 1
    assert differing_cells(replace(served, rev=48), past) == len(served.features)


def test_a_past_with_a_gap_says_nothing(whole: tuple[Served, Past]) -> None:
    """A chunk that is missing, of another life, or not reaching the log is no ground for a verdict."""
    served, past = whole
    first, *rest = past.chunks
    other_life = [Chunk(1, chunk.first_rev, chunk.entries) for chunk in past.chunks]
    for chunks in (rest, [first, *rest[1:]], other_life):
        assert differing_cells(served, past._replace(chunks=chunks)) is None
    absent = served.row.copy()
    absent[1] = 1
    assert differing_cells(replace(served, row=absent), past) is None
