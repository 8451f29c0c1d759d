"""Streaming: a data set of any size becomes examples on disk, with a bounded part of it in memory."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from service.currency import CurrencyTable
from service.features.plan import Plan
from training.convert import convert, refuse_repeated_ids
from training.datasets import canonical
from training.datasets.formats import Format, pieces
from training.example_files import write_examples
from training.examples import Examples, declare_reports, replay_pieces


def stream(
    data: Path,
    data_format: Format,
    plan: Plan,
    currencies: CurrencyTable,
    scratch: Path,
    *,
    label_delay_days: float,
    threads: int,
    say: Callable[[str], None],
) -> Examples:
    """What there is to learn from in a data set.

    Args:
        data: the file, or the directory.
        data_format: how it is written; not collected.
        plan: the compiled spec.
        currencies: rates to the base currency.
        scratch: an empty directory for the examples, which must stay for as long as they are used.
        label_delay_days: how long a fraud takes to be reported, where the data does not say.
        threads: cores to use; the result does not depend on it.
        say: told in a sentence what happens, step by step.

    Raises:
        DataInvalid: it is not of that format.
    """
    file = in_order(data, data_format, scratch, say)
    say(f"replaying {canonical.row_count(file):,} transactions through {len(plan.numeric)} features")
    table = (declare_reports(piece, label_delay_days) for piece in canonical.pieces(file))
    return write_examples(replay_pieces(table, plan, currencies, threads=threads), scratch)


def in_order(data: Path, data_format: Format, scratch: Path, say: Callable[[str], None]) -> Path:
    """A canonical file with a data set in the order of time: its own if it is one, else one in `scratch`.

    Raises:
        DataInvalid: it is not of that format, or a transaction_id is used more than once.
    """
    if data_format is Format.CANONICAL and canonical.is_in_order(data):
        refuse_repeated_ids(pl.scan_parquet(data), str(data))
        return data
    say(f"sorting {data} by time")
    ordered = scratch / "ordered.parquet"
    convert(pieces(data, data_format), ordered, source=str(data), tell=lambda _: None)
    return ordered
