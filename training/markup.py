"""HTML that reports have in common."""

from collections.abc import Sequence
from html import escape


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """A table; the cells of `rows` are HTML already, `head` is text. The last cell of a short row spans the rest."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    marks = marked or [False] * len(rows)
    body = "\n".join(
        ('<tr class="point">' if mark else "<tr>") + _cells(row, len(head)) + "</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cells(row: Sequence[str], columns: int) -> str:
    *cells, last = row
    left = columns - len(cells)
    span = f' colspan="{left}"' if left > 1 else ""
    return "".join(f"<td>{cell}</td>" for cell in cells) + f"<td{span}>{last}</td>"
