"""The transaction simulator: canonical data of any size, drawn from a seed.

The world (customers, cards, devices, merchants, terminals, journeys) and the fraud are drawn first. Then time is cut
into slices of whole hours; each slice has a source of randomness of its own and is drawn by itself. So memory grows
with the world and not with the number of transactions, and how the rows are cut into chunks changes none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from training.simulation.config import SimulationConfig
from training.simulation.frame import SCHEMA, frame, name_everything
from training.simulation.fraud import TYPOLOGIES, draw_fraud
from training.simulation.legitimate import Slice, cut_slices, draw_slice, draw_standing_orders
from training.simulation.rows import Rows
from training.simulation.world import NONE, build_world, generator

__all__ = ["SCHEMA", "TYPOLOGIES", "SimulationConfig", "simulate", "slices", "write_simulation"]

_FRAUD_STAGE, _STANDING_STAGE, _HOURS_STAGE, _SLICE_STAGE = 1, 2, 3, 4  # the world is stage 0
_STANDING_SHARE = 0.05
_ECHO_SHARE = 0.02
_ROW_GROUP_ROWS = 131_072


def simulate(config: SimulationConfig) -> pl.DataFrame:
    """All rows of a simulation in memory, with `SCHEMA`, by timestamp. For large ones see `write_simulation`."""
    return pl.concat(slices(config))


def write_simulation(
    config: SimulationConfig, path: Path, *, progress: Callable[[int], None] = lambda _rows: None
) -> None:
    """Write a simulation to a Parquet file, a slice at a time; the file appears when it is complete.

    Args:
        config: equal configurations write equal bytes, given equal versions of numpy and polars.
        path: the file; its directory exists.
        progress: called with the number of further rows drawn, once per slice.

    Raises:
        OSError: the file cannot be written.
    """

    def source(
        _columns: list[str] | None, _predicate: pl.Expr | None, _row_count: int | None, _batch_rows: int | None
    ) -> Iterator[pl.DataFrame]:
        for drawn in slices(config):
            yield drawn
            progress(drawn.height)

    rows = register_io_source(source, schema=SCHEMA)
    partial = path.with_name(path.name + ".partial")
    try:
        rows.sink_parquet(partial, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP_ROWS)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def slices(config: SimulationConfig) -> Iterator[pl.DataFrame]:
    """The rows of a simulation in order, some tens of thousands at a time, none empty."""
    world = build_world(config)
    fraud = draw_fraud(world, generator(config.seed, _FRAUD_STAGE), config.fraud_count)
    rng = generator(config.seed, _STANDING_STAGE)
    standing = draw_standing_orders(world, rng, payments=int(_STANDING_SHARE * config.transactions))
    remaining = config.transactions - len(fraud) - standing.due_count(world)
    assert remaining >= 0, remaining
    echoes = int(_ECHO_SHARE * remaining)
    rng = generator(config.seed, _HOURS_STAGE)
    names = name_everything(world, seed=config.seed)
    first_number = 0
    for piece in cut_slices(world, rng, visits=remaining - echoes, echoes=echoes):
        honest = draw_slice(world, generator(config.seed, _SLICE_STAGE, piece.number), piece, standing)
        rows = _in_order(Rows.concatenate([honest, _between(fraud, piece)]))
        if len(rows) > 0:
            yield frame(world, names, rows, first_number=first_number)
        first_number += len(rows)


def _between(rows: Rows, piece: Slice) -> Rows:
    """Those of some rows in order of time that happen in a slice."""
    low, high = np.searchsorted(rows.time_ms, (piece.start_ms, piece.end_ms))
    return rows.take(slice(int(low), int(high)))


def _in_order(rows: Rows) -> Rows:
    """The rows by time, those of one moment as they stood; `follows` counts from the new first row."""
    order = np.argsort(rows.time_ms, kind="stable")
    place = np.empty(len(rows) + 1, dtype=np.int64)
    place[order] = np.arange(len(rows))
    place[NONE] = NONE
    ordered = rows.take(order)
    return replace(ordered, follows=place[ordered.follows])
