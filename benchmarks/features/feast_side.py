"""Feast's side, in Feast's own environment: `python -m benchmarks.features.feast_side PORT` answers line by line.

A line in names a way to read and how many calls; the line out is JSON, the seconds of each call and of all together.
Ten values that somebody else computed are read for each request, five of its card and five of its merchant. What would
keep them up to date is left out, and so is turning the response into Python values.
"""

import asyncio
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TypeAlias

import uvloop
from feast import (  # type: ignore[import-not-found] # it is not in our environment
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Float32  # type: ignore[import-not-found] # the same

from benchmarks.features.timing import CROWD, Timed, settle_memory, time_calls, time_waiting

ENTITIES = {"card": 1_000, "merchant": 800}  # of each; about as many as the simulated payments have
FEATURES_EACH = 5
SEED = 1

Rows: TypeAlias = list[dict[str, str]]


def main(port: int) -> None:
    """Fill Feast's online store, say which versions these are, then answer until there is nothing more to answer."""
    with TemporaryDirectory() as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        store = _open(directory, port)
        ways = _ways(store, runner)
        for way in ways.values():
            way(100)
        settle_memory()
        _say({name: version(name) for name in ("feast", "redis", "hiredis", "uvloop")})
        for line in sys.stdin:
            name, count = line.split()
            timed = ways[name](int(count))
            _say({"latencies_s": timed.latencies_s, "elapsed_s": timed.elapsed_s})


def _open(directory: str, port: int) -> FeatureStore:
    """A feature store as Feast's guide to fast serving has it: hiredis, and a registry that is never read again."""
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry={"path": f"{directory}/registry.db", "cache_ttl_seconds": 0},
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
            entity_key_serialization_version=3,
        )
    )
    chance = random.Random(SEED)  # noqa: S311 - values to read, not secrets
    for name, count in ENTITIES.items():
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING)
        features = [f"{name}_{number}" for number in range(FEATURES_EACH)]
        view = FeatureView(
            name=f"{name}_view",
            entities=[entity],
            ttl=timedelta(0),
            schema=[Field(name=feature, dtype=Float32) for feature in features],
            source=FileSource(path=f"{directory}/{name}.parquet", timestamp_field="event_timestamp"),
        )
        store.apply([entity, view])
        store.write_to_online_store(
            view.name,
            inputs={
                f"{name}_id": [f"{name}-{number}" for number in range(count)],
                "event_timestamp": [datetime.now(UTC)] * count,
                **{feature: [chance.random() for _ in range(count)] for feature in features},
            },
        )
    return store


def _ways(store: FeatureStore, runner: asyncio.Runner) -> Mapping[str, Callable[[int], Timed]]:
    """The ways to read: each makes so many calls."""
    wanted = [f"{name}_view:{name}_{number}" for name in ENTITIES for number in range(FEATURES_EACH)]
    requests = _requests()

    def read(rows: Rows) -> object:
        return store.get_online_features(features=wanted, entity_rows=rows)

    async def read_async(rows: Rows) -> object:
        return await store.get_online_features_async(features=wanted, entity_rows=rows)

    def several(count: int, waiting: int) -> Timed:
        return runner.run(time_waiting(read_async, _calls(requests, count, 1), waiting=waiting))

    return {
        "sync": lambda count: time_calls(read, _calls(requests, count, 1)),
        "async": lambda count: several(count, 1),
        "waiting": lambda count: several(count, CROWD),
        "gathered": lambda count: time_calls(read, _calls(requests, count, CROWD)),
    }


def _calls(requests: Iterator[dict[str, str]], count: int, size: int) -> list[Rows]:
    """What so many calls ask for, each for so many requests; made before the clock starts."""
    return [list(islice(requests, size)) for _ in range(count)]


def _requests() -> Iterator[dict[str, str]]:
    chance = random.Random(SEED)  # noqa: S311 - the same
    while True:
        yield {f"{name}_id": f"{name}-{chance.randrange(count)}" for name, count in ENTITIES.items()}


def _say(words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
