"""Formats: how a data set may be written, and which reader belongs to which (docs/datasets.md)."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import polars as pl

from service.errors import DataInvalid
from training.datasets import canonical, handbook, ieee_cis, paysim, published, sparkov, tabformer, ulb


class Format(StrEnum):
    """How a data set is written (docs/datasets.md)."""

    CANONICAL = "canonical"
    COLLECTED = "collected"
    HANDBOOK = "handbook"
    SPARKOV = "sparkov"
    TABFORMER = "tabformer"
    IEEE_CIS = "ieee-cis"
    ULB = "ulb"
    PAYSIM = "paysim"


PUBLISHED_SETS = {
    Format.SPARKOV: sparkov.DATA_SET,
    Format.TABFORMER: tabformer.DATA_SET,
    Format.IEEE_CIS: ieee_cis.DATA_SET,
    Format.ULB: ulb.DATA_SET,
    Format.PAYSIM: paysim.DATA_SET,
}


def read(data: Path, data_format: Format) -> pl.DataFrame:
    """A data set as it is, in the order of time, without a guess at when its frauds were reported.

    Raises:
        DataInvalid: it is not of that format, or it is a collection.
    """
    if data_format is Format.COLLECTED:
        raise DataInvalid("what was collected holds features: fit, compare, focal-study and parity read it")
    if data_format is Format.HANDBOOK:
        return handbook.load(data, label_delay_days=None)
    if data_format in PUBLISHED_SETS:
        return published.load(data, PUBLISHED_SETS[data_format])
    return canonical.load(data)


def pieces(
    data: Path, data_format: Format, *, left_out: Callable[[int], None] = lambda _: None
) -> Iterator[pl.DataFrame]:
    """A data set in the order of its file, in pieces where its reader can: only the Handbook's is read whole.

    Args:
        data: the file, or the directory.
        data_format: how it is written.
        left_out: told how many rows of a piece are not transactions.

    Raises:
        DataInvalid: it is not of that format, or it is a collection.
    """
    if data_format is Format.CANONICAL:
        return canonical.pieces(data)
    if data_format in PUBLISHED_SETS:
        return published.pieces(data, PUBLISHED_SETS[data_format], left_out=left_out)
    return iter([read(data, data_format)])
