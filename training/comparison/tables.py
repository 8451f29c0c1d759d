"""The figures of a contest as text, for the terminal and the report."""

from collections.abc import Mapping

from training.comparison.contender import Choice
from training.comparison.summary import FIGURES, Difference, Outcome, Spread

SMALL = {"expected_calibration_error", "brier"}
TERMINAL = ("recall_at_0.1%_fpr", "recall_at_0.5%_fpr", "hard_recall_at_0.5%_fpr")
"""What fits on a line of a terminal beside the average precision and two differences in it."""


def headings(outcome: Outcome) -> list[str]:
    """The columns of `lines`."""
    gaps = [f"less {baseline} [95%]" for baseline in baselines(outcome)]
    return ["", "AP", *(FIGURES[figure] for figure in TERMINAL), *gaps, "fits"]


def lines(outcome: Outcome) -> list[list[str]]:
    """One line per contender: means, and the paired differences in average precision (AP)."""
    found = []
    for each in outcome.standings:
        gaps = [each.differences.get(baseline, {}).get("average_precision") for baseline in baselines(outcome)]
        found.append(
            [
                each.contender,
                shown("average_precision", each.figures["average_precision"]),
                *(f"{each.figures[figure].mean:.4f}" for figure in TERMINAL),
                *("" if gap is None else shown_difference(gap) for gap in gaps),
                str(each.runs),
            ]
        )
    return found


def title(outcome: Outcome) -> str:
    """A scenario in words."""
    rarity = "frauds as they come" if outcome.prevalence == "natural" else f"one fraud in {1 / outcome.prevalence:,.0f}"
    return f"{outcome.fit_days:g} days of fitting, {rarity}"


def shown(figure: str, spread: Spread) -> str:
    """A figure as text: the mean, and the deviation where there is one."""
    decimals = 5 if figure in SMALL else 4
    deviation = "" if spread.deviation is None else f" ±{spread.deviation:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{deviation}"


def shown_difference(difference: Difference) -> str:
    """A difference as text: the mean, and the interval where there is one."""
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.4f}"
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def settings(choice: Choice) -> str:
    """Settings as one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {'none' if value is None else value}"
        for name, value in choice.items()
    )


def baselines(outcome: Outcome) -> list[str]:
    """Who the others are compared with, the best boosted trees first."""
    named: Mapping[str, None] = {name: None for each in outcome.standings for name in each.differences}
    return sorted(named, key=lambda name: name != outcome.best_boosted)
