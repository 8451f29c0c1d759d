"""The tables of a focal study: shares of the gradient beside what each loss achieved, for one rarity of fraud each."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.focal_study import COMMON, FPRS, LOSSES, Run, Shares

SHARE_HEADINGS = (
    "loss",
    "start, common",
    "start, own",
    "trained, common",
    "trained, own",
    "all legitimate rows",
    "rows below .1",
)
FIGURE_HEADINGS = (
    "loss",
    "average precision",
    f"less {COMMON}'s",
    *(f"recall at {at}" for at in FPRS),
    *(f"hard recall at {at}" for at in FPRS),
    f"less {COMMON}'s",
    "best epoch",
)
TABLES_FILE = "tables.md"
LAST_FPR = list(FPRS)[-1]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table as text. Every row has as many cells as there are headings; the first cell names the row."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(runs: Sequence[Run]) -> list[Sheet]:
    """Two tables for each rarity: shares of the gradient, then figures. Cells are means over weeks and seeds.

    A difference is the mean over pairs of runs with the same week and seed, and in brackets the smallest and the
    largest; these are few, so no interval is claimed.
    """
    sheets = []
    for one_in in dict.fromkeys(run.one_in for run in runs):
        group = [run for run in runs if run.one_in == one_in]
        title = _title(group)
        sheets += [
            Sheet(
                f"Share of the gradient (below .1 / easiest 90 %), {title}", SHARE_HEADINGS, list(_share_rows(group))
            ),
            Sheet(f"What it buys, {title}", FIGURE_HEADINGS, list(_figure_rows(group))),
        ]
    return sheets


def markdown(sheets: Iterable[Sheet]) -> str:
    """The tables as they stand in docs/focal-loss.md, titles in bold."""
    lines = []
    for sheet in sheets:
        lines += [
            f"**{sheet.title}**",
            "",
            _line(sheet.headings),
            _line(["---", *["---:"] * (len(sheet.headings) - 1)]),
        ]
        lines += [*map(_line, sheet.rows), ""]
    return "\n".join(lines)


def _title(group: Sequence[Run]) -> str:
    frauds, legitimate = _mean(group, lambda run: run.frauds), _mean(group, lambda run: run.legitimate)
    repeats = len({(run.test_from, run.seed) for run in group})
    return f"1 fraud in {legitimate / frauds:,.0f} legitimate rows ({frauds:,.0f} frauds; fits of each loss: {repeats})"


def _share_rows(group: Sequence[Run]) -> Iterable[list[str]]:
    common = [run for run in group if run.loss == COMMON]
    for name in LOSSES:
        own = [run for run in group if run.loss == name]
        trained = [run.at_trained[name] for run in own]
        yield [
            name,
            _shares([run.common_start for run in own]),
            _shares([run.own_start for run in own]),
            _shares([run.at_trained[name] for run in common]),
            _shares(trained),
            _share([at.legitimate for at in trained]),
            _share([at.rows_below for at in trained]),
        ]


def _figure_rows(group: Sequence[Run]) -> Iterable[list[str]]:
    for name in LOSSES:
        own = [run for run in group if run.loss == name]
        yield [
            name,
            f"{_mean(own, _average_precision):.4f}",
            _difference(group, name, _average_precision),
            *(f"{np.mean([run.recall[at] for run in own]):.3f}" for at in FPRS),
            *(f"{np.mean([run.hard_recall[at] for run in own]):.3f}" for at in FPRS),
            _difference(group, name, lambda run: run.hard_recall[LAST_FPR]),
            f"{_mean(own, lambda run: run.best_epoch):.1f}",
        ]


def _average_precision(run: Run) -> float:
    return run.average_precision


def _difference(group: Sequence[Run], name: str, figure: Callable[[Run], float]) -> str:
    """Against the common loss, over the runs that differ in nothing but the loss."""
    if name == COMMON:
        return ""
    by_pair = {(run.test_from, run.seed, run.loss): figure(run) for run in group}
    pairs = [(week, seed) for week, seed, loss in by_pair if loss == name]
    found = [by_pair[*pair, name] - by_pair[*pair, COMMON] for pair in pairs]
    mean = f"{np.mean(found):+.4f}"
    return mean if len(found) == 1 else f"{mean} [{min(found):+.4f}, {max(found):+.4f}]"


def _shares(of: Sequence[Shares]) -> str:
    return f"{_share([at.below for at in of])} / {_share([at.easiest for at in of])}"


def _share(values: Sequence[float]) -> str:
    """Three decimals, and one significant digit below that; 0 is exactly 0."""
    mean = float(np.mean(values))
    if mean == 0:
        return "0"
    return f"{mean:.3f}" if mean >= 0.0005 else f"{mean:.0e}"  # noqa: PLR2004 - what rounds to the last decimal


def _mean(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return float(np.mean([figure(run) for run in runs]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
