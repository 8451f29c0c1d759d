"""The short way from JSON to a value: what surely follows a contract is decoded without pydantic, all else with it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import getitem
from types import NoneType, UnionType
from typing import Annotated, Generic, Literal, Optional, TypeVar, Union, cast, get_args, get_origin

from annotated_types import Ge, Le
from msgspec import Meta, Struct, defstruct, json
from msgspec.structs import astuple
from pydantic import AfterValidator, BaseModel, BeforeValidator, GetCoreSchemaHandler, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

Value = TypeVar("Value")
Function = Callable[[object], object]

_PLAIN = "[A-Za-z0-9._:-]"
_PLAIN_BYTES = "".join(filter(re.compile(_PLAIN).match, map(chr, range(128)))).encode()
_PLAIN_TEXT = re.compile(rf"\^{re.escape(_PLAIN)}\{{(?P<least>[0-9]+),(?P<most>[0-9]+)\}}\$")
_SPACES = (b" ", b"\n", b"\r", b"\t")


@dataclass(frozen=True, slots=True)
class OneOf:
    """Says of a text, to pydantic and to the decoder, that it is one of these words."""

    words: frozenset[str]
    error: str  # its name
    expected: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, word: str) -> str:
        if word not in self.words:
            raise PydanticCustomError(self.error, self.expected)
        return word


class Decoder(Generic[Value]):
    """Takes what a flat, strict model of pydantic's accepts beyond doubt.

    It is made of what the model says, and pydantic has the last word: whatever is not taken here is for it to read, or
    to refuse with reasons. Types, words, lengths and ranges are checked while the JSON is parsed, the letters of all
    texts at once in the body; the model's own functions are called as pydantic calls them.
    """

    def __init__(self, model: type[BaseModel], value: Callable[..., Value]) -> None:
        """A decoder of one model.

        Args:
            model: the contract.
            value: is given the values of its fields in their order, None where a body has none.

        Raises:
            TypeError: the model says something of a field that is not known here.
        """
        config = model.model_config
        assert (config.get("strict"), config.get("extra")) == (True, "forbid"), config
        fields = [_field(name, info) for name, info in model.model_fields.items()]
        self._value = value
        self._parse = json.Decoder(_shape(model.__name__, fields)).decode
        self._patterns = [(place, it.pattern.fullmatch) for place, it in enumerate(fields) if it.pattern is not None]
        self._functions = [(place, it.function) for place, it in enumerate(fields) if it.function is not None]

    def decode(self, body: bytes) -> Value | None:
        """The value of a body, or None where pydantic is to say whether it has one."""
        try:
            values = [*astuple(self._parse(body))]
            given = len(values) - values.count(None)
            if not _is_plain(body, given) and not self._is_nearly_plain(body, values):
                return None
            for place, match in self._patterns:
                if (text := values[place]) is not None and match(text) is None:
                    return None
            for place, function in self._functions:
                if (text := values[place]) is not None:
                    values[place] = function(text)
        except ValueError:  # of the parser or a function
            return None
        return self._value(*values)

    def _is_nearly_plain(self, body: bytes, values: Sequence[object]) -> bool:
        """Whether a body is plain but for nulls, and plus signs in what a function judges: in the offset of a time."""
        members = len(json.decode(body))
        signs = sum(str(values[place]).count("+") for place, _ in self._functions)
        return _is_plain(body.replace(b"+", b"") if body.count(b"+") == signs else body, members)


def _is_plain(body: bytes, members: int) -> bool:
    """Whether all texts of a JSON object are made of plain letters, and no more members stand in it than were found.

    Once these letters are gone, a plain text is a pair of quotation marks. If nothing else is left but the braces, a
    comma less than there are members, and space, then no text held anything more and the parser dropped no member.

    Args:
        body: an object that is well formed and holds no other.
        members: how many of them the parser found, at most all.
    """
    rest = body.translate(None, _PLAIN_BYTES)
    others = len(rest) - 2 * rest.count(b'""')
    return others == members + 1 or others - sum(map(rest.count, _SPACES)) == members + 1


@dataclass(frozen=True, slots=True)
class _Field:
    """What a model says of a field.

    Attributes:
        name: of its value.
        key: its name in JSON.
        form: what the parser is to find there.
        required: whether it has to.
        pattern: what the text has to match, where being plain and of some length is not all.
        function: makes the value of what was found.
    """

    name: str
    key: str
    form: object
    required: bool
    pattern: re.Pattern[str] | None
    function: Function | None


def _field(name: str, info: FieldInfo) -> _Field:
    """Translate what pydantic knows of a field."""
    form, facts = _unfold(info.annotation, info.metadata)
    pattern: re.Pattern[str] | None = None
    function: Function | None = None
    for fact in facts:
        match fact:
            case Ge(ge=int() | float() as least):
                form = getitem(Annotated, (form, Meta(ge=least)))
            case Le(le=int() | float() as most):
                form = getitem(Annotated, (form, Meta(le=most)))
            case OneOf(words=words):
                form = getitem(Literal, tuple(words))
            case BeforeValidator(func=before) if function is None:
                form, function = str, cast("Function", before)  # whatever else it may take is left to pydantic
            case AfterValidator(func=after) if function is None:
                function = cast("Function", after)
            case WithJsonSchema():
                pass
            case _ if plain := _PLAIN_TEXT.fullmatch(_pattern(fact)):
                lengths = Meta(min_length=int(plain["least"]), max_length=int(plain["most"]))
                form = getitem(Annotated, (form, lengths))
            case _ if _pattern(fact) and pattern is None:
                pattern = re.compile(_pattern(fact))
            case _:
                raise TypeError(f"{name}: {fact!r} is not known to the decoder")
    if NoneType in get_args(info.annotation):
        form = getitem(Optional, form)
    return _Field(name, info.alias or name, form, info.is_required(), pattern, function)


def _unfold(annotation: object, facts: Sequence[object]) -> tuple[object, list[object]]:
    """The bare type inside an annotation, None left out, and all that is said about it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _unfold(inner, [*more, *facts])
    if get_origin(annotation) in {Union, UnionType}:
        (inner,) = set(get_args(annotation)) - {NoneType}
        return _unfold(inner, facts)
    return annotation, [it for fact in facts for it in (fact.metadata if isinstance(fact, FieldInfo) else [fact])]


def _pattern(fact: object) -> str:
    """Of a fact about a text's letters; empty of any other."""
    return str(getattr(fact, "pattern", ""))


def _shape(name: str, fields: Sequence[_Field]) -> type[Struct]:
    """What the parser fills."""
    return defstruct(
        name,
        [(it.name, it.form) if it.required else (it.name, it.form, None) for it in fields],
        rename={it.name: it.key for it in fields},
        forbid_unknown_fields=True,
    )
