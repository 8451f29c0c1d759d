"""The rows of a fold as learners want them, and the figures of what they say about the test rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.calibrators import probability_of
from training.comparison.config import Prevalence
from training.comparison.folds import Fold, FoldRows, fold_rows
from training.comparison.thinning import thin_frauds
from training.evaluate import ranking
from training.examples import Examples
from training.hard_cases import hard_frauds, hard_recall, reference_scores
from training.metrics import brier, expected_calibration_error
from training.optimise import Part
from training.split import DAY_MS

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FoldParts:
    """One fold of some examples."""

    examples: Examples
    fold: Fold
    rows: FoldRows

    @classmethod
    def of(cls, examples: Examples, fold: Fold) -> "FoldParts":
        """The fold's rows.

        Raises:
            DataInvalid: a part lacks one of the classes.
        """
        return cls(examples, fold, fold_rows(examples, fold))

    def fit(self, prevalence: Prevalence, *, seed: int) -> tuple[Part, float]:
        """What is learned from, the same for every contender, and the share of its frauds that were not left out.

        Raises:
            DataInvalid: the fold has too few frauds for that prevalence.
        """
        draws = np.random.default_rng([seed, self.fold.test_from_ms // DAY_MS])
        kept, share = thin_frauds(self.rows.fit_labels, prevalence, draws)
        rows = self.rows.fit[kept]
        return Part(self.examples.numeric[rows], self.examples.categorical[rows], self.rows.fit_labels[kept]), share

    def test(self) -> Part:
        """What is judged on."""
        rows = self.rows.test
        return Part(self.examples.numeric[rows], self.examples.categorical[rows], self.examples.labels[rows])

    def hard_frauds(self) -> Mask:
        """The half of the test frauds that a logistic regression on all fit rows, none left out, ranks lowest."""
        fit, _ = self.fit("natural", seed=0)
        test = self.test()
        return hard_frauds(reference_scores(fit, test.numeric, test.categorical), test.labels)

    def figures(self, log_odds: Floats, hard: Mask) -> dict[str, float]:
        """How good log-odds of the test rows are, by name."""
        labels = self.examples.labels[self.rows.test]
        probability = probability_of(log_odds.astype(np.float64))
        return {
            **ranking(self.examples, self.rows.test, labels, log_odds),
            "hard_recall_at_0.1%_fpr": hard_recall(labels, log_odds, hard, 0.001),
            "hard_recall_at_0.5%_fpr": hard_recall(labels, log_odds, hard, 0.005),
            "expected_calibration_error": expected_calibration_error(labels, probability),
            "brier": brier(labels, probability),
        }
