"""The command `python -m benchmarks.instructions`: has the fold or the decoder become dearer?"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.instructions.count import MOST_GROWTH, CountingFailed, compare, count, counted_with, record, recorded


def main(arguments: Sequence[str]) -> int:
    """Count, and compare or record. Returns 0, or 1 where something costs a tenth more than recorded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="make what is counted now the figures to compare with")
    options = parser.parse_args(arguments)
    try:
        counts = count()
        if options.record:
            record(counts)
        figures, versions = recorded()
        findings = compare(counts, figures)
    except CountingFailed as error:
        sys.stderr.write(f"CountingFailed: {error}\n")
        return 1
    sys.stdout.write(f"{'instructions for a request':28} {'recorded':>10} {'now':>10}\n")
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    if versions != counted_with():
        sys.stdout.write(f"recorded with {versions}, counted with {counted_with()}\n")
    return 1 if any(finding.growth > MOST_GROWTH for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
