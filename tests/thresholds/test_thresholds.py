import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.decision import Decision
from service.errors import ThresholdsInvalid
from service.thresholds import Ruling, parse_thresholds_json
from service.transaction import Transaction
from service.vocabulary import Channel, EntryMode, ThreeDS
from tests.thresholds.documents import Json, document, thresholds, transaction

APPROVE, CHALLENGE, REVIEW, DECLINE = Decision

ECOMMERCE = transaction(channel="ecommerce")
LEVELS: Json = {
    "challenge_at": {"probability": 0.1, "expected_loss": 1000},
    "review_at": {"probability": 0.2, "expected_loss": 2000},
    "decline_at": {"probability": 0.5},
}


@pytest.mark.parametrize(
    ("probability", "amount_minor", "decision"),
    [
        pytest.param(0.0, 10**12, APPROVE, id="no risk, however much"),
        pytest.param(0.0999, 0, APPROVE, id="just below"),
        pytest.param(0.1, 0, CHALLENGE, id="a bound is reached at its value"),
        pytest.param(0.05, 20_000, CHALLENGE, id="the other bound alone suffices"),
        pytest.param(0.05, 40_000, REVIEW, id="a severer level by expected loss"),
        pytest.param(0.1, 40_000, REVIEW, id="the severest triggered level decides"),
        pytest.param(0.2, 0, REVIEW, id="a severer level by probability"),
        pytest.param(0.4999, 10**12, REVIEW, id="an omitted bound is never reached"),
        pytest.param(0.5, 0, DECLINE, id="the severest level"),
        pytest.param(1.0, 0, DECLINE, id="certainty"),
    ],
)
def test_the_severest_level_with_a_reached_bound_decides(
    probability: float, amount_minor: int, decision: Decision
) -> None:
    """A level triggers when any of its bounds is reached, and the severest triggered level decides."""
    ruling = thresholds(document(default=LEVELS)).decide(
        probability=probability, amount_minor=amount_minor, transaction=ECOMMERCE
    )
    assert ruling == Ruling(decision, "default")


@pytest.mark.parametrize("default", [{}, {"decline_at": {}}, {"decline_at": None}])
def test_without_levels_everything_is_approved(default: Json) -> None:
    """An omitted level, or one without bounds, never triggers."""
    rules = thresholds(document(default=default))
    assert rules.decide(probability=1.0, amount_minor=10**12, transaction=ECOMMERCE).decision is APPROVE


@pytest.mark.parametrize(
    ("fields", "decision"),
    [
        ({"channel": "ecommerce"}, CHALLENGE),
        ({"channel": "ecommerce", "three_ds": "attempted"}, CHALLENGE),
        ({"channel": "ecommerce", "three_ds": "failed"}, CHALLENGE),
        ({"channel": "ecommerce", "three_ds": "authenticated"}, APPROVE),
        ({"channel": "recurring", "three_ds": "authenticated"}, APPROVE),
        ({"channel": "pos"}, REVIEW),
        ({"channel": "atm"}, REVIEW),
        ({"channel": "moto"}, REVIEW),
        ({"channel": "recurring"}, REVIEW),
        ({}, REVIEW),
    ],
)
@pytest.mark.parametrize("probability", [0.15, None])
def test_a_challenge_happens_only_where_it_is_possible_and_new(
    fields: dict[str, str], decision: Decision, probability: float | None
) -> None:
    """A cardholder who was authenticated is not challenged; where nobody can be challenged a person reviews."""
    rules = thresholds(document(default=LEVELS, fallback={"decision": "challenge"}))
    ruling = rules.decide(probability=probability, amount_minor=0, transaction=transaction(**fields))
    assert ruling.decision is decision


def test_an_authenticated_payment_is_still_reviewed_and_declined() -> None:
    """Authentication takes away the challenge and nothing else."""
    rules = thresholds(document(default=LEVELS))
    authenticated = transaction(channel="ecommerce", three_ds="authenticated")
    decisions = [
        rules.decide(probability=probability, amount_minor=0, transaction=authenticated).decision
        for probability in (0.15, 0.3, 0.6)
    ]
    assert decisions == [APPROVE, REVIEW, DECLINE]


