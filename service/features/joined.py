"""Byte strings of a batch, one after the other: compiled code reads them without a Python object for each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from service.features.compiled import Bytes, Flags, Ints

NO_STRING = -1  # instead of a length, where there is no string because nobody said


class Joined(NamedTuple):
    """Strings in their order.

    Attributes:
        buffer: uint8, all of them.
        lengths: int64 (n,), of each; `NO_STRING` where there is none.
    """

    buffer: Bytes
    lengths: Ints

    @classmethod
    def of(cls, strings: Sequence[bytes | None]) -> Self:
        """Strings as they are elsewhere; None where there is none."""
        lengths = np.array([NO_STRING if string is None else len(string) for string in strings], np.int64)
        return cls(np.frombuffer(b"".join(filter(None, strings)), np.uint8), lengths)

    @classmethod
    def together(cls, parts: "Sequence[Joined]") -> Self:
        """The strings of several, one after the other."""
        return cls(np.concatenate([part.buffer for part in parts]), np.concatenate([part.lengths for part in parts]))

    def split(self, counts: Sequence[int]) -> "Iterator[Joined]":
        """The first so many strings, the next so many, and so on."""
        if len(counts) == 1:
            yield self
            return
        ends = [0, *self.lengths.clip(0).cumsum().tolist()]
        first = start = 0
        for count in counts:
            last = first + count
            end = ends[last]
            yield Joined(self.buffer[start:end], self.lengths[first:last])
            first, start = last, end

    def spread(self, wanted: Flags) -> "Joined":
        """The strings at the places that are wanted, in this order, and empty ones between them."""
        if len(wanted) == len(self.lengths):
            return self
        lengths = np.zeros(len(wanted), np.int64)
        lengths[wanted] = self.lengths
        return Joined(self.buffer, lengths)

    def at(self, places: Sequence[int]) -> list[bytes | None]:
        """Some of the strings, as they are elsewhere."""
        if not places:
            return []
        lengths, ends = self.lengths.tolist(), self.lengths.clip(0).cumsum().tolist()
        return [
            None if lengths[place] == NO_STRING else self.buffer[ends[place] - lengths[place] : ends[place]].tobytes()
            for place in places
        ]

    def strings(self) -> list[bytes | None]:
        """All of them, as they are elsewhere."""
        content, end, strings = self.buffer.tobytes(), 0, list[bytes | None]()
        for length in self.lengths.tolist():
            start, end = end, end + max(length, 0)
            strings.append(None if length == NO_STRING else content[start:end])
        return strings
