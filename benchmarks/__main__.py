"""The command `python -m benchmarks`: measure a service on this machine, or watch one at work."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.bench import bench, bench_peers, bench_scale
from benchmarks.demo import PAST, demo
from benchmarks.features.bench import bench_features
from benchmarks.load.prepared import PaymentsUsedUp
from benchmarks.measure import RequestRefused
from benchmarks.outage import Course, bench_outage
from benchmarks.serving import PROJECT, ServiceFailed, free_port
from service.errors import TouchstoneError

FEAST_PYTHON = Path("build/feast/bin/python")  # where `make bench-features` makes it
OUTAGE_LOG = PROJECT / "build" / "bench-outage.log"


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status: 0, or 1 with a line on standard error that says why."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    port = options.port or free_port()
    try:
        match options.command:
            case "bench":
                bench(console, port=port, model_dir=options.model_dir)
            case "contest":
                bench_peers(console, model_dir=options.model_dir)
            case "scale":
                bench_scale(console, model_dir=options.model_dir)
            case "features":
                bench_features(console, feast_python=options.feast_python, model_dir=options.model_dir)
            case "outage":
                bench_outage(console, port=port, model_dir=options.model_dir, log=OUTAGE_LOG, course=Course())
            case _:
                demo(console, port=port, model_dir=options.model_dir, seconds=options.seconds, past=PAST)
    except (ServiceFailed, RequestRefused, PaymentsUsedUp, TouchstoneError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell has it
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="A real service, measured or watched.")
    parser.add_argument(
        "command",
        choices=["bench", "contest", "scale", "demo", "features", "outage"],
        help="measure a service; measure it beside others under load; with little data and with much; watch one; "
        "measure its features in Redis beside Feast's; take its Redis away",
    )
    parser.add_argument("--model-dir", type=Path, help="a bundle, or a directory of versions [the shipped one]")
    parser.add_argument("--port", type=int, help="where the service shall listen [any free port]")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the demo lasts [60]")
    parser.add_argument(
        "--feast-python",
        type=Path,
        default=FEAST_PYTHON,
        help="of `features`: the interpreter of the environment that Feast is installed in [%(default)s]",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
