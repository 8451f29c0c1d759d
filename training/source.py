"""The source: the Redis that a service keeps its histories in, as those see it who collect from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from service.errors import SettingsInvalid, StoreUnavailable
from service.stores.keys import CLUSTER_PARTITIONS, ONE_SERVER_PARTITIONS

GROUP = "touchstone-collect"
CONSUMER = "collect"  # always the same: what it was given and never acknowledged is the batch that a crash cut short
BATCH = 5_000  # messages read and written together; a decision has about 1.2 KB
TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5


class Message(NamedTuple):
    """One message of a stream; without fields where the stream dropped it before it was read."""

    id: str
    fields: Mapping[bytes, bytes]

    @property
    def position(self) -> int:
        """The id as one number that keeps the stream's order: in one millisecond there are fewer than 2²⁰."""
        milliseconds, sequence = _numbers(self.id)
        return (milliseconds << 20) + sequence


class Source:
    """The Redis that a service keeps its histories in: its streams, read as one consumer group, and its logs."""

    def __init__(self, client: "redis.Redis | RedisCluster", *, partitions: int, batch: int) -> None:
        """See `open_source`."""
        self._client = client
        self._batch = batch
        self._ask: Callable[..., Any] = client.execute_command  # what comes back is typed by those who ask
        self.partitions = partitions

    def join(self, stream: bytes) -> None:
        """Make the group of those who collect, from the stream's beginning, unless it is there."""
        try:
            self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def unacknowledged(self, stream: bytes) -> list[Message]:
        """What we were given before and have not acknowledged."""
        return self._read(stream, "0")

    def next(self, stream: bytes) -> list[Message]:
        """What nobody was given yet, at most a batch."""
        return self._read(stream, ">", "COUNT", self._batch)

    def acknowledge(self, stream: bytes, messages: Sequence[Message]) -> None:
        """Say that these are safe with us."""
        self._client.xack(stream, GROUP, *[message.id for message in messages])

    def trim(self, stream: bytes, *, before_ms: int) -> int:
        """Remove what is older, as far as every group has acknowledged it. Returns how many messages."""
        bounds = [(max(before_ms, 0), 0)]
        for group in self._ask("XINFO GROUPS", stream):
            pending = self._ask("XPENDING", stream, group["name"])
            bounds.append(_numbers(pending["min"]) if pending["pending"] else _after(group["last-delivered-id"]))
        milliseconds, sequence = min(bounds)
        return int(self._ask("XTRIM", stream, "MINID", f"{milliseconds}-{sequence}"))

    def logs(self, spec: str) -> Iterator[bytes]:
        """The keys of the logs of one spec; one that moves while we look may be named twice."""
        yield from self._client.scan_iter(match=f"{spec}:*", count=1000, _type="LIST")

    def read(self, keys: Sequence[bytes]) -> list[bytes]:
        """Logs as they are now; b"" where there is none any more."""
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.lrange(key, 0, -1)
            return [b"".join(elements) for elements in pipeline.execute()]

    def _read(self, stream: bytes, after: str, *options: str | int) -> list[Message]:
        found = self._ask("XREADGROUP", "GROUP", GROUP, CONSUMER, *options, "STREAMS", stream, after)
        return [Message(name.decode(), fields or {}) for _, messages in found for name, fields in messages]


@contextmanager
def open_source(url: str, *, batch: int = BATCH) -> Iterator[Source]:
    """Connect to what the service's TOUCHSTONE_STORE_URL names. Nothing is sent twice: no retries.

    Args:
        url: redis://, rediss:// or unix://, or redis+cluster:// or rediss+cluster:// with any node.
        batch: messages read and written together.

    Raises:
        SettingsInvalid: the URL is not one.
        StoreUnavailable: it cannot be reached, or fails on the way.
    """
    scheme, _, rest = url.partition("+cluster://")
    try:
        with _connect(f"{scheme}://{rest}" if rest else url, RedisCluster if rest else redis.Redis) as client:
            yield Source(client, partitions=CLUSTER_PARTITIONS if rest else ONE_SERVER_PARTITIONS, batch=batch)
    except redis.RedisError as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


def _connect(url: str, kind: "type[redis.Redis | RedisCluster]") -> "redis.Redis | RedisCluster":
    try:
        return kind.from_url(
            url,
            protocol=2,
            decode_responses=False,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            client_name=GROUP,
        )
    except ValueError as error:
        raise SettingsInvalid(f"the store's URL is not one that can be collected from: {error}") from error


def _numbers(name: str | bytes) -> tuple[int, int]:
    """The id of a message: milliseconds, and a sequence number within one."""
    text = name.decode() if isinstance(name, bytes) else name
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)


def _after(name: bytes) -> tuple[int, int]:
    milliseconds, sequence = _numbers(name)
    return milliseconds, sequence + 1
