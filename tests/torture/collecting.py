"""Everything that a store was told, collected and computed again."""

from pathlib import Path

from service.bundle import Bundle
from training.collect import collect
from training.collected import Collected, Parity, compare, read_collected
from training.source import open_source


def collected(url: str, bundle: Bundle, out: Path) -> Collected:
    """What stands in a store: its archive, the ends of its logs, its decisions and outcomes."""
    with open_source(url) as source:
        collect(source, [bundle], out, forget_before_ms=0, tell=lambda _what, _count: None)
    return read_collected(out)


def parity(url: str, bundle: Bundle, out: Path) -> Parity:
    """What comes of computing every decision again, the way training does."""
    return compare(collected(url, bundle, out), bundle.plan, bundle.currencies)