@pytest.mark.parametrize(
    ("when", "fields", "matches"),
    [
        ({"channel": ["pos", "atm"]}, {"channel": "atm"}, True),
        ({"channel": ["pos"]}, {"channel": "atm"}, False),
        ({"channel": ["pos"]}, {}, False),
        ({"merchant_country": ["FR"]}, {"merchant_country": "FR"}, True),
        ({"merchant_country": ["FR"]}, {"card_country": "FR"}, False),
        ({"card_country": ["FR"]}, {"card_country": "FR"}, True),
        ({"merchant_category_code": ["5411"]}, {"merchant_category_code": "5411"}, True),
        ({"merchant_id": ["merchant-1"]}, {}, True),
        ({"merchant_id": ["merchant-2"]}, {}, False),
        ({"currency": ["USD"]}, {"currency": "USD"}, True),
        ({"currency": ["USD"]}, {}, False),
        ({"entry_mode": ["chip"]}, {"entry_mode": "chip"}, True),
        ({"three_ds": ["failed"]}, {"three_ds": "failed"}, True),
        ({"three_ds": ["failed"]}, {"three_ds": "attempted"}, False),
        ({"channel": ["pos"], "card_country": ["FR"]}, {"channel": "pos", "card_country": "FR"}, True),
        ({"channel": ["pos"], "card_country": ["FR"]}, {"channel": "pos", "card_country": "DE"}, False),
        ({"amount_at_least": 700}, {}, True),
        ({"amount_at_least": 701}, {}, False),
        ({"amount_below": 701}, {}, True),
        ({"amount_below": 700}, {}, False),
        ({"channel": ["pos"], "amount_below": 701}, {}, False),
    ],
)
def test_a_segment_applies_when_all_its_conditions_hold(when: Json, fields: dict[str, str], matches: bool) -> None:  # noqa: FBT001 - an expected value
    """Each condition must hold; a list holds where it contains the transaction's value, and absence is in no list."""
    rules = thresholds(document(segments=[{"name": "special", "when": when}]))
    ruling = rules.decide(probability=0.3, amount_minor=700, transaction=transaction(**fields))
    assert ruling == (Ruling(APPROVE, "special") if matches else Ruling(REVIEW, "default"))


def test_the_first_matching_segment_replaces_the_default_whole() -> None:
    """Segments are tried in order; the first that applies decides alone, without the default's levels."""
    rules = thresholds(
        document(
            default={"decline_at": {"probability": 0.1}},
            segments=[
                {"name": "pos", "when": {"channel": ["pos"]}, "review_at": {"probability": 0.9}},
                {"name": "large", "when": {"amount_at_least": 100}, "decline_at": {"probability": 0.3}},
            ],
        )
    )

    def decide(channel: str, amount_minor: int) -> Ruling:
        return rules.decide(probability=0.5, amount_minor=amount_minor, transaction=transaction(channel=channel))

    assert decide("pos", 1000) == Ruling(APPROVE, "pos")
    assert decide("atm", 1000) == Ruling(DECLINE, "large")
    assert decide("atm", 99) == Ruling(DECLINE, "default")


@pytest.mark.parametrize(
    ("amount_minor", "decision"), [(0, APPROVE), (4999, APPROVE), (5000, DECLINE), (10**12, DECLINE), (None, DECLINE)]
)
def test_what_could_not_be_scored_gets_the_fallback(amount_minor: int | None, decision: Decision) -> None:
    """Without a probability small amounts are approved and the rest, as well as unknown amounts, get the fallback."""
    rules = thresholds(
        document(
            segments=[{"name": "all", "when": {"amount_at_least": 0}}],
            fallback={"decision": "decline", "approve_below_amount": 5000},
        )
    )
    ruling = rules.decide(probability=None, amount_minor=amount_minor, transaction=ECOMMERCE)
    assert ruling == Ruling(decision, "fallback")


def test_a_fallback_without_a_cap_approves_nothing_by_amount() -> None:
    """Where no amount is given the fallback's decision stands for every amount."""
    rules = thresholds(document(fallback={"decision": "review"}))
    assert rules.decide(probability=None, amount_minor=0, transaction=ECOMMERCE).decision is REVIEW


@pytest.mark.parametrize("probability", [math.nan, -0.1, 1.1, math.inf])
def test_a_number_that_is_no_probability_is_never_decided_on(probability: float) -> None:
    """NaN compares false with every bound and would be approved; it is a programmer's error instead."""
    with pytest.raises(AssertionError):
        thresholds(document()).decide(probability=probability, amount_minor=0, transaction=ECOMMERCE)


# Everything above once more, on documents that nobody thought of.

AMOUNTS = st.integers(0, 10**6)
PROBABILITIES = st.floats(0, 1, width=32)
CHANNELS = st.sampled_from([*Channel, None])
THREE_DS = st.sampled_from([*ThreeDS, None])
ENTRY_MODES = st.sampled_from([*EntryMode, None])


@st.composite
def levels(draw: st.DrawFn) -> Json:
    """Levels in order per bound, any of them or of their bounds left out."""
    drawn: dict[str, Json] = {level: {} for level in ("challenge_at", "review_at", "decline_at")}
    for bound, values in (("probability", st.floats(0, 1)), ("expected_loss", st.integers(0, 10**6))):
        for level, value in zip(drawn, sorted(draw(st.tuples(values, values, values))), strict=True):
            if draw(st.booleans()):
                drawn[level][bound] = value
    return {level: bounds for level, bounds in drawn.items() if bounds}


