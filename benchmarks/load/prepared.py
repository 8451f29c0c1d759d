"""Prepared requests in a file, so that whoever sends them only has to read, and sends each once, in order."""

from array import array
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

LENGTH_DIGITS = 6  # before each request; wrk.lua reads the same


class PaymentsUsedUp(Exception):
    """A contender answered more than was prepared: longer runs need more payments."""


class Supply:
    """Requests in the order in which they are to be sent, written as far as somebody is about to read.

    Attributes:
        path: the file.
        again: whether they may be sent again from the beginning once all were sent.
    """

    def __init__(self, path: Path, requests: Iterable[bytes], *, again: bool = False) -> None:
        self.path = path
        self.again = again
        self._requests = iter(requests)
        self._offsets = array("q", [0])  # of each request, and of the end
        path.touch(exist_ok=False)
        if again:
            self._write(None)

    def prepare(self, number: int, count: int) -> None:
        """Have so many requests ready from the one with this number on, or as many as there are."""
        self._write(max(0, number + count - len(self._offsets) + 1))

    def offset(self, number: int) -> int:
        """Where a prepared request begins in the file."""
        return self._offsets[self._place(number)]

    def take(self, number: int, count: int) -> list[bytes]:
        """So many requests, from the one with this number on.

        Raises:
            PaymentsUsedUp: there are not so many.
        """
        self.prepare(number, count)
        requests: list[bytes] = []
        with self.path.open("rb") as file:
            while len(requests) < count:
                file.seek(self.offset(number + len(requests)))
                while len(requests) < count and (digits := file.read(LENGTH_DIGITS)):
                    requests.append(file.read(int(digits)))
                if not self.again and len(requests) < count:
                    raise PaymentsUsedUp(f"{count:,} payments were wanted, {len(requests):,} are left")
        return requests

    def _place(self, number: int) -> int:
        prepared = len(self._offsets) - 1
        return number % prepared if self.again else min(number, prepared)

    def _write(self, count: int | None) -> None:
        """Write so many more, or all."""
        with self.path.open("ab") as file:
            for request in islice(self._requests, count):
                size = file.write(b"%0*d%b" % (LENGTH_DIGITS, len(request), request))
                self._offsets.append(self._offsets[-1] + size)
