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
from service.features.compaction import split_base
from service.features.encoding import encode_all
from service.features.joined import Joined
from service.features.online import fold
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from service.scorer import ScoreRequest
from service.stores.resp import push_and_read, read_lists, reply_ends

SPEC = Path(__file__).resolve().parents[1] / "features" / "four_entities.yaml"
TOGETHER = 32  # requests
ARRIVAL_MS = 1_795_253_400_000  # after the example's event time
ENTRY_BYTES = 40  # as an element of a log; about what they have
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
    logs = [log or b"" for log in together.values.strings()]
    keys = Joined.of([b"3f2a91bc:entity:token-%d" % place for place in range(len(logs))])
    entries = encode_all(plan, together.rows, wanted)
    replies = b"".join(map(_reply, logs))
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
        f"commands, {TOGETHER} together": lambda: _drop(push_and_read(keys, entries)),
        f"replies, {TOGETHER} together": lambda: _drop(
            (reply_ends(replies, 2 * len(logs)), read_lists(replies, len(logs)))
        ),
        "decode, every usual field": lambda: _decode(full),
        "decode, required fields": lambda: _decode(least),
    }


def _reply(log: bytes) -> bytes:
    """What Redis answers to an entry that was pushed to a log, and to a look at the log: its base and its entries."""
    base, entries = split_base(log)
    elements = [base, *(entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES))]
    written = b"".join(b"$%d\r\n%b\r\n" % (len(element), element) for element in elements)
    return b":%d\r\n*%d\r\n%b" % (len(elements), len(elements), written)


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