@st.composite
def segments(draw: st.DrawFn) -> list[Json]:
    conditions = st.fixed_dictionaries(
        {"amount_at_least": st.integers(0, 5 * 10**5)},
        optional={
            "channel": st.lists(st.sampled_from([*map(str, Channel)]), min_size=1),
            "three_ds": st.lists(st.sampled_from([*map(str, ThreeDS)]), min_size=1),
            "entry_mode": st.lists(st.sampled_from([*map(str, EntryMode)]), min_size=1),
            "amount_below": st.integers(5 * 10**5 + 1, 10**6),
        },
    )
    drawn = draw(st.lists(st.tuples(conditions, levels()), max_size=3))
    return [{"name": f"segment-{index}", "when": when, **owned} for index, (when, owned) in enumerate(drawn)]


@st.composite
def documents(draw: st.DrawFn) -> Json:
    decision = draw(st.sampled_from(["approve", "challenge", "review", "decline"]))
    return document(
        default=draw(levels()),
        segments=draw(segments()),
        fallback={"decision": decision, "approve_below_amount": draw(AMOUNTS)},
    )


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    fields = {"channel": draw(CHANNELS), "three_ds": draw(THREE_DS), "entry_mode": draw(ENTRY_MODES)}
    return transaction(**{name: str(value) for name, value in fields.items() if value is not None})


def by_the_book(source: Json, probability: float | None, amount_minor: int, subject: Transaction) -> tuple[str, str]:
    """The rules of docs/thresholds.md once more, from the raw document and in the plainest words."""
    word, name = "approve", "fallback"
    if probability is None:
        if amount_minor >= source["fallback"]["approve_below_amount"]:
            word = source["fallback"]["decision"]
    else:
        default = {"name": "default", "when": {}, **source["default"]}
        owner = next(segment for segment in [*source["segments"], default] if holds(segment, amount_minor, subject))
        name = owner["name"]
        reached = {"probability": probability, "expected_loss": probability * amount_minor}
        for level in ("challenge", "review", "decline"):
            if any(reached[bound] >= at for bound, at in owner.get(f"{level}_at", {}).items()):
                word = level
    if word == "challenge" and subject.three_ds == "authenticated":
        word = "approve"
    elif word == "challenge" and subject.channel != "ecommerce":
        word = "review"
    return word, name


def holds(segment: Json, amount_minor: int, subject: Transaction) -> bool:
    conditions = dict(segment["when"])
    at_least, below = conditions.pop("amount_at_least", 0), conditions.pop("amount_below", math.inf)
    return at_least <= amount_minor < below and all(
        getattr(subject, field) in values for field, values in conditions.items()
    )


@given(source=documents(), probability=PROBABILITIES | st.none(), amount_minor=AMOUNTS, subject=transactions())
def test_every_decision_is_the_one_of_the_rules(
    source: Json, probability: float | None, amount_minor: int, subject: Transaction
) -> None:
    """For any document and transaction the decision and segment are those that a plain reading of the rules gives."""
    ruling = thresholds(source).decide(probability=probability, amount_minor=amount_minor, transaction=subject)
    assert (ruling.decision.word, ruling.segment) == by_the_book(source, probability, amount_minor, subject)


@given(source=documents(), pair=st.tuples(PROBABILITIES, PROBABILITIES), amount_minor=AMOUNTS, subject=transactions())
def test_severity_never_falls_as_the_probability_rises(
    source: Json, pair: tuple[float, float], amount_minor: int, subject: Transaction
) -> None:
    """The riskier of two otherwise equal transactions is never treated more mildly."""
    rules = thresholds(source)
    milder, severer = (
        rules.decide(probability=probability, amount_minor=amount_minor, transaction=subject)
        for probability in sorted(pair)
    )
    assert milder.decision <= severer.decision


@given(
    source=documents(),
    probability=PROBABILITIES | st.none(),
    pair=st.tuples(AMOUNTS, AMOUNTS),
    subject=transactions(),
)
def test_severity_never_falls_as_the_amount_rises_within_a_segment(
    source: Json, probability: float | None, pair: tuple[int, int], subject: Transaction
) -> None:
    """The larger of two otherwise equal transactions of a segment is never treated more mildly."""
    rules = thresholds(source)
    smaller, larger = (
        rules.decide(probability=probability, amount_minor=amount_minor, transaction=subject)
        for amount_minor in sorted(pair)
    )
    assume(smaller.segment == larger.segment)
    assert smaller.decision <= larger.decision


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"currency": "EUR", "default": {"review_at": {}, "review_at": {}}, "fallback": {"decision": "review"}}',
        b'{"currency": "EUR", "default": {"review_at": {"probability": NaN}}, "fallback": {"decision": "review"}}',
        b"[" * 100_000,
        b"9" * 5_000,
    ],
    ids=["empty", "cut off", "not UTF-8", "a key twice", "NaN", "too deep", "too long a number"],
)
def test_text_that_is_not_strict_json_is_refused(text: bytes) -> None:
    """A document's text must be JSON, without the key given twice that a parser would silently drop."""
    with pytest.raises(ThresholdsInvalid, match="JSON"):
        parse_thresholds_json(text, base_currency="EUR")
