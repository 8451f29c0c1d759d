"""What instructions are counted of: fixed work on the fold, the encoding and the decoder, between marks.

Run by `count` under callgrind, which takes each call of `os.getloadavg` as the order to write down what it has counted.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import yaml

from benchmarks.instructions.histories import waiting
from service.api.openapi import TRANSACTION_EXAMPLE
from service.features.encoding import encode_all
from service.features.online import fold
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from service.scorer import ScoreRequest

SPEC = Path(__file__).resolve().parents[1] / "features" / "four_entities.yaml"
TOGETHER = 32  # requests
ARRIVAL_MS = 1_795_253_400_000  # after the example's event time
REPEATS = 5  # of a job; a job is done TOGETHER times in each
WARM_UPS = 2
REQUIRED = ("transaction_id", "timestamp", "card_id", "merchant_id", "amount", "currency")

Job = Callable[[], None]


def jobs() -> dict[str, Job]:
    """By name, something that does `TOGETHER` requests' worth of work."""
    plan = compile_plan(parse_spec(yaml.safe_load(SPEC.read_bytes())))
    kinds = len(plan.entities)
    together = waiting(plan, TOGETHER)
    wanted = np.ones((TOGETHER, kinds), np.bool_)
    alone = [
        (np.ascontiguousarray(together.rows[place : place + 1]), values)
        for place, values in enumerate(together.values.split([kinds] * TOGETHER))
    ]
    full = orjson.dumps(dict(TRANSACTION_EXAMPLE))
    least = orjson.dumps({field: TRANSACTION_EXAMPLE[field] for field in REQUIRED})

    def fold_alone() -> None:
        for row, values in alone:
            fold(plan, row, values, births_ms=together.births_ms[:kinds])

    return {
        "fold, one request": fold_alone,
        f"fold, {TOGETHER} together": lambda: _drop(
            fold(plan, together.rows, together.values, births_ms=together.births_ms)
        ),
        f"encode, {TOGETHER} together": lambda: _drop(encode_all(plan, together.rows, wanted)),
        "decode, every usual field": lambda: _decode(full),
        "decode, required fields": lambda: _decode(least),
    }


def _decode(body: bytes) -> None:
    for _ in range(TOGETHER):
        ScoreRequest.read(body, arrival_ms=ARRIVAL_MS, allow_card_numbers=False)


def _drop(result: object) -> None:
    """Nobody needs it."""


def main() -> None:
    """Do each job REPEATS times and then twice as often, each between two marks; print the names."""
    mark = os.getloadavg
    named = jobs()
    gc.disable()  # a collection falls where it falls
    for job in named.values():
        for _ in range(WARM_UPS):
            job()
        for repeats in (REPEATS, 2 * REPEATS):
            mark()
            for _ in range(repeats):
                job()
            mark()
    sys.stdout.write("\n".join(named))


if __name__ == "__main__":
    main()
