"""The Redis store: histories, decisions and outcomes on a server that many processes share."""

import asyncio
import struct
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from service.background import repeat, run_behind
from service.errors import StoreUnavailable
from service.features.compaction import split_base
from service.features.joined import Joined
from service.stores.base import (
    MAX_CHUNKS,
    NO_ANSWER,
    Append,
    Appends,
    Chunk,
    DecisionRecord,
    NewDecision,
    Past,
    Replacement,
    StoreStatus,
    Unanswered,
    Visit,
)
from service.stores.cluster import ClusterNodes
from service.stores.codec import decode_record, encode_record
from service.stores.keys import (
    archive_stream,
    audit_key,
    decisions_stream,
    outcome_key,
    outcomes_stream,
    partition_of,
    record_key,
)
from service.stores.link import LinkState
from service.stores.lookback import Lookback
from service.stores.nodes import Node, Nodes, OneServer
from service.stores.resp import push_and_read, read_lists
from service.stores.router import RawTrip, Router, demanded
from service.stores.scripts import Scripts, read_scripts
from service.stores.snapshot import Snapshot
from service.stores.watch import Watch
from service.stores.wire import Replies, Reply, command

DAY_S = 86_400
LOOK_EVERY_S = 1.0  # for what was lost
PAGE = 256  # entries of a stream read in one trip
MANY = 24  # logs, from which on compiled code is worth its call

