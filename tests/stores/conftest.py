"""Servers that the tests of a session share, and a store of each kind."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from service.stores.base import Remote
from service.stores.memory import MemoryStore
from service.stores.redis import RedisStore, StoreLimits, open_redis_store
from tests.stores.servers import Cluster, Server, redis_binary, running, running_cluster, valkey_binary

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Remote]]

PATIENT = StoreLimits(timeout_ms=5000)  # for tests that are about something else than time


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    with running(redis_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    with running(valkey_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "valkey", "cluster"])
def open_store(request: pytest.FixtureRequest) -> Opener:
    """Opens a store that was empty before the test, as often as the test likes: one after the other, or several."""
    match request.param:
        case "memory":
            memory = MemoryStore(max_entities=1000, max_decisions=1000)
            return lambda: _memory(memory)
        case "cluster":
            cluster: Cluster = request.getfixturevalue("cluster")
            cluster.ask_all("FLUSHALL")
            return lambda: opened(cluster.url)
        case kind:
            server: Server = request.getfixturevalue(f"{kind}_server")
            server.ask("FLUSHALL")
            return lambda: opened(server.url)


@asynccontextmanager
async def _memory(store: MemoryStore) -> AsyncIterator[Remote]:
    yield store  # which is open as long as its process lives


@asynccontextmanager
async def opened(url: str, limits: StoreLimits = PATIENT) -> AsyncIterator[RedisStore]:
    """A store on servers, closed at the end."""
    store = await open_redis_store(url, limits)
    try:
        yield store
    finally:
        await store.close()
