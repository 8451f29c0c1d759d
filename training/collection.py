"""A collection: Parquet files that hold what a service decided and was told (docs/collecting.md)."""

import io
import os
from pathlib import Path

import polars as pl
import yaml

from service.features.plan import Plan, compile_plan
from service.features.spec import parse_spec
from training.datasets.canonical import COLUMNS
from training.requests import REQUEST_FIELDS

SPECS, DECISIONS, OUTCOMES, ENTRIES, SEEDS, TAILS = "specs", "decisions", "outcomes", "entries", "seeds", "tails"
_INSTANT = pl.Datetime("ms", "UTC")
PLACE_SCHEMA = {
    "spec": pl.String(),
    "entity": pl.String(),
    "key": pl.String(),
    "generation": pl.Int64(),
    "rev": pl.Int64(),
}
LOG = ["spec", "entity", "key", "generation"]  # of these, what names one log in one of its lives
ENTRY_SCHEMA = pl.Schema(PLACE_SCHEMA | {"entry": pl.Binary()})
SEED_SCHEMA = pl.Schema(PLACE_SCHEMA | {"base": pl.Binary()})
DECISION_SCHEMA = pl.Schema(
    {name: COLUMNS[name].type for name in REQUEST_FIELDS}
    | {
        "event_time": _INSTANT,
        "decision_id": pl.String(),
        "decision": pl.String(),
        "probability": pl.Float64(),
        "score": pl.Int64(),
        "degraded": pl.List(pl.String()),
        "thresholds_version": pl.Int64(),
        "segment": pl.String(),
        "model_sha256": pl.String(),
        "spec": pl.String(),
        "revs": pl.List(pl.Int64()),
        "findings": pl.List(pl.UInt8()),
        "numeric": pl.List(pl.Float32()),
        "categorical": pl.List(pl.Int16()),
        "scored_at": _INSTANT,
        "position": pl.Int64(),
        "request": pl.String(),
    }
)
OUTCOME_SCHEMA = pl.Schema(
    {
        "transaction_id": pl.String(),
        "event_time": _INSTANT,
        "amount_minor": pl.Int64(),
        "type": pl.String(),
        "fraud": pl.Boolean(),
        "occurred_at": _INSTANT,
        "reported_at": _INSTANT,
        "arrived_at": _INSTANT,
        "position": pl.Int64(),
    }
)


def read_table(folder: Path, schema: pl.Schema) -> pl.DataFrame:
    """All rows of a table, from all of its parts; none where there is no file.

    A part that was written before a column was thought of has nothing but nulls there.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        return pl.DataFrame(schema=schema)
    return pl.read_parquet(files, schema=schema, missing_columns="insert", hive_partitioning=False)


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a part of a table; see `write_once`."""
    content = io.BytesIO()
    table.write_parquet(content)
    write_once(content.getvalue(), path)


def read_plans(collection: Path) -> dict[str, Plan]:
    """The specs that explain a collection's entries, compiled, by the first 8 hexadecimal digits of their hash."""
    files = sorted((collection / SPECS).glob("*.yaml"))
    return {file.stem: compile_plan(parse_spec(yaml.safe_load(file.read_bytes()))) for file in files}


def last_tails(collection: Path) -> Path | None:
    """Where the last copy of the live logs stands."""
    copies = [path for path in (collection / TAILS).glob("[0-9]*") if path.is_dir()]
    return max(copies, key=lambda path: int(path.name), default=None)


def write_once(content: bytes, path: Path) -> None:
    """Write a file whole or not at all, and return when it is on the disk.

    One that is there already holds the same, because its name says what it was made of.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.partial")  # a run that is cut short leaves it to the next one
        scratch.write_bytes(content)
        sync(scratch)
        scratch.rename(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a directory's names: only then may the store forget what they hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
