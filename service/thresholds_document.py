"""The thresholds document as analysts write it: its shape, its ranges, every fault in it.

Money is in minor units of the document's currency. A key that is not described here is refused.
"""

import json
import math
import re
from collections.abc import Container, Iterator, Mapping
from typing import Annotated, Literal, Never

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from service.errors import Fault, ThresholdsInvalid
from service.faults import reason
from service.transaction import MAX_AMOUNT_MINOR, Country, Currency, Token
from service.vocabulary import Channel, EntryMode, ThreeDS

DEFAULT_SEGMENT = "default"
FALLBACK_SEGMENT = "fallback"

_MAX_SEGMENTS = 200  # tried in order for every transaction
_MAX_VALUES = 10_000  # of one condition; a set, so only memory grows with it
_LEVELS = ("challenge_at", "review_at", "decline_at")  # mildest first
_BOUNDS = ("probability", "expected_loss")
_PLAIN_KEY = re.compile(r"[a-z_]{1,40}")  # safe to repeat: what stands in the place of a key may be a value


def read_document(document: object, *, base_currency: str) -> "ThresholdsDocument":
    """Check a parsed JSON document whole.

    Raises:
        ThresholdsInvalid: carries every fault, each with its JSON pointer (RFC 6901) and what was expected.
    """
    faults = [*_consistency_faults(document, base_currency)]
    try:
        read = ThresholdsDocument.model_validate(document)
    except ValidationError as error:
        shape_faults = [_fault(detail) for detail in error.errors(include_url=False, include_input=False)]
        raise ThresholdsInvalid([*shape_faults, *faults]) from None
    if faults:
        raise ThresholdsInvalid(faults)
    return read


def load_json(text: bytes | str) -> JsonValue:
    """Parse JSON without its traps: in a document about money no key may stand twice, and NaN is no number.

    Raises:
        JSONDecodeError: not JSON, or one of the traps.
    """
    parsed: JsonValue = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_no_number)
    return parsed


