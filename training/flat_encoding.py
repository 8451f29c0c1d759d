"""What models without embeddings see: one matrix of numbers, in which codes have become numbers too."""

from dataclasses import dataclass

import numpy as np
import torch

from training.network import RAREST_CODE, Codes, Floats, NumericEncoding


@dataclass(frozen=True, slots=True)
class FlatEncoding:
    """Numbers standardised as in the network, with a flag where missing, beside a column for each frequent code."""

    numeric: NumericEncoding
    codes: tuple[Codes, ...]

    @classmethod
    def for_data(cls, numeric: Floats, categorical: Codes) -> "FlatEncoding":
        """Fitted to these rows; missing is a code like any other, and a rare code raises no flag."""
        frequent = []
        for column in categorical.T:
            distinct, counts = np.unique(column, return_counts=True)
            frequent.append(distinct[counts >= RAREST_CODE])
        return cls(NumericEncoding.for_data(numeric, bins=0), tuple(frequent))

    def __call__(self, numeric: Floats, categorical: Codes) -> Floats:
        """(rows, n) and (rows, m) to (rows, columns)."""
        flags = [column[:, None] == known for column, known in zip(categorical.T, self.codes, strict=True)]
        return np.hstack([self.numeric(torch.from_numpy(numeric)).numpy(), *flags], dtype=np.float32)


def tree_columns(numeric: Floats, categorical: Codes) -> Floats:
    """What trees see: raw numbers beside codes, (rows, n + m), missing ones NaN; a code up to 2^24 is itself."""
    codes = np.where(categorical < 0, np.nan, categorical).astype(np.float32)
    return np.hstack([numeric, codes])
