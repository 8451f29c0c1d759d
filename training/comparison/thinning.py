"""Thinning: leaving out frauds at random until they are as rare as asked for."""

import numpy as np
import numpy.typing as npt

from service.errors import DataInvalid
from training.comparison.config import Prevalence

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def thin_frauds(labels: Mask, prevalence: Prevalence, draws: np.random.Generator) -> tuple[Indices, float]:
    """The rows to keep: every legitimate one, and as many frauds as make the prevalence.

    Features stay as they were: what was reported of a fraud that is left out still stands in later rows' features.

    Args:
        labels: (n,) fraud or not, both classes among them.
        prevalence: share of fraud among the rows that are kept, or `natural` for all rows.
        draws: chooses the frauds.

    Returns:
        The positions kept, ascending, and the share of frauds among them that were kept: by it, leaving frauds out
        multiplied the odds of each row.

    Raises:
        DataInvalid: there are fewer frauds than that, or none would be left.
    """
    frauds = np.flatnonzero(labels)
    if prevalence == "natural":
        return np.arange(len(labels)), 1.0
    wanted = round(prevalence / (1 - prevalence) * (len(labels) - len(frauds)))
    if not 0 < wanted <= len(frauds):
        raise DataInvalid(
            f"a prevalence of {prevalence:g} takes {wanted} frauds beside {len(labels) - len(frauds)} legitimate rows, "
            f"and there are {len(frauds)}"
        )
    left_out = draws.choice(frauds, len(frauds) - wanted, replace=False, shuffle=False)
    kept = np.ones(len(labels), np.bool_)
    kept[left_out] = False
    return np.flatnonzero(kept), wanted / len(frauds)
