import json
import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ThresholdsInvalid
from service.thresholds_document import Conditions, ThresholdsDocument, read_document
from service.transaction import Transaction
from tests.thresholds.documents import Json, document

COMPLETE: Json = {
    "currency": "EUR",
    "default": {
        "challenge_at": {"probability": 0.05, "expected_loss": 500},
        "review_at": {"probability": 0.2, "expected_loss": 5000},
        "decline_at": {"probability": 0.6, "expected_loss": 50000},
    },
    "segments": [
        {
            "name": "everything-at-once",
            "when": {
                "channel": ["ecommerce", "moto"],
                "merchant_country": ["FR", "DE"],
                "card_country": ["US"],
                "merchant_category_code": ["5411", "0742"],
                "merchant_id": ["merchant-1", "shop:2"],
                "currency": ["EUR", "USD"],
                "entry_mode": ["keyed"],
                "three_ds": ["failed", "not_used"],
                "amount_at_least": 100,
                "amount_below": 50000,
            },
            "decline_at": {"probability": 0.4},
        },
        {"name": "small", "when": {"amount_below": 300}},
    ],
    "fallback": {"decision": "review", "approve_below_amount": 5000},
}


def faults_of(source: object) -> dict[str, str]:
    """Path to reason; {} if the document is accepted."""
    try:
        read_document(source, base_currency="EUR")
    except ThresholdsInvalid as error:
        return {fault.path: fault.reason for fault in error.faults}
    return {}


def changed(path: str, value: object) -> Json:
    """The complete document with one value put, by its pointer."""
    source = deepcopy(COMPLETE)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")[1:]]
    part: object = source
    for step in parents:
        part = part[step]  # type: ignore[index]
    part[last] = value  # type: ignore[index]
    return source


def test_a_complete_document_reads_as_written() -> None:
    """Every key this version describes is accepted, and nothing of what the author wrote is lost."""
    read = read_document(COMPLETE, base_currency="EUR")
    assert read.model_dump(mode="json", exclude_unset=True) == COMPLETE


def test_the_documented_example_is_valid() -> None:
    """The example of the schema, shown to whoever opens the API's documentation, is a document."""
    example = ThresholdsDocument.model_json_schema()["example"]
    assert faults_of(example) == {}


def test_each_condition_is_a_field_of_a_transaction() -> None:
    """A segment's lists are looked up in the transaction by name, so the names must be its own."""
    assert Conditions.model_fields.keys() - {"amount_at_least", "amount_below"} <= set(Transaction.__struct_fields__)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("/currency", "USD", "EUR, the base currency of the model's bundle"),
        ("/currency", 978, "a valid string"),
        ("/block", ["cards-blocked"], "unknown"),
        ("/guardrail", {}, "unknown"),
        ("/default", None, "an object"),
        ("/default/approve_at", {"probability": 0.1}, "unknown"),
        ("/default/review_at", 0.2, "an object"),
        ("/default/review_at/confidence", 0.2, "unknown"),
        ("/default/review_at/probability", "0.2", "a valid number"),
        ("/default/review_at/probability", True, "a valid number"),
        ("/default/decline_at/probability", 1.01, "less than or equal to 1"),
        ("/default/challenge_at/probability", -0.01, "greater than or equal to 0"),
        ("/default/review_at/probability", math.nan, "a finite number"),
        ("/default/review_at/expected_loss", 5000.0, "a valid integer"),
        ("/default/review_at/expected_loss", True, "a valid integer"),
        ("/default/decline_at/expected_loss", 10**12 + 1, "less than or equal to 1000000000000"),
        ("/default/review_at/probability", 0.61, None),
        ("/segments", {}, "a valid list"),
        ("/segments/0", "x", "an object"),
        ("/segments/0/name", "", "a string matching ^[A-Za-z0-9._-]{1,64}$"),
        ("/segments/0/name", "with space", "a string matching ^[A-Za-z0-9._-]{1,64}$"),
        ("/segments/0/name", "default", "another name than default and fallback, which are taken"),
        ("/segments/0/name", "fallback", "another name than default and fallback, which are taken"),
        ("/segments/1/name", "everything-at-once", "a name that no earlier segment has"),
        ("/segments/0/when", {}, "at least one condition; levels for all the rest belong in default"),
        ("/segments/0/when", {"channel": None}, "at least one condition; levels for all the rest belong in default"),
        ("/segments/0/when/probability", 0.5, "unknown"),
        ("/segments/0/when/channel", "ecommerce", "a valid list"),
        ("/segments/0/when/channel", [], "a list of at least 1"),
        ("/segments/0/when/channel/1", "online", "'ecommerce', 'pos', 'atm', 'moto' or 'recurring'"),
        ("/segments/0/when/entry_mode/0", 5, None),
        ("/segments/0/when/three_ds/1", "AUTHENTICATED", None),
        ("/segments/0/when/merchant_country/0", "UK", "an ISO 3166-1 alpha-2 country code"),
        ("/segments/0/when/card_country/0", "us", "an ISO 3166-1 alpha-2 country code"),
        ("/segments/0/when/currency/0", "BTC", "an ISO 4217 currency code"),
        ("/segments/0/when/merchant_category_code/0", "٥٤١١", "a string matching ^[0-9]{4}$"),
        ("/segments/0/when/merchant_category_code/0", 5411, "a valid string"),
        ("/segments/0/when/merchant_id/0", "a b", "a string matching ^[A-Za-z0-9._:-]{1,64}$"),
        ("/segments/0/when/merchant_id", ["m"] * 10_001, "a list of at most 10000"),
        ("/segments/0/when/amount_at_least", -1, "greater than or equal to 0"),
        ("/segments/0/when/amount_below", 100, "more than amount_at_least, or nothing can match"),
        ("/segments/0/decline_at/probability", "high", "a valid number"),
        ("/fallback", {}, None),
        ("/fallback/decision", "block", "'approve', 'challenge', 'review' or 'decline'"),
        ("/fallback/decision", None, "'approve', 'challenge', 'review' or 'decline'"),
        ("/fallback/approve_below_amount", 50.5, "a valid integer"),
    ],
)
def test_each_fault_is_found_where_it_is(path: str, value: object, reason: str | None) -> None:
    """One wrong value gives one fault, at its place, saying what was expected there."""
    found = faults_of(changed(path, value))
    assert len(found) == 1
    if reason is not None:
        assert found == {path: reason}


