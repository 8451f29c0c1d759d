"""A cold start under load: clients that were there before the service, and want all of their payments decided."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.connection import Connection
from benchmarks.features.server import running_server
from benchmarks.load.contender import Contender
from benchmarks.load.places import Places
from benchmarks.load.prepared import Supply
from benchmarks.load.running import launched
from benchmarks.measure import OK
from benchmarks.serving import Address, free_port

CLIENTS = 64
PAYMENTS = 20  # of each client
AGAIN_AFTER_S = 0.02
NOT_READY = 503


@dataclass(slots=True)
class Met:
    """What one client met.

    Attributes:
        decided: payments that were answered 200.
        lost: that were sent, and got no answer or a wrong one within `benchmarks.connection.TIMEOUT_SECONDS`.
        slowest_ms: of the answers with 200.
    """

    decided: int = 0
    lost: int = 0
    slowest_ms: float = 0.0


def cold_start(contender: Contender, supply: Supply, places: Places, *, directory: Path) -> Met:
    """Start it while the clients are trying already. Returns what all of them met together.

    Raises:
        ServiceFailed: it did not end as it should.
        TimeoutError: a client could not reach it in time at all.
    """
    address = Address("127.0.0.1", free_port())
    hands = [supply.take(PAYMENTS * number, PAYMENTS) for number in range(CLIENTS)]
    with ExitStack() as closing, ThreadPoolExecutor(CLIENTS) as pool:
        redis = closing.enter_context(running_server(core=places.redis)) if contender.redis_variable else None
        log = directory / f"{contender.name}, cold.log"
        closing.enter_context(launched(contender, address.port, redis, places, log=log, wait=False))
        deadline_s = time.monotonic() + contender.starts_within_s
        met = list(pool.map(lambda hand: _insist(address, hand, deadline_s), hands))
    return Met(sum(one.decided for one in met), sum(one.lost for one in met), max(one.slowest_ms for one in met))


def _insist(address: Address, requests: Sequence[bytes], deadline_s: float) -> Met:
    """One client: asks again while nobody listens and while the service says that it is not ready."""
    met = Met()
    connection = _connected(address, deadline_s)
    try:
        for request in requests:
            begin_s = time.perf_counter()
            status = _status(connection, request)
            while status == NOT_READY and time.monotonic() < deadline_s:
                time.sleep(AGAIN_AFTER_S)
                begin_s = time.perf_counter()
                status = _status(connection, request)
            if status != OK:
                met.lost += 1
                connection.close()
                connection = _connected(address, deadline_s)
                continue
            met.decided += 1
            met.slowest_ms = max(met.slowest_ms, (time.perf_counter() - begin_s) * 1e3)
    finally:
        connection.close()
    return met


def _connected(address: Address, deadline_s: float) -> Connection:
    while True:
        try:
            return Connection(address)
        except ConnectionRefusedError as error:  # it does not listen yet
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"nobody listens at {address}") from error
            time.sleep(AGAIN_AFTER_S)


def _status(connection: Connection, request: bytes) -> int | None:
    """The status of the answer; None if there is none."""
    try:
        return connection.exchange(request).status
    except OSError:
        return None
