"""Simulated payments as request bodies."""

from collections.abc import Iterator

import orjson
import polars as pl

from training.requests import REQUEST_FIELDS


def request_bodies(frame: pl.DataFrame) -> Iterator[bytes]:
    """The body of each row's `POST /score`, absent fields left out.

    Args:
        frame: canonical transactions.
    """
    for row in _requests(frame).iter_rows(named=True):
        yield orjson.dumps({name: value for name, value in row.items() if value is not None})


def batch_bodies(frame: pl.DataFrame, *, size: int) -> Iterator[bytes]:
    """Bodies of `POST /score/batch`, `size` rows each.

    Args:
        frame: canonical transactions.
        size: at most 1,000.
    """
    for part in frame.iter_slices(size):
        yield b"[" + b",".join(request_bodies(part)) + b"]"


def _requests(frame: pl.DataFrame) -> pl.DataFrame:
    times = frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    return frame.select(name for name in REQUEST_FIELDS if name in frame.columns).with_columns(timestamp=times)
