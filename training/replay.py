"""Replay: a table of transactions sent to a running service, and everything it computed compared with offline."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import groupby, islice

import httpx
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from service.bundle import Bundle
from service.errors import DataInvalid, TouchstoneError
from service.features.entry import Column, Kind
from service.features.offline import categorical_codes, differing, fold_events
from service.model import OnnxModel
from training.examples import Timeline, timeline
from training.requests import Bodies

BATCH = 1_000  # items of one request: the service takes no more


class ReplayFailed(TouchstoneError):
    """The service serves another model, or refused what was sent."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a replay found.

    Attributes:
        history: transactions sent before, in batches, to give the service a past.
        transactions: transactions sent one by one and compared.
        outcomes: outcomes sent at their place in between.
        cells: feature values compared.
        cells_differing: of these, how many differ in any bit.
        probabilities_differing: the same for probabilities.
        features_differing: names of the features that differ anywhere.
        decisions: how often each decision was made.
    """

    history: int
    transactions: int
    outcomes: int
    cells: int
    cells_differing: int
    probabilities_differing: int
    features_differing: tuple[str, ...]
    decisions: Mapping[str, int]

    @property
    def equal(self) -> bool:
        """Whether online equals offline, bit for bit."""
        return self.cells_differing == 0 and self.probabilities_differing == 0


def replay(
    frame: pl.DataFrame,
    bundle: Bundle,
    client: httpx.Client,
    *,
    start: datetime,
    limit: int,
    progress: Callable[[int], None],
) -> Comparison:
    """Send a table to a service as it happened, and compare what it computed with the offline computation.

    Transactions before `start` are sent in batches as history, then `limit` of them one by one. Outcomes are sent at
    their place. The service must be fresh: its first entry decides from when on it can tell a new card from an old one.

    Args:
        frame: canonical transactions.
        bundle: what the service serves.
        client: with the service's base URL.
        start: from here on transactions are compared.
        limit: how many.
        progress: called with the number of further events sent.

    Raises:
        ReplayFailed: the service serves another model, or refuses something.
        DataInvalid: no transaction lies at or after `start`.
    """
    _require_same_bundle(client, bundle)
    line = _cut(timeline(frame, bundle.currencies), _epoch_ms(start), limit)
    kinds = [_Sent.of(event, _epoch_ms(start)) for event in line.events]
    _send(frame, line, kinds, client, progress)
    rows = np.flatnonzero([kind == _Sent.ONE_BY_ONE for kind in kinds])
    names = [frame["transaction_id"][int(row)] for row in line.source[rows]]
    online = _read_back(names, bundle, client)
    numeric = fold_events(bundle.plan, line.events).numeric[rows]
    _, probability = OnnxModel.load(bundle).run(numeric, categorical_codes(bundle.plan, line.events[rows]))
    wrong = differing(numeric, online.numeric)
    return Comparison(
        history=kinds.count(_Sent.AS_HISTORY),
        transactions=len(rows),
        outcomes=kinds.count(_Sent.AS_OUTCOME),
        cells=numeric.size,
        cells_differing=int(wrong.sum()),
        probabilities_differing=int((probability != online.probability).sum()),
        features_differing=tuple(np.array(bundle.plan.numeric)[wrong.any(axis=0)].tolist()),
        decisions=online.decisions,
    )


class _Sent(Enum):
    """How an event of the timeline travels."""

    AS_HISTORY = "/score/batch"
    ONE_BY_ONE = "/score"
    AS_OUTCOME = "/outcomes"

    @classmethod
    def of(cls, event: NDArray[np.int64], start_ms: int) -> "_Sent":
        if event[Column.KIND] > Kind.FOLLOW_UP:
            return cls.AS_OUTCOME
        return cls.ONE_BY_ONE if event[Column.TIME] >= start_ms else cls.AS_HISTORY


@dataclass(frozen=True, slots=True)
class _Online:
    """What the service computed: float32 (n, features), float32 (n,), and its decisions counted."""

    numeric: NDArray[np.float32]
    probability: NDArray[np.float32]
    decisions: Mapping[str, int]


def _require_same_bundle(client: httpx.Client, bundle: Bundle) -> None:
    served = _checked(client.get("/models")).json()
    found = [model["bundle_sha256"] for model in served]
    if bundle.sha256 not in found:
        raise ReplayFailed(f"the service at {client.base_url} serves another bundle than {bundle.path}")


def _cut(line: Timeline, start_ms: int, limit: int) -> Timeline:
    """Everything up to and including the `limit`-th transaction from `start` on."""
    compared = (line.events[:, Column.KIND] <= Kind.FOLLOW_UP) & (line.events[:, Column.TIME] >= start_ms)
    if not compared.any():
        raise DataInvalid(f"the data has no transaction from {datetime.fromtimestamp(start_ms / 1000, UTC)} on")
    end = int(np.flatnonzero(compared)[:limit][-1]) + 1
    return Timeline(line.events[:end], line.source[:end])


def _send(
    frame: pl.DataFrame,
    line: Timeline,
    kinds: Sequence[_Sent],
    client: httpx.Client,
    progress: Callable[[int], None],
) -> None:
    bodies = Bodies(frame)
    events = zip(kinds, line.source.tolist(), line.events[:, Column.TIME].tolist(), strict=True)
    for kind, run in groupby(events, key=lambda event: event[0]):
        while part := list(islice(run, 1 if kind is _Sent.ONE_BY_ONE else BATCH)):
            if kind is _Sent.AS_OUTCOME:
                items = [bodies.reported_fraud(row, time_ms) for _, row, time_ms in part]
            else:
                items = [bodies.transaction(row) for _, row, _ in part]
            content = orjson.dumps(items[0] if kind is _Sent.ONE_BY_ONE else items)
            response = _checked(client.post(kind.value, content=content, headers={"content-type": "application/json"}))
            if kind is not _Sent.ONE_BY_ONE:
                _require_all_taken(response)
            progress(len(part))


def _read_back(names: Sequence[str], bundle: Bundle, client: httpx.Client) -> _Online:
    """Ask for each decision with what the model saw."""
    numeric = np.empty((len(names), len(bundle.plan.numeric)), np.float32)
    probability = np.empty(len(names), np.float32)
    decisions: Counter[str] = Counter()
    for index, name in enumerate(names):
        stored = _checked(client.get(f"/decisions/{name}")).json()
        values = [stored["seen"]["numeric"][feature] for feature in bundle.plan.numeric]
        numeric[index] = [np.nan if value is None else value for value in values]
        found = stored["response"]["probability"]
        probability[index] = np.nan if found is None else found
        decisions[stored["response"]["decision"]] += 1
    return _Online(numeric, probability, decisions)


def _checked(response: httpx.Response) -> httpx.Response:
    if response.status_code != httpx.codes.OK:
        raise ReplayFailed(f"{response.request.url} answered {response.status_code}: {response.text[:500]}")
    return response


def _require_all_taken(response: httpx.Response) -> None:
    for item in response.json():
        if item["status"] != httpx.codes.OK:
            raise ReplayFailed(f"{response.request.url} refused an item: {item}")


def _epoch_ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