def _without_repetition(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise json.JSONDecodeError("a key stands twice in one object", "", 0)
    return unique


def _no_number(constant: str) -> Never:
    raise json.JSONDecodeError(f"{constant} is not JSON", "", 0)


class _Part(BaseModel):
    """One object of the document: strict types, known keys only, never changed after reading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


_Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]  # minor units of the document's currency


class Level(_Part):
    """What triggers a decision: any one of its bounds being reached."""

    probability: float | None = Field(None, ge=0, le=1, description="Reached from this probability of fraud on.")
    expected_loss: _Amount | None = Field(None, description="Reached from this probability x amount on.")


class Levels(_Part):
    """The three levels; the severest that is triggered decides, an omitted one never triggers."""

    challenge_at: Level | None = None
    review_at: Level | None = None
    decline_at: Level | None = None


_MerchantCategoryCode = Annotated[str, Field(pattern=r"^[0-9]{4}$")]
_AnyOf = Field(min_length=1, max_length=_MAX_VALUES)
_Word = Field(strict=False)  # an enumeration's word arrives as a string


class Conditions(_Part):
    """When a segment applies: every condition given must hold, a list by containing the transaction's value.

    A field that the transaction does not carry matches no list. Amounts are in the document's currency,
    after conversion; `currency` is the currency of the request.
    """

    channel: Annotated[list[Annotated[Channel, _Word]], _AnyOf] | None = None
    merchant_country: Annotated[list[Country], _AnyOf] | None = None
    card_country: Annotated[list[Country], _AnyOf] | None = None
    merchant_category_code: Annotated[list[_MerchantCategoryCode], _AnyOf] | None = None
    merchant_id: Annotated[list[Token], _AnyOf] | None = None
    currency: Annotated[list[Currency], _AnyOf] | None = None
    entry_mode: Annotated[list[Annotated[EntryMode, _Word]], _AnyOf] | None = None
    three_ds: Annotated[list[Annotated[ThreeDS, _Word]], _AnyOf] | None = None
    amount_at_least: _Amount | None = None
    amount_below: _Amount | None = None


class Segment(Levels):
    """Levels of its own for the transactions it applies to; they replace the default's whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Unique; named in every response.")
    when: Conditions


class Fallback(_Part):
    """What is decided about a transaction that could not be scored."""

    decision: Literal["approve", "challenge", "review", "decline"]
    approve_below_amount: _Amount | None = Field(None, description="Below it approve, whatever `decision` says.")


class ThresholdsDocument(_Part):
    """Turns a probability into a decision. Validated whole, replaced whole."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "currency": "EUR",
                "default": {
                    "challenge_at": {"probability": 0.05, "expected_loss": 500},
                    "review_at": {"probability": 0.2, "expected_loss": 5000},
                    "decline_at": {"probability": 0.6},
                },
                "segments": [
                    {
                        "name": "ecommerce-large",
                        "when": {"channel": ["ecommerce"], "amount_at_least": 50000},
                        "review_at": {"probability": 0.1},
                        "decline_at": {"probability": 0.4},
                    }
                ],
                "fallback": {"decision": "review", "approve_below_amount": 5000},
            }
        }
    )

    currency: str = Field(description="The bundle's base currency (ISO 4217); all money here is in its minor units.")
    default: Levels
    segments: list[Segment] = Field(default=[], max_length=_MAX_SEGMENTS, description="Tried in order.")
    fallback: Fallback


def _consistency_faults(document: object, base_currency: str) -> Iterator[Fault]:
    """What no single field can know. Reads the raw document, so that a fault elsewhere hides none of these."""
    currency = _at(document, "currency")
    if isinstance(currency, str) and currency != base_currency:
        yield Fault("/currency", f"{base_currency}, the base currency of the model's bundle")
    yield from _order_faults("/default", _at(document, "default"))
    segments = _at(document, "segments")
    names: set[str] = set()
    for index, segment in enumerate(segments if isinstance(segments, list) else []):
        path = f"/segments/{index}"
        yield from _order_faults(path, segment)
        yield from _condition_faults(f"{path}/when", _at(segment, "when"))
        name = _at(segment, "name")
        if isinstance(name, str):
            yield from _name_faults(f"{path}/name", name, earlier=names)
            names.add(name)


def _order_faults(path: str, levels: object) -> Iterator[Fault]:
    """Per bound, a severer level must not be easier to reach than a milder one."""
    for bound in _BOUNDS:
        highest: tuple[int | float, str] = (-math.inf, "")
        for level in _LEVELS:
            value = _number(_at(levels, level, bound))
            if value is None:
                continue
            if value < highest[0]:
                yield Fault(f"{path}/{level}/{bound}", f"at least that of {highest[1]}, which is milder")
            else:
                highest = (value, level)


def _condition_faults(path: str, when: object) -> Iterator[Fault]:
    if isinstance(when, Mapping) and all(condition is None for condition in when.values()):
        yield Fault(path, "at least one condition; levels for all the rest belong in default")
    at_least, below = _number(_at(when, "amount_at_least")), _number(_at(when, "amount_below"))
    if at_least is not None and below is not None and at_least >= below:
        yield Fault(f"{path}/amount_below", "more than amount_at_least, or nothing can match")


def _name_faults(path: str, name: str, *, earlier: Container[str]) -> Iterator[Fault]:
    if name in {DEFAULT_SEGMENT, FALLBACK_SEGMENT}:
        yield Fault(path, f"another name than {DEFAULT_SEGMENT} and {FALLBACK_SEGMENT}, which are taken")
    if name in earlier:
        yield Fault(path, "a name that no earlier segment has")


def _at(part: object, *keys: str) -> object:
    """The value under a path of keys, or None where any of it is missing or no object."""
    for key in keys:
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def _number(value: object) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fault(found: ErrorDetails) -> Fault:
    """One of pydantic's errors as where and what was expected, without the value."""
    location = found["loc"]
    if found["type"] in {"extra_forbidden", "invalid_key"}:
        key = str(location[-1])
        if _PLAIN_KEY.fullmatch(key):
            return Fault(_pointer(location), "unknown")
        return Fault(_pointer(location[:-1]), "only the keys this object has")
    return Fault(_pointer(location), reason(found))


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join(f"/{step}" for step in location)
