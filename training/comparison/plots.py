"""Rows of dots and intervals along one axis, as SVG that takes its colours and its font from the page around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, LABELS, ROW, AXIS = 460, 130, 22, 40
"""Units of the drawing: its width, that of the names on the left, the height of a row and of the axis below."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a plot.

    Attributes:
        name: shown on the left.
        at: the large dot.
        interval: the line through it, from and to; None draws none.
        points: small dots.
        marked: whether the large dot has the colour of what the page is about.
    """

    name: str
    at: float
    interval: tuple[float, float] | None = None
    points: tuple[float, ...] = ()
    marked: bool = False


def dots(rows: Sequence[Row], title: str, *, zero: bool) -> str:
    """One `<svg>`, the rows from top to bottom.

    Args:
        rows: at least one.
        title: read out instead of the picture, and written under the axis.
        zero: whether 0 is on the axis, as a line: for differences.
    """
    values = [value for row in rows for value in (row.at, *row.points, *(row.interval or ()))]
    ticks = _ticks([*values, 0.0] if zero else values)
    low, high = ticks[0], ticks[-1]
    bottom = ROW * len(rows)

    def x(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - 10)

    decimals = max(0, -floor(log10(ticks[1] - ticks[0]) + 1e-9))
    parts = [
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{bottom}" stroke="var(--rule)" stroke-width="0.7"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle" fill="var(--quiet)">'
        f"{tick:{'+' if zero and tick else ''}.{decimals}f}</text>"
        for tick in ticks
    ]
    if zero:
        parts.append(f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{bottom}" stroke="var(--quiet)"/>')
    for number, row in enumerate(rows):
        parts += _drawn(row, ROW * (number + 0.5), x)
    middle = (LABELS + WIDTH) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{bottom + 32}" text-anchor="middle" fill="var(--quiet)">{escape(title)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + AXIS}" role="img" aria-label="{escape(title)}" font-size="11">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _drawn(row: Row, y: float, x: Callable[[float], float]) -> list[str]:
    colour = "var(--fraud)" if row.marked else "var(--legitimate)"
    parts = [f'<text x="0" y="{y + 4:.1f}" fill="var(--ink)">{escape(row.name)}</text>']
    parts += [
        f'<circle cx="{x(point):.1f}" cy="{y:.1f}" r="2" fill="{colour}" opacity="0.35"/>' for point in row.points
    ]
    if row.interval is not None:
        low, high = row.interval
        parts.append(
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="1.6"/>'
        )
    parts.append(f'<circle cx="{x(row.at):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return parts


def _ticks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers that enclose the values."""
    low, high = min(values), max(values)
    span = (high - low) or 0.01
    size = 10.0 ** floor(log10(span))
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if span / (size * part) <= 5)  # noqa: PLR2004 - ticks
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]