_CHUNK_HEAD = struct.Struct("<qq")  # generation, first rev
_GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"
_RPUSH = b"*3\r\n$5\r\nRPUSH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_LRANGE = b"*4\r\n$6\r\nLRANGE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$2\r\n-1\r\n"
_RPUSH_LRANGE = _RPUSH + _LRANGE
_CLAIM = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n$3\r\nGET\r\n"
_EXPIRE = b"*3\r\n$6\r\nEXPIRE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long the store may take, and how much it may keep.

    Attributes:
        timeout_ms: for one trip; what is not answered by then has no answer.
        record_ttl_s: how long a retry of a transaction gets the same answer.
        log_ttl_s: how long a history is kept after it was last compacted: the horizon and 38 days.
        outcome_ttl_s: how long the document about a transaction's outcomes is kept after it last changed.
        max_stream_decisions: about how many decisions wait for those who collect them, over all partitions.
        max_stream_archive: about how many batches of entries.
        max_stream_outcomes: about how many outcomes.
    """

    timeout_ms: int = 15
    record_ttl_s: int = DAY_S
    log_ttl_s: int = (90 + 38) * DAY_S
    outcome_ttl_s: int = 400 * DAY_S
    max_stream_decisions: int = 200_000
    max_stream_archive: int = 200_000
    max_stream_outcomes: int = 200_000


async def open_redis_store(url: str, limits: StoreLimits) -> "RedisStore":
    """A store on one server, or on a cluster.

    Args:
        url: redis://, rediss:// or unix:// for one server, redis+cluster:// or rediss+cluster:// with any node of a
            cluster; with redis-py's query parameters (such as ssl_ca_certs).
        limits: how long it may take and how much it may keep.

    Raises:
        SettingsInvalid: the URL is not one.
        StoreUnavailable: the server turns us away, or is not one that can be used; where none answers it is tried
            again in the background, and everything goes without answer until then.
    """
    scripts = read_scripts()
    kind = ClusterNodes if url.partition("://")[0].endswith("+cluster") else OneServer
    nodes = await kind.open(url, timeout_ms=limits.timeout_ms, greeting=scripts.load)
    return RedisStore(nodes, scripts, limits)


class RedisStore:
    """See `Remote` and `Archive`. Nothing is ever done twice, and what a server refuses has no answer."""

    def __init__(self, nodes: Nodes, scripts: Scripts, limits: StoreLimits) -> None:
        """Take over nodes that are open; closing the store closes them."""
        self._nodes = nodes
        self._limits = limits
        self._scripts = scripts
        self._router = Router(nodes, scripts.load)
        self._latest_ms: int | None = None
        self._lookback: Lookback | None = None
        self._refused = 0
        self._watch = Watch(nodes, lambda: self._latest_ms)
        self._looking = run_behind(repeat(self._look, pause_s=LOOK_EVERY_S))

    async def visit(self, transaction_ids: Sequence[str], appends: Appends, *, time_ms: int) -> Visit:
        """See `Remote`."""
        self._latest_ms = time_ms if self._latest_ms is None else max(self._latest_ms, time_ms)
        birth_ms = self._latest_ms  # to claim if there is none: a late event says nothing about what was lost
        keys = [self._record_key(transaction_id.encode()) for transaction_id in transaction_ids]
        looking = self._router.send(keys, [_get(key) for key in keys], 1)
        push_and_read = partial(_push_and_read, appends)
        pushing = self._router.send_raw(appends.keys, push_and_read, 2, many=len(appends.keys) >= MANY)
        asking = [self._ask_birth(trip.node, birth_ms) for trip in pushing]
        # Now everything leaves, in one write. The births stand last: whatever is lost before the logs are read shows.
        records = await self._router.receive(looking, 1, len(keys), lambda place: _get(keys[place]))
        logs, lengths = await self._read_logs(pushing, appends)
        births_ms = [birth_ms] * len(appends.keys)
        for trip, born in zip(pushing, asking, strict=True):
            born_ms = _birth(trip.node, await born, birth_ms)
            for place in trip.places:
                births_ms[place] = born_ms
        self._forget_later([key for key, length in zip(appends.keys, lengths, strict=True) if length == 1])
        return Visit(logs, births_ms, list(map(_decoded, records)))

    async def append(self, appends: Sequence[Append]) -> list[bool]:
        """See `Remote`."""
        keys = [append.key for append in appends]
        lengths = await self._router.ask_all(keys, [_push(append) for append in appends])
        self._forget_later([key for key, length in zip(keys, lengths, strict=True) if length == 1])
        return [isinstance(length, int) for length in lengths]

    async def append_missing(self, appends: Sequence[Append], *, since_ms: int) -> list[bool]:
        """See `Remote`. An entry that is in no log was archived before it left: so the logs are read first."""
        keys = list(dict.fromkeys(append.key for append in appends))  # each log once: that of a merchant comes often
        replies = await self._router.ask_all(keys, [_range(key) for key in keys])
        logs = {key: log for key, log in zip(keys, replies, strict=True) if isinstance(log, list)}
        there = [append.entry in logs.get(append.key, ()) for append in appends]
        doubtful = {append.key for append, known in zip(appends, there, strict=True) if not known}
        archive = await self._look_back(since_ms, {self._partition(key) for key in doubtful})
        missing = []
        for place, append in enumerate(appends):
            if there[place] or append.key not in logs or self._partition(append.key) not in archive.read_to_its_end:
                continue
            there[place] = archive.holds(append)
            if not there[place]:
                missing.append(place)
        for place, done in zip(missing, await self.append([appends[place] for place in missing]), strict=True):
            there[place] = done
        self._forget_later(list({append.key for append, known in zip(appends, there, strict=True) if known}))
        return there

    async def replace(self, replacements: Sequence[Replacement]) -> list[bool]:
        """See `Remote`. Entries may be archived twice, never not at all; whoever reads the archive drops the double."""
        emptied = [replacement for replacement in replacements if replacement.compaction.entries]
        archived = await self._router.ask_all(
            [archive_stream(self._partition(replacement.key)) for replacement in emptied],
            [self._archiving(replacement) for replacement in emptied],
        )
        lost = {it.key for it, position in zip(emptied, archived, strict=True) if not isinstance(position, bytes)}
        ready = [replacement for replacement in replacements if replacement.key not in lost]
        done = await self._router.ask_all([it.key for it in ready], [self._swapping(it) for it in ready])
        replaced = {it.key for it, reply in zip(ready, done, strict=True) if reply == 1}
        return [replacement.key in replaced for replacement in replacements]

    async def find_past(self, key: bytes) -> Past | None:
        """See `Remote`."""
        beside = audit_key(key)
        kept, log = await self._router.ask_all([beside, key], [_range(beside), _range(key)])
        if not isinstance(log, list) or not isinstance(kept, list) or not log:
            return None
        seed, *chunks = kept or [b""]
        return Past(_bytes(seed), [_chunk(_bytes(chunk)) for chunk in chunks], _joined(log))

    async def put_decisions(self, decisions: Sequence[NewDecision]) -> list[DecisionRecord | None]:
        """See `Remote`."""
        shares: dict[int, list[int]] = {}
        for place, decision in enumerate(decisions):
            shares.setdefault(self._partition(decision.transaction_id.encode()), []).append(place)
        streams = [decisions_stream(partition) for partition in shares]
        calls = [
            self._decide(partition, [decisions[place] for place in places]) for partition, places in shares.items()
        ]
        standing: list[DecisionRecord | None] = [None] * len(decisions)
        for places, reply in zip(shares.values(), await self._router.ask_all(streams, calls), strict=True):
            if isinstance(reply, list):
                for place, kept in zip(places, reply, strict=True):
                    standing[place] = _standing(decisions[place].record, kept)
        return standing

    async def find_record(self, transaction_id: str) -> DecisionRecord | None:
        """See `Remote`."""
        key = self._record_key(transaction_id.encode())
        record = _decoded(await self._router.demand(key, _get(key)))
        if isinstance(record, Unanswered):
            raise StoreUnavailable(f"the record of {transaction_id} was written by another version of this service")
        return record

    async def find_snapshot(self, transaction_id: str, record: DecisionRecord) -> Snapshot | None:
        """See `Remote`."""
        if not record.position:
            return None
        stream = decisions_stream(self._partition(transaction_id.encode()))
        entries = await self._router.demand(stream, command("XRANGE", stream, record.position, record.position))
        match entries:
            case [entry]:
                return Snapshot.decode(_entry(entry)[1][b"s"])
            case _:
                return None

    async def find_outcomes(self, transaction_id: str) -> bytes | None:
        """See `Remote`."""
        key = self._outcome_key(transaction_id.encode())
        document = await self._router.demand(key, _get(key))
        return None if document is None else _bytes(document)

    async def exchange_outcomes(
        self, transaction_id: str, before: bytes | None, after: bytes, *, news: bytes | None
    ) -> bool:
        """See `Remote`."""
        assert before != b"", "an empty document stands for none"
        key = self._outcome_key(transaction_id.encode())
        stream = outcomes_stream(self._partition(transaction_id.encode()))
        most = self._limits.max_stream_outcomes // self._nodes.partitions
        exchange = self._scripts.exchange.call(
            [key, stream],
            [before or b"", after, self._limits.outcome_ttl_s, most, *([] if news is None else [news])],
        )
        return await self._router.demand(key, exchange) == 1

    async def archived(self, prefix: bytes) -> AsyncIterator[tuple[bytes, Chunk]]:
        """See `Archive`."""
        for partition in range(self._nodes.partitions):
            async for _, fields in self._entries(archive_stream(partition)):
                if fields[b"k"].startswith(prefix) and b"e" in fields:
                    yield fields[b"k"], Chunk(int(fields[b"g"]), int(fields[b"r"]), fields[b"e"])

    async def read_logs(self, keys: Sequence[bytes]) -> list[bytes]:
        """See `Archive`."""
        logs = await self._router.ask_all(keys, [_range(key) for key in keys])
        return [_joined(demanded(elements)) for elements in logs]

    async def seed(self, key: bytes, base: bytes, *, generation: int, rev: int, beginning: bytes) -> bool:
        """See `Archive`. Those who collect may be told of a base that is refused; nothing continues such a one."""
        stream = archive_stream(self._partition(key))
        await self._router.demand(stream, self._to_archive(key, "g", generation, "r", rev, "b", base))
        replaces = b"yes" if split_base(beginning)[0] else b"no"
        swap = self._scripts.seed.call([key, audit_key(key)], [beginning, replaces, base, self._limits.log_ttl_s])
        return await self._router.demand(key, swap) == 1

    async def set_birth(self, time_ms: int) -> None:
        """See `Archive`. A store that is older already stays so."""
        for node in self._nodes.every():
            born = await self._router.demand(node.marker, _get(node.marker))
            if born is None or int(_bytes(born)) > time_ms:
                await self._router.demand(node.marker, command("SET", node.marker, time_ms))

    def status(self) -> StoreStatus:
        """See `Remote`."""
        states = [node.link.state for node in self._nodes.every()]
        return StoreStatus(
            evictions=self._watch.evictions,
            links=len(states),
            links_up=states.count(LinkState.UP),
            timeouts=self._nodes.counts.timeouts,
            unsent=self._nodes.counts.unsent,
            refused=self._refused + self._router.refusals.total(),
            archive_overflow=self._watch.archive_overflow,
            decisions_overflow=self._watch.decisions_overflow,
            outcomes_overflow=self._watch.outcomes_overflow,
        )

    async def close(self) -> None:
        """See `Remote`."""
        self._looking.cancel()
        await asyncio.wait([self._looking])
        await self._nodes.close()

    async def _look(self) -> None:
        """Once a second: what was lost, and what was refused meanwhile, in one line instead of one per request."""
        await self._watch.look()
        if self._router.refusals:
            self._refused += self._router.refusals.total()
            _log.warning("store_refused", reasons=dict(self._router.refusals))
            self._router.refusals.clear()
        if self._lookback is not None and self._lookback.is_idle(asyncio.get_running_loop().time()):
            self._lookback = None

    async def _look_back(self, since_ms: int, partitions: Collection[int]) -> Lookback:
        """What was archived since an outage began, in these partitions as far as they can be read."""
        if self._lookback is None or self._lookback.since_ms != since_ms:
            self._lookback = Lookback(since_ms)
        lookback = self._lookback
        lookback.begin(asyncio.get_running_loop().time())
        for partition in partitions:
            try:
                async for position, fields in self._entries(archive_stream(partition), lookback.position(partition)):
                    lookback.note(partition, position, fields)
            except StoreUnavailable:
                continue
            lookback.read_to_its_end.add(partition)
        return lookback

    async def _entries(self, stream: bytes, after: bytes = b"-") -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
        """Position and fields of what stands in a stream, from some position on."""
        while True:
            page = await self._router.demand(stream, command("XRANGE", stream, after, "+", "COUNT", PAGE))
            assert isinstance(page, list), page
            for entry in page:
                position, fields = _entry(entry)
                after = b"(" + position
                yield position, fields
            if len(page) < PAGE:
                return

    async def _read_logs(self, pushing: Sequence[RawTrip], appends: Appends) -> tuple[Joined, Sequence[int]]:
        """The logs behind entries that are on their way, and by entry how long its log was then; 0 where unknown."""
        count = len(appends.keys)
        if len(pushing) == 1:  # one server, which refuses nothing: so it is nearly always
            given = await pushing[0].replies
            read = read_lists(given, count) if isinstance(given, bytes) else None
            if read is not None:
                return read
        replies = await self._router.receive(
            [trip.parsed() for trip in pushing],
            2,
            2 * count,
            lambda place: (_read_log if place % 2 else _push)(*appends.at([place // 2])),
        )
        lengths = [length if isinstance(length, int) else 0 for length in replies[::2]]
        logs = [
            _joined(log) if length and isinstance(log, list) else None
            for length, log in zip(lengths, replies[1::2], strict=True)
        ]
        return Joined.of(logs), lengths

    def _ask_birth(self, node: Node, time_ms: int) -> Replies:
        claimed_ms = b"%d" % (time_ms if node.inherited_ms is None else node.inherited_ms)
        return node.link.send(_CLAIM % (len(node.marker), node.marker, len(claimed_ms), claimed_ms), 1)

    def _forget_later(self, keys: Sequence[bytes]) -> None:
        """Let new logs expire, without waiting for it: compaction says so again."""
        if keys:
            ttl_s = b"%d" % self._limits.log_ttl_s
            self._router.send(keys, [_EXPIRE % (len(key), key, len(ttl_s), ttl_s) for key in keys], 1)

    def _archiving(self, replacement: Replacement) -> bytes:
        key, compaction, _ = replacement
        fields = ("g", compaction.generation, "r", compaction.first_rev, "e", compaction.entries)
        return self._to_archive(key, *fields)

    def _to_archive(self, key: bytes, *fields: bytes | str | int) -> bytes:
        most = self._limits.max_stream_archive // self._nodes.partitions
        stream = archive_stream(self._partition(key))
        return command("XADD", stream, "MAXLEN", "~", most, "*", "k", key, *fields)

    def _swapping(self, replacement: Replacement) -> bytes:
        key, compaction, audited = replacement
        keys = [key]
        arguments: list[bytes | int] = [compaction.elements, compaction.first, compaction.last, compaction.base]
        arguments.append(self._limits.log_ttl_s)
        if audited:
            keys.append(audit_key(key))
            chunk = _CHUNK_HEAD.pack(compaction.generation, compaction.first_rev) + compaction.entries
            arguments += [split_base(compaction.prefix)[0], chunk, MAX_CHUNKS]
        return self._scripts.compact.call(keys, arguments)

    def _decide(self, partition: int, decisions: Sequence[NewDecision]) -> bytes:
        """The command that remembers decisions of one partition."""
        most = self._limits.max_stream_decisions // self._nodes.partitions
        keys = [decisions_stream(partition)]
        arguments: list[bytes | int] = [most, self._limits.record_ttl_s * 1000]
        for decision in decisions:
            name = decision.transaction_id.encode()
            keys.append(record_key(partition, name))
            arguments += (name, encode_record(decision.record), decision.snapshot.encoded)
        return self._scripts.decide.call(keys, arguments)

    def _record_key(self, name: bytes) -> bytes:
        return record_key(self._partition(name), name)

    def _outcome_key(self, name: bytes) -> bytes:
        return outcome_key(self._partition(name), name)

    def _partition(self, name: bytes) -> int:
        partitions = self._nodes.partitions
        return 0 if partitions == 1 else partition_of(name, partitions)


def _get(key: bytes) -> bytes:
    return _GET % (len(key), key)


def _push_and_read(appends: Appends, places: Sequence[int]) -> bytes:
    """The commands that append at some places, and read the logs."""
    if len(places) == len(appends.keys) >= MANY:
        return push_and_read(Joined.of(appends.keys), appends.entries)
    chosen = appends.each() if len(places) == len(appends.keys) else appends.at(places)
    return b"".join([_RPUSH_LRANGE % (len(key), key, len(entry), entry, len(key), key) for key, entry in chosen])


def _push(append: Append) -> bytes:
    return _RPUSH % (len(append.key), append.key, len(append.entry), append.entry)


def _read_log(append: Append) -> bytes:
    return _range(append.key)


def _range(key: bytes) -> bytes:
    return _LRANGE % (len(key), key)


def _birth(node: Node, replies: list[Reply] | None, time_ms: int) -> int:
    """When a node was born: what its marker says, which is what we claimed where it said nothing."""
    match replies:
        case [None]:
            node.born_ms = time_ms if node.inherited_ms is None else node.inherited_ms
        case [bytes(marked)]:
            node.born_ms = int(marked)
        case _:
            return time_ms if node.born_ms is None else node.born_ms
    node.inherited_ms = None
    return node.born_ms


def _bytes(reply: Reply) -> bytes:
    assert isinstance(reply, bytes), reply
    return reply


def _chunk(value: bytes) -> Chunk:
    generation, first_rev = _CHUNK_HEAD.unpack_from(value)
    return Chunk(generation, first_rev, value[_CHUNK_HEAD.size :])


def _entry(reply: Reply) -> tuple[bytes, dict[bytes, bytes]]:
    """An entry of a stream: its position and its fields."""
    match reply:
        case [bytes(position), [*fields]]:
            return position, dict(zip(map(_bytes, fields[::2]), map(_bytes, fields[1::2]), strict=True))
        case _:
            raise AssertionError(reply)


def _joined(elements: Reply) -> bytes:
    assert isinstance(elements, list), elements
    return b"".join(elements)  # type: ignore[arg-type]  # a list's elements are bytes, which need no look one by one


def _decoded(value: Reply) -> DecisionRecord | Unanswered | None:
    """A record; no answer where it is not ours to read, for we cannot say that there is none."""
    if value is None:
        return None
    try:
        return decode_record(value) if isinstance(value, bytes) else NO_ANSWER
    except ValueError:
        return NO_ANSWER


def _standing(record: DecisionRecord, kept: Reply) -> DecisionRecord | None:
    """The record that stands after we offered one: ours or an earlier one."""
    match kept:
        case [bytes()]:
            return record
        case _:
            found = _decoded(kept)
            return None if isinstance(found, Unanswered) else found
