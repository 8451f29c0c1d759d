"""Where the histories of one feature spec are kept: names their logs, writes their entries, folds what comes back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.features.encoding import encode_all
from service.features.joined import Joined
from service.features.kernel import COMPACTABLE
from service.features.online import Histories, fold
from service.features.plan import Plan
from service.features.spec import KEY_FIELDS
from service.stores.base import Appends
from service.transaction import Outcome, Transaction

Tokens = tuple[str | None, ...]  # what names a transaction's entities, by KEY_FIELDS; None where it names none


class Layout:
    """The logs of one spec. Their keys begin with the spec's hash, so another spec has other logs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.spec = plan.spec.sha256[:8]
        self.kinds = len(plan.entities)
        self._fields = tuple(KEY_FIELDS.index(entity.key) for entity in plan.spec.entities)
        prefixes = (f"{self.spec}:{entity.name}:" for entity in plan.spec.entities)
        self._parts = tuple(zip(prefixes, self._fields, strict=True))  # by entity, of its keys

    def named(self, tokens: Tokens) -> Tokens:
        """By entity, the token that names it."""
        return tuple(tokens[field] for field in self._fields)

    def keys(self, transactions: Iterable[Tokens]) -> list[bytes | None]:
        """Transaction by transaction and entity by entity, the key of its log; None where none is named."""
        return [
            None if (token := tokens[field]) is None else (prefix + token).encode()
            for tokens in transactions
            for prefix, field in self._parts
        ]

    def appends(self, rows: NDArray[np.int64], keys: Sequence[bytes | None]) -> Appends:
        """The entries that events (int64, one row each) add to the logs under these keys."""
        entries = encode_all(self.plan, rows, _are_named(keys).reshape(len(rows), self.kinds))
        return Appends([key for key in keys if key is not None], entries)


class Logs(Struct, frozen=True):
    """The logs of n transactions as a store returned them, transaction by transaction and entity by entity.

    Attributes:
        layout: whose logs.
        keys: n · entities; None where the transaction does not name the entity.
        values: by key, the log; empty where there is no key, none where the store did not answer.
        births_ms: by key, effective time of the first entry ever accepted where the log is kept.
    """

    layout: Layout
    keys: Sequence[bytes | None]
    values: Joined
    births_ms: Sequence[int]

    @classmethod
    def arrange(cls, layout: Layout, keys: Sequence[bytes | None], values: Joined, births_ms: Sequence[int]) -> "Logs":
        """Put what came back for those keys that are not None in their places."""
        if len(births_ms) == len(keys):
            return cls(layout, keys, values, births_ms)
        births = iter(births_ms)
        return cls(layout, keys, values.spread(_are_named(keys)), [0 if key is None else next(births) for key in keys])

    def fold(self, rows: NDArray[np.int64]) -> Histories:
        """The transactions' features."""
        return fold(self.layout.plan, rows, self.values, births_ms=self.births_ms)

    def compactable(self, histories: Histories) -> Iterator[tuple[bytes, bytes, int]]:
        """Key, value and kind of entity of each log that is long, or old, enough to be replaced by a base."""
        places = (histories.findings & COMPACTABLE).ravel().nonzero()[0].tolist()
        for index, value in zip(places, self.values.at(places), strict=True):
            key = self.keys[index]
            if key and value:
                yield key, value, index % self.layout.kinds


def _are_named(keys: Sequence[bytes | None]) -> NDArray[np.bool_]:
    return np.array([key is not None for key in keys], np.bool_)


def tokens_of(transaction: Transaction) -> Tokens:
    """What a transaction names of entities."""
    return _TOKENS(transaction)


def tokens_of_outcome(outcome: Outcome) -> Tokens:
    """What an outcome names of them, which has a field for some only."""
    return tuple(getattr(outcome, field, None) for field in KEY_FIELDS)


_TOKENS: Callable[[Transaction], Tokens] = attrgetter(*KEY_FIELDS)
