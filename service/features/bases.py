"""Bases of many logs side by side: what a fold over a table in pieces carries from one piece to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.features.compiled import Bytes, Int, Ints, entry_point


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """The bases of some logs of one entity kind.

    Attributes:
        keys: int64 (logs,), ascending: which log each is of.
        starts: int64 (logs + 1,), where each begins in `content`, and the end.
        content: uint8, one after the other.
    """

    keys: Ints
    starts: Ints
    content: Bytes

    @classmethod
    def of(cls, keys: Ints, lengths: Ints, contents: Sequence[Bytes]) -> "Bases":
        """From the keys in ascending order, how long each base is, and the bases in any number of pieces."""
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(keys, starts, np.concatenate([np.empty(0, np.uint8), *contents]))

    def find(self, keys: Ints) -> tuple[Ints, Ints]:
        """Where in `content` the bases of these logs begin and end; nowhere, so that both are equal, if not there."""
        places = np.searchsorted(self.keys, keys)
        there = np.zeros(len(keys), np.bool_)
        inside = places < len(self.keys)
        there[inside] = self.keys[places[inside]] == keys[inside]
        places = np.where(there, places, 0)
        return self.starts[places], np.where(there, self.starts[np.minimum(places + 1, len(self.keys))], 0)

    def updated(self, newer: "Bases") -> "Bases":
        """These, but of each log that `newer` has, the newer base."""
        keys = np.empty(len(self.keys) + len(newer.keys), np.int64)
        starts = np.zeros(len(keys) + 1, np.int64)
        content = np.empty(len(self.content) + len(newer.content), np.uint8)
        count = merge(
            self.keys, self.starts, self.content, newer.keys, newer.starts, newer.content, keys, starts, content
        )
        return Bases(keys[:count], starts[: count + 1], content[: starts[count]])


NO_BASES = Bases(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.uint8))


# ---------------------------------------------------------------- compiled


@entry_point
def merge(  # noqa: PLR0917, D417 - arrays are passed one by one: that is what compiles
    old_keys: Ints,
    old_starts: Ints,
    old: Bytes,
    new_keys: Ints,
    new_starts: Ints,
    new: Bytes,
    keys: Ints,
    starts: Ints,
    content: Bytes,
) -> Int:
    """Write two tables of bases as one, in the order of their keys; where both have a log, the new base counts.

    Args:
        old_keys, old_starts, old: as in `Bases`.
        new_keys, new_starts, new: the same.
        keys, starts, content: written; as long as both together.

    Returns:
        How many logs were written.
    """
    i, j, count = 0, 0, 0
    while i < old_keys.shape[0] or j < new_keys.shape[0]:
        if j == new_keys.shape[0] or (i < old_keys.shape[0] and old_keys[i] < new_keys[j]):
            keys[count] = old_keys[i]
            end = starts[count] + old_starts[i + 1] - old_starts[i]
            content[starts[count] : end] = old[old_starts[i] : old_starts[i + 1]]
            i += 1
        else:
            if i < old_keys.shape[0] and old_keys[i] == new_keys[j]:
                i += 1
            keys[count] = new_keys[j]
            end = starts[count] + new_starts[j + 1] - new_starts[j]
            content[starts[count] : end] = new[new_starts[j] : new_starts[j + 1]]
            j += 1
        count += 1
        starts[count] = end
    return count
