"""Verification: what was exported is loaded as the service will load it, and must say what the fitted model says."""

from pathlib import Path

import numpy as np
import torch

from service.bundle import Bundle
from service.errors import BundleInvalid
from service.model import OnnxModel, disagreement
from training.examples import Examples
from training.network import Codes
from training.served import ServedModel

ROWS = 20_000


def verify(directory: Path, model: ServedModel, examples: Examples, rows: Codes) -> None:
    """Load a bundle through the service's own loader and compare it with the fitted model.

    Args:
        directory: the bundle.
        model: the fitted model, in torch.
        examples: all feature vectors.
        rows: (m,) those to compare on; at most `ROWS`, evenly spaced, are taken.

    Raises:
        BundleInvalid: the loader refuses it, its golden rows differ, the graph and the fitted model disagree, or a
            row's result depends on its batch.
    """
    served = OnnxModel.load(Bundle.load(directory))
    chosen = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64)]
    numeric, categorical = examples.numeric[chosen], examples.categorical[chosen]
    logit, probability = served.run(numeric, categorical)
    with torch.no_grad():
        expected_logit, expected = (
            output.numpy() for output in model.eval()(torch.from_numpy(numeric), torch.from_numpy(categorical))
        )
    worst = disagreement(logit, probability, expected_logit, expected)
    if not worst <= 1:
        raise BundleInvalid(
            f"the graph and the fitted model differ by {worst:.3g} times what is allowed on {len(chosen)} rows"
        )
    for size in (1, 3, 5, 64):
        alone, _ = served.run(numeric[:size], categorical[:size])
        if (alone != logit[:size]).any():
            raise BundleInvalid(f"a row scored in a batch of {size} differs from the same row in a large one")
