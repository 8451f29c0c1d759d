"""The HTML report of a contest: one file that needs nothing else, in the looks of a model's report."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from training.comparison.plots import Row, dots
from training.comparison.records import Run
from training.comparison.summary import COMPARED, FIGURES, Outcome, Standing
from training.comparison.tables import baselines, settings, shown, shown_difference, title
from training.markup import table

NOTE = (
    "A difference is taken between two fits on the same rows with the same seed, and averaged; its 95% interval is "
    "Student's over these pairs. Seeds of one fold share that fold's rows, and weeks are few: the interval says what "
    "other seeds would do on these weeks, not what other weeks would do. Where it holds 0, nothing was shown."
)


def render(outcomes: Sequence[Outcome], runs: Sequence[Run], *, source: str, command: str) -> str:
    """The report.

    Args:
        outcomes: what came out, by scenario.
        runs: all of them, for the dots.
        source: what the data are, in words.
        command: what makes this report again.
    """
    style = (files("training") / "report.css").read_text(encoding="utf-8")
    sections = [_header(source, command), *(_scenario(outcome, runs) for outcome in outcomes), _footer()]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>A contest on {escape(source)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _header(source: str, command: str) -> str:
    return (
        '<header>\n<p class="kicker">Touchstone comparison</p>\n<h1>Networks beside boosted trees</h1>\n'
        f"<p>Data: {escape(source)}. Settings are searched on earlier weeks, as many trials for everyone who is tuned, "
        "then each contender is fitted anew and judged on later weeks that no choice has seen. "
        f"Made by <code>{escape(command)}</code>.</p>\n</header>"
    )


def _scenario(outcome: Outcome, runs: Sequence[Run]) -> str:
    seeds = "1 seed" if outcome.seeds == 1 else f"{outcome.seeds} seeds"
    return (
        f"<h2>{escape(title(outcome))}</h2>\n"
        f"<p>Tests begin on {', '.join(outcome.folds)}; {seeds}; {outcome.frauds:,.0f} frauds in a fit. "
        "Mean over fits, ± the deviation between fits.</p>\n"
        + _pictures(outcome, runs)
        + _figures(outcome.standings)
        + "".join(_differences(outcome, baseline) for baseline in baselines(outcome))
        + _settings(outcome.standings)
    )


def _pictures(outcome: Outcome, runs: Sequence[Run]) -> str:
    here = [run for run in runs if (run.key.fit_days, run.key.prevalence) == (outcome.fit_days, outcome.prevalence)]
    pictures = [_levels(outcome, here, figure) for figure in ("average_precision", "hard_recall_at_0.5%_fpr")]
    pictures += [_gaps(outcome, baseline, "average_precision") for baseline in baselines(outcome)]
    drawn = "\n".join(f"<figure>\n{svg}</figure>" for svg in pictures)
    return f'<div class="figures">\n{drawn}\n</div>\n'


def _levels(outcome: Outcome, runs: Sequence[Run], figure: str) -> str:
    rows = [
        Row(
            standing.contender,
            standing.figures[figure].mean,
            points=tuple(run.figures[figure] for run in runs if run.key.contender == standing.contender),
            marked=standing.contender == outcome.best_boosted,
        )
        for standing in outcome.standings
    ]
    return dots(rows, f"{FIGURES[figure]}: mean, and each fit", zero=False)


def _gaps(outcome: Outcome, baseline: str, figure: str) -> str:
    rows = []
    for standing in outcome.standings:
        found = standing.differences.get(baseline, {}).get(figure)
        if found is not None:
            interval = None if found.low is None or found.high is None else (found.low, found.high)
            rows.append(Row(standing.contender, found.mean, interval))
    return dots(rows, f"{FIGURES[figure]} less that of {baseline}, 95% interval", zero=True)


def _figures(standings: Sequence[Standing]) -> str:
    rows = [
        (
            escape(each.contender),
            *(_two_lines(shown(figure, each.figures[figure])) for figure in FIGURES),
            f"{each.runs}",
        )
        for each in standings
    ]
    return table(("", *FIGURES.values(), "fits"), rows)


def _differences(outcome: Outcome, baseline: str) -> str:
    why = ", the boosted trees best on validation" if baseline == outcome.best_boosted else ""
    rows = []
    for each in outcome.standings:
        found = each.differences.get(baseline)
        if found:
            cells = [_two_lines(shown_difference(found[figure])) for figure in COMPARED]
            rows.append((escape(each.contender), *cells, f"{found[COMPARED[0]].pairs}"))
    head = ("", *(FIGURES[figure] for figure in COMPARED), "pairs")
    return f"<h3>Less {escape(baseline + why)}</h3>\n" + table(head, rows)


def _settings(standings: Sequence[Standing]) -> str:
    rows = [
        (
            escape(each.contender),
            f"{each.trials}" if each.trials else "as configured",
            f"{each.validation:.4f}",
            f"{each.steps:,}",
            f"{each.fit_seconds:,.1f}",
        )
        for each in standings
    ]
    chosen = "\n".join(
        f"<p>{escape(each.contender)}: <code>{escape(settings(each.choice))}</code></p>"
        for each in standings
        if each.choice
    )
    head = ("", "settings tried", "average precision on validation", "rounds or epochs", "seconds per fit")
    return f"<h3>Settings</h3>\n{table(head, rows)}{chosen}\n"


def _two_lines(text: str) -> str:
    """The mean, and what lies around it in small print below."""
    mean, _, around = text.partition(" ")
    return f"{mean}<br><small>{around}</small>" if around else mean


def _footer() -> str:
    return (
        f"<footer>\n<p>{NOTE}</p>\n<p>Hard recall: of the half of the test frauds that a logistic regression on the "
        "same fit rows ranks lowest, which puts the logistic contender itself at a disadvantage. Calibration: of what "
        "each says without any fit to later rows, over 20 bins of equal mass.</p>\n</footer>"
    )
