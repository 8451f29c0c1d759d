"""Collect: moves what a service leaves in Redis into the files of a collection, each thing once."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import orjson
import polars as pl
from msgspec import to_builtins
from msgspec.structs import asdict

from service.bundle import FEATURES, Bundle
from service.errors import DataInvalid, RequestInvalid
from service.features.compaction import compact
from service.features.plan import FIRST_LAYOUT, Plan
from service.stores.codec import decode_record
from service.stores.keys import archive_stream, decisions_stream, outcomes_stream
from service.stores.snapshot import Snapshot
from service.transaction import parse_instant, read_transaction
from training.collection import (
    DECISION_SCHEMA,
    DECISIONS,
    ENTRIES,
    ENTRY_SCHEMA,
    LOG,
    OUTCOME_SCHEMA,
    OUTCOMES,
    SEED_SCHEMA,
    SEEDS,
    SPECS,
    TAILS,
    last_tails,
    read_plans,
    read_table,
    sync,
    write_once,
    write_table,
)
from training.requests import REQUEST_FIELDS
from training.source import Message, Source

LOGS_AT_ONCE = 500  # live logs read in one trip
ENTRIES_PER_FILE = 200_000  # of the live logs

STREAMS = {DECISIONS: decisions_stream, OUTCOMES: outcomes_stream, ENTRIES: archive_stream}

Tell = Callable[[str, int], None]
Row = tuple[object, ...]
Item = TypeVar("Item")


def collect(
    source: Source,
    bundles: Sequence[Bundle],
    out: Path,
    *,
    forget_before_ms: int,
    with_tails: bool = True,
    tell: Tell,
) -> Counter[str]:
    """Move everything that waits, and copy the ends of the live logs. Being killed anywhere loses nothing.

    Decisions come first: the entries of one that was found are then in a log's end or in the archive, which is read
    last because what leaves a log's end goes there before.

    Args:
        source: where it waits.
        bundles: whose feature specs explain the entries: the one that is served, and the one that is prepared. The
            collection keeps the specs, so that of former ones the rest can be collected without their bundles.
        out: the collection's directory. One store has one.
        forget_before_ms: what is younger stays in its stream too, for those who look at single decisions.
        with_tails: copy the live logs; without, what they hold counts as missing until it is done again.
        tell: told what was done, and to how many things.

    Returns:
        How many of what were collected.

    Raises:
        DataInvalid: something belongs to a spec of none of the bundles; it stays where it is.
        redis.RedisError: the store does not answer.
    """
    for bundle in bundles:
        write_once((bundle.path / FEATURES).read_bytes(), out / SPECS / f"{bundle.plan.spec.sha256[:8]}.yaml")
    plans = read_plans(out)
    found = drain(source, plans, out, kinds=(DECISIONS, OUTCOMES), forget_before_ms=forget_before_ms, tell=tell)
    if with_tails:
        found[TAILS] = copy_tails(source, plans, out, tell)
    found += drain(source, plans, out, kinds=(ENTRIES,), forget_before_ms=forget_before_ms, tell=tell)
    return found


def drain(
    source: Source, plans: Mapping[str, Plan], out: Path, *, kinds: Sequence[str], forget_before_ms: int, tell: Tell
) -> Counter[str]:
    """Move the messages of some kinds of streams; see `collect`. Returns how many rows of what were written."""
    found: Counter[str] = Counter()
    for kind in kinds:
        for partition in range(source.partitions):
            stream = STREAMS[kind](partition)
            source.join(stream)
            messages = source.unacknowledged(stream) or source.next(stream)
            while messages:
                tell("read", len(messages))
                tables = _read(kind, messages, plans)
                name = f"{partition}_{messages[0].id}_{messages[-1].id}.parquet"
                for folder, table in tables.items():
                    write_table(table, out / folder / name)
                    tell("written", len(table))
                    found[folder.partition("/")[0]] += len(table)
                source.acknowledge(stream, messages)
                tell("acknowledged", len(messages))
                messages = source.next(stream)
            tell("trimmed", source.trim(stream, before_ms=forget_before_ms))
    return found


def copy_tails(source: Source, plans: Mapping[str, Plan], out: Path, tell: Tell) -> int:
    """Copy the entries that stand in the live logs, in place of the last copy. Returns how many.

    What the last copy has of logs that are gone since, because nobody touched them for months, is taken over.
    """
    before = last_tails(out)
    after = out / TAILS / str(1 if before is None else int(before.name) + 1)
    scratch = after.with_name(".next")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    count = 0
    for spec in plans:
        for number, rows in enumerate(_batches(_live(source, spec, plans), ENTRIES_PER_FILE)):
            for folder, table in _by_entity(".", pl.DataFrame(rows, ENTRY_SCHEMA, orient="row")).items():
                write_table(table, scratch / folder / f"{spec}_{number}.parquet")
            count += len(rows)
    if before is not None:
        _take_over(before, scratch)
    tell("copied", count)
    scratch.rename(after)
    sync(after.parent)
    tell("replaced", count)
    for copy in after.parent.iterdir():
        if copy != after:
            shutil.rmtree(copy)
    return count


def _take_over(before: Path, scratch: Path) -> None:
    """Add to the new copy what the last one has of logs that the new one does not know."""
    for folder in before.iterdir():
        old = read_table(folder, ENTRY_SCHEMA)
        gone = old.join(read_table(scratch / folder.name, ENTRY_SCHEMA), on=LOG, how="anti")
        if len(gone):
            write_table(gone, scratch / folder.name / "gone.parquet")


# ---------------------------------------------------------------- messages as rows


def _read(kind: str, messages: Sequence[Message], plans: Mapping[str, Plan]) -> dict[str, pl.DataFrame]:
    """The rows in messages, by the folder in which they belong.

    Raises:
        DataInvalid: a message was written by another version of the service, or under an unknown spec.
    """
    held = [message for message in messages if message.fields]
    try:
        if kind == DECISIONS:
            rows = [_decision(message, plans) for message in held]
            return _by_day(kind, pl.DataFrame(rows, DECISION_SCHEMA, orient="row"), "scored_at")
        if kind == OUTCOMES:
            rows = [_outcome(message) for message in held]
            return _by_day(kind, pl.DataFrame(rows, OUTCOME_SCHEMA, orient="row"), "arrived_at")
        return _archived(held, plans)
    except (ValueError, KeyError, RequestInvalid) as error:
        ids = f"{messages[0].id} to {messages[-1].id}"
        raise DataInvalid(f"the messages {ids} about {kind} are not of this version: {error}") from error


def _decision(message: Message, plans: Mapping[str, Plan]) -> Row:
    """One row of `DECISION_SCHEMA`."""
    record, snapshot = decode_record(message.fields[b"d"]), Snapshot.decode(message.fields[b"s"])
    _plan_of(record.spec, plans)
    response = orjson.loads(record.response.body)
    scored_ms = parse_instant(response["scored_at"])
    transaction = read_transaction(snapshot.request, arrival_ms=scored_ms, allow_card_numbers=True)
    asked = to_builtins(asdict(transaction)) | {"timestamp": transaction.event_time_ms}
    return (
        *(asked[name] for name in REQUEST_FIELDS),
        record.event_time_ms,
        response["decision_id"],
        response["decision"],
        response["probability"],
        response["score"],
        response["degraded"],
        response["thresholds"]["version"],
        response["thresholds"]["segment"],
        response["model"]["sha256"],
        record.spec,
        record.revs,
        snapshot.findings.tolist(),
        snapshot.numeric.tolist(),
        snapshot.categorical.tolist(),
        scored_ms,
        message.position,
        snapshot.request.decode(),
    )


def _outcome(message: Message) -> Row:
    """One row of `OUTCOME_SCHEMA`."""
    news = orjson.loads(message.fields[b"o"])
    return (
        news["transaction_id"],
        news["event_time_ms"],
        news.get("amount_minor"),  # which earlier versions did not tell
        news["type"],
        news["fraud"],
        news["occurred_at_ms"],
        news["reported_at_ms"],
        news["arrived_at_ms"],
        message.position,
    )


def _archived(messages: Sequence[Message], plans: Mapping[str, Plan]) -> dict[str, pl.DataFrame]:
    """Entries by entity, and the bases that backfilled logs begin with."""
    entries: list[Row] = []
    seeds: list[Row] = []
    for message in messages:
        fields = message.fields
        generation, rev = int(fields[b"g"]), int(fields[b"r"])
        if b"b" in fields:
            seeds.append((*fields[b"k"].decode().split(":", 2), generation, rev, fields[b"b"]))
        entries += _entries(plans, fields[b"k"], generation, rev, fields.get(b"e", b""))
    return {
        **_by_entity(ENTRIES, pl.DataFrame(entries, ENTRY_SCHEMA, orient="row")),
        **_by_entity(SEEDS, pl.DataFrame(seeds, SEED_SCHEMA, orient="row")),
    }


def _live(source: Source, spec: str, plans: Mapping[str, Plan]) -> Iterator[Row]:
    """Every entry that is in a live log of a spec: rows of `ENTRY_SCHEMA`.

    Compacting a log whole tells which of its entries were accepted, and what their revs are.
    """
    plan = plans[spec]
    for keys in _batches(source.logs(spec), LOGS_AT_ONCE):
        for key, log in zip(keys, source.read(keys), strict=True):
            _, entity, _ = key.decode().split(":", 2)
            whole = compact(plan, log, plan.entities.index(entity), keep=0)
            if whole is not None:
                yield from _entries(plans, key, whole.generation, whole.first_rev, whole.entries)


def _entries(plans: Mapping[str, Plan], name: bytes, generation: int, first_rev: int, packed: bytes) -> Iterator[Row]:
    """Entries of a log that stand one after the other: rows of `ENTRY_SCHEMA`."""
    spec, entity, key = name.decode().split(":", 2)
    plan = _plan_of(spec, plans)
    for index, entry in enumerate(split_entries(plan, plan.entities.index(entity), packed)):
        yield spec, entity, key, generation, first_rev + index, entry


def split_entries(plan: Plan, k: int, packed: bytes) -> list[bytes]:
    """Entries of entity kind k that stand one after the other, each by itself."""
    bounds, widths = plan.tables.entities[k, FIRST_LAYOUT:], plan.tables.layout[:, 1]
    sizes = [1 + int(widths[first:last].sum()) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    entries, at = [], 0
    while at < len(packed):
        size = sizes[packed[at] - 1]  # an entry begins with its kind, from 1 on
        entries.append(packed[at : at + size])
        at += size
    return entries


def _plan_of(spec: str, plans: Mapping[str, Plan]) -> Plan:
    if spec not in plans:
        known = ", ".join(plans)
        raise DataInvalid(f"the store holds histories of the feature spec {spec}; the bundles have {known}: add its")
    return plans[spec]


def _by_day(folder: str, table: pl.DataFrame, column: str) -> dict[str, pl.DataFrame]:
    parts = table.group_by(pl.col(column).dt.strftime("%Y-%m-%d"), maintain_order=True)
    return {f"{folder}/date={day}": part for (day,), part in parts}


def _by_entity(folder: str, table: pl.DataFrame) -> dict[str, pl.DataFrame]:
    parts = table.group_by("entity", maintain_order=True)
    return {f"{folder}/entity={entity}": part for (entity,), part in parts}


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
