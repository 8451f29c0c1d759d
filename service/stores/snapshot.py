"""A snapshot: what a decision was made from, in the bytes in which a store keeps it until it is asked about."""

import struct
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

FORMAT = 1  # the first byte of what is written here; another one is refused
_HEAD = struct.Struct("<BHHBI")  # format, features, categories, entities, length of the request


class Snapshot(Struct, frozen=True, gc=False):
    """What one decision was made from: floats in full, codes in two bytes, findings in one, the request as it came.

    Attributes:
        encoded: all of it.
    """

    encoded: bytes

    @classmethod
    def of_batch(
        cls,
        requests: Sequence[bytes],
        numeric: NDArray[np.float32],
        categorical: NDArray[np.int64],
        findings: NDArray[np.int64],
    ) -> "list[Snapshot]":
        """Those of n decisions; arrays cost per call, not per row.

        Args:
            requests: (n,), the bodies, byte for byte.
            numeric: float32 (n, features), what the model saw.
            categorical: int64 (n, categories), the same.
            findings: int64 (n, entities), what came of each entity (the bits of `service.features.kernel`).
        """
        parts = numeric.astype("<f4"), categorical.astype("<i2"), findings.astype("u1")
        cells = np.concatenate([part.view(np.uint8) for part in parts], axis=1)
        widths, size, packed = [part.shape[1] for part in parts], cells.shape[1], cells.tobytes()
        return [
            cls(_HEAD.pack(FORMAT, *widths, len(request)) + packed[size * row : size * (row + 1)] + request)
            for row, request in enumerate(requests)
        ]

    @classmethod
    def decode(cls, value: bytes) -> "Snapshot":
        """The snapshot in these bytes.

        Raises:
            ValueError: they are none of this format.
        """
        try:
            form, *_ = _HEAD.unpack_from(value)
        except struct.error as error:
            raise ValueError("these bytes are no snapshot") from error
        if form != FORMAT or len(value) != _ends(value)[-1]:
            raise ValueError(f"expected a snapshot of format {FORMAT}, found one of format {form} or of another length")
        return cls(value)

    @property
    def numeric(self) -> NDArray[np.float32]:
        """Float32 (features,), what the model saw."""
        return np.frombuffer(self._part(0), "<f4").astype(np.float32)

    @property
    def categorical(self) -> NDArray[np.int64]:
        """Int64 (categories,), the same."""
        return np.frombuffer(self._part(1), "<i2").astype(np.int64)

    @property
    def findings(self) -> NDArray[np.int64]:
        """Int64 (entities,), what came of each entity."""
        return np.frombuffer(self._part(2), "u1").astype(np.int64)

    @property
    def request(self) -> bytes:
        """The body of the request."""
        return self._part(3)

    def _part(self, index: int) -> bytes:
        ends = _ends(self.encoded)
        return self.encoded[ends[index] : ends[index + 1]]


def _ends(value: bytes) -> list[int]:
    """Where the head ends, and each part behind it."""
    _, features, categories, entities, request = _HEAD.unpack_from(value)
    ends = [_HEAD.size]
    for size in (4 * features, 2 * categories, entities, request):
        ends.append(ends[-1] + size)
    return ends