@pytest.mark.parametrize("key", ["currency", "default", "fallback"])
def test_what_must_not_be_left_to_chance_is_required(key: str) -> None:
    """Without currency, default or fallback there is no document."""
    source = deepcopy(COMPLETE)
    del source[key]
    assert faults_of(source) == {f"/{key}": "required"}


@pytest.mark.parametrize("source", [None, [], "review", 3])
def test_what_is_no_object_is_no_document(source: object) -> None:
    """The root must be an object; the root's pointer is empty."""
    assert faults_of(source) == {"": "an object"}


def test_all_faults_are_found_at_once() -> None:
    """Faults of shape, range, order, names and currency are reported together, so one round of mending is enough."""
    source = document(
        default={
            "challenge_at": {"probability": 0.6, "expected_loss": 900},
            "review_at": {"probability": 0.3, "expected_loss": "many"},
            "decline_at": {"probability": 0.5, "expected_loss": 800},
            "allow_at": {},
        },
        segments=[
            {"name": "twice", "when": {"channel": ["shop"]}},
            {"name": "twice", "when": {"amount_at_least": 10, "amount_below": 10}},
            {"when": {"currency": ["EUR"]}, "review_at": {"probability": 0.2}, "decline_at": {"probability": 0.1}},
        ],
        fallback={"decision": "maybe"},
    )
    source["currency"] = "USD"
    assert faults_of(source).keys() == {
        "/currency",
        "/default/allow_at",
        "/default/review_at/expected_loss",
        "/default/review_at/probability",
        "/default/decline_at/probability",
        "/default/decline_at/expected_loss",
        "/segments/0/when/channel/0",
        "/segments/1/name",
        "/segments/1/when/amount_below",
        "/segments/2/name",
        "/segments/2/decline_at/probability",
        "/fallback/decision",
    }


@given(
    bounds=st.lists(st.none() | st.integers(0, 4), min_size=3, max_size=3),
    bound=st.sampled_from(["probability", "expected_loss"]),
    in_segment=st.booleans(),
)
def test_levels_are_accepted_exactly_when_they_are_in_order(
    bounds: list[int | None], bound: str, *, in_segment: bool
) -> None:
    """Per bound, and leaving out what is omitted: challenge_at <= review_at <= decline_at."""
    names = ("challenge_at", "review_at", "decline_at")
    levels: Json = {
        name: {bound: at / 4 if bound == "probability" else at}
        for name, at in zip(names, bounds, strict=True)
        if at is not None
    }
    segment = {"name": "s", "when": {"channel": ["pos"]}, **levels}
    source = document(segments=[segment]) if in_segment else document(default=levels)
    given_bounds = [at for at in bounds if at is not None]
    in_order = all(milder <= severer for milder, severer in pairwise(given_bounds))
    assert (faults_of(source) == {}) is in_order


@pytest.mark.parametrize(
    "place",
    [
        "/currency",
        "/default/review_at/probability",
        "/segments/0/name",
        "/segments/0/when/channel/0",
        "/segments/0/when/merchant_id/0",
        "/segments/0/when/4111111111111111",
        "/fallback/decision",
    ],
)
@pytest.mark.parametrize("secret", ["4111111111111111 ", "<script>", "\ud800", "\x00", {"4111111111111111": 1}])
def test_no_fault_repeats_what_was_sent(place: str, secret: object) -> None:
    """Faults travel to logs and screens, so neither a value nor a key that might be one is in them."""
    found = json.dumps(faults_of(changed(place, secret)))
    assert found != "{}"
    assert "4111111111111111" not in found
    assert "script" not in found
    assert "\\u0000" not in found
    assert "\\ud800" not in found


def test_the_document_shown_in_the_documentation_is_valid() -> None:
    """Who copies the document from docs/thresholds.md can publish it."""
    page = (Path(__file__).parents[2] / "docs" / "thresholds.md").read_text(encoding="utf-8")
    shown = page.split("```json\n")[1].split("```")[0]
    assert faults_of(json.loads(shown)) == {}


def test_every_condition_is_documented() -> None:
    """Each condition that a segment may have is named in docs/thresholds.md."""
    page = (Path(__file__).parents[2] / "docs" / "thresholds.md").read_text(encoding="utf-8")
    assert [condition for condition in Conditions.model_fields if f"`{condition}`" not in page] == []
