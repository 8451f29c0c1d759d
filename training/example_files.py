"""Examples on disk: written piece by piece, and read as if they were in memory."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.examples import Examples

ARRAYS = tuple(name for name in Examples.__slots__ if name != "typologies")

Scalar = TypeVar("Scalar", bound=np.generic)


def write_examples(pieces: Iterable[Examples], folder: Path) -> Examples:
    """Put examples together in files, however many they are.

    Args:
        pieces: one after the other, at least one; a typology has the same number in all of them.
        folder: an empty directory. It must stay for as long as the result is used.

    Returns:
        All of them. The arrays are the files, mapped and read-only: what is looked at stays in memory while there is
        room, and the operating system may forget it at any time.
    """
    rows, last = 0, None
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}
        for piece in pieces:
            for name, file in files.items():
                getattr(piece, name).tofile(file)
            rows, last = rows + len(piece.labels), piece
    assert last is not None, "there are no examples"
    return Examples(
        numeric=_mapped(folder / "numeric", rows, last.numeric),
        categorical=_mapped(folder / "categorical", rows, last.categorical),
        labels=_mapped(folder / "labels", rows, last.labels),
        reported_at_ms=_mapped(folder / "reported_at_ms", rows, last.reported_at_ms),
        event_time_ms=_mapped(folder / "event_time_ms", rows, last.event_time_ms),
        amount_minor=_mapped(folder / "amount_minor", rows, last.amount_minor),
        card=_mapped(folder / "card", rows, last.card),
        typology=_mapped(folder / "typology", rows, last.typology),
        typologies=last.typologies,
    )


def _mapped(path: Path, rows: int, like: NDArray[Scalar]) -> NDArray[Scalar]:
    """A file as so many rows of an array's type and width; one without columns has no bytes, and cannot be mapped."""
    shape = (rows, *like.shape[1:])
    if 0 in shape:
        return np.empty(shape, like.dtype)
    return np.asarray(np.memmap(path, like.dtype, "r", shape=shape))
