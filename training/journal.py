"""A journal: a file to which runs append a line each, so that an interrupted one loses no more than its last."""

from pathlib import Path


def read_lines(file: Path) -> list[bytes]:
    """The whole lines; none where there is no file. What stands behind the last line end is cut off.

    That was being written when a process died.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        file.write_bytes(whole)
    return whole.splitlines()


def append_line(file: Path, line: str) -> None:
    """Add a line, which holds no line end itself."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(line + "\n")
