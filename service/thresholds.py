"""Thresholds: the rules that turn a probability of fraud and an amount into a decision."""

import math
from dataclasses import dataclass

from msgspec import Struct

from service.decision import Decision
from service.errors import Fault, ThresholdsInvalid
from service.thresholds_document import (
    DEFAULT_SEGMENT,
    FALLBACK_SEGMENT,
    Conditions,
    Levels,
    ThresholdsDocument,
    load_json,
    read_document,
)
from service.transaction import Transaction
from service.vocabulary import Channel, ThreeDS

_LISTS = (  # a transaction's fields of the same names
    "channel",
    "merchant_country",
    "card_country",
    "merchant_category_code",
    "merchant_id",
    "currency",
    "entry_mode",
    "three_ds",
)
_SEVEREST_FIRST = (Decision.DECLINE, Decision.REVIEW, Decision.CHALLENGE)


class Ruling(Struct, frozen=True, gc=False):
    """A decision, with the segment that made it: its name, "default", or "fallback" where nothing was scored."""

    decision: Decision
    segment: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """One document, arranged for deciding in a few microseconds."""

    document: ThresholdsDocument
    rules: tuple["_Rule", ...]  # the segments in order, then the default, which applies to everything
    fallback: Decision
    approve_below_minor: int

    def decide(self, *, probability: float | None, amount_minor: int | None, transaction: Transaction) -> Ruling:
        """Decide about one transaction.

        Args:
            probability: calibrated, in [0, 1]; None where the transaction could not be scored.
            amount_minor: in minor units of the base currency; None where no rate was known, which cannot be scored.
            transaction: read for the segments' conditions and for whether a challenge is possible.
        """
        if probability is None or amount_minor is None:
            return Ruling(_possible(self._fall_back(amount_minor), transaction), FALLBACK_SEGMENT)
        assert 0.0 <= probability <= 1.0, f"not a probability: {probability}"
        for rule in self.rules:
            if rule.applies(amount_minor, transaction):
                decision = rule.triggered(probability, probability * amount_minor)
                return Ruling(_possible(decision, transaction), rule.name)
        raise AssertionError("the default applies to everything")

    def _fall_back(self, amount_minor: int | None) -> Decision:
        small = amount_minor is not None and amount_minor < self.approve_below_minor
        return Decision.APPROVE if small else self.fallback


def parse_thresholds(document: object, *, base_currency: str) -> Thresholds:
    """Read a parsed JSON document.

    Raises:
        ThresholdsInvalid: carries every fault, each with its JSON pointer and what was expected.
    """
    read = read_document(document, base_currency=base_currency)
    segments = [_rule(segment.name, segment.when, segment) for segment in read.segments]
    return Thresholds(
        document=read,
        rules=(*segments, _rule(DEFAULT_SEGMENT, Conditions(), read.default)),
        fallback=Decision.from_word(read.fallback.decision),
        approve_below_minor=read.fallback.approve_below_amount or 0,
    )


def parse_thresholds_json(text: bytes | str, *, base_currency: str) -> Thresholds:
    """Read a document as it stands in a file.

    Raises:
        ThresholdsInvalid: as for `parse_thresholds`, or for text that is not strict JSON.
    """
    try:
        document = load_json(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of thousands of digits; too deep
        raise ThresholdsInvalid([Fault("", f"JSON: {error}")]) from error
    return parse_thresholds(document, base_currency=base_currency)


def _possible(decision: Decision, transaction: Transaction) -> Decision:
    """Replace a challenge that cannot be made or was already passed.

    Passed 3-D Secure is what a challenge would have asked for: it does not trigger. Only an e-commerce checkout has the
    cardholder at a screen; elsewhere, and where the channel is not told, the doubt goes to a person.
    """
    if decision is not Decision.CHALLENGE:
        return decision
    if transaction.three_ds is ThreeDS.AUTHENTICATED:
        return Decision.APPROVE
    return Decision.CHALLENGE if transaction.channel is Channel.ECOMMERCE else Decision.REVIEW


@dataclass(frozen=True, slots=True)
class _Rule:
    """A segment or the default. An omitted bound is infinite: nothing reaches it."""

    name: str
    lists: tuple[tuple[str, frozenset[str]], ...]
    amount_at_least: int
    amount_below: float
    levels: tuple[tuple[Decision, float, float], ...]  # decision, probability, expected loss; severest first

    def applies(self, amount_minor: int, transaction: Transaction) -> bool:
        if not self.amount_at_least <= amount_minor < self.amount_below:
            return False
        for field, values in self.lists:  # noqa: SIM110 - a generator would cost more than what it goes over
            if getattr(transaction, field) not in values:
                return False
        return True

    def triggered(self, probability: float, expected_loss: float) -> Decision:
        for decision, probability_bound, loss_bound in self.levels:
            if probability >= probability_bound or expected_loss >= loss_bound:
                return decision
        return Decision.APPROVE


def _rule(name: str, when: Conditions, levels: Levels) -> _Rule:
    lists = ((field, getattr(when, field)) for field in _LISTS)
    return _Rule(
        name=name,
        lists=tuple((field, frozenset(values)) for field, values in lists if values is not None),
        amount_at_least=when.amount_at_least or 0,
        amount_below=math.inf if when.amount_below is None else when.amount_below,
        levels=_levels(levels),
    )


def _levels(levels: Levels) -> tuple[tuple[Decision, float, float], ...]:
    by_decision = {
        Decision.CHALLENGE: levels.challenge_at,
        Decision.REVIEW: levels.review_at,
        Decision.DECLINE: levels.decline_at,
    }
    return tuple(
        (decision, _or_never(level.probability), _or_never(level.expected_loss))
        for decision in _SEVEREST_FIRST
        if (level := by_decision[decision]) is not None
    )


def _or_never(bound: float | None) -> float:
    return math.inf if bound is None else bound
