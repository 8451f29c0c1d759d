"""What pydantic found wrong, in our words and without what was sent."""

import re

from pydantic_core import ErrorDetails

_PLAIN = re.compile(r"[A-Za-z_]{1,40}")


def reason(found: ErrorDetails) -> str:
    """What was expected, as the rest of a sentence that begins with the field."""
    match found["type"]:
        case "missing":
            return "required"
        case "extra_forbidden":
            return "unknown"
        case "model_type":
            return "an object"
        case "too_short":
            return f"a list of at least {found['ctx']['min_length']}"
        case "too_long":
            return f"a list of at most {found['ctx']['max_length']}"
        case "string_pattern_mismatch":
            return f"a string matching {found['ctx']['pattern']}"
        case "json_invalid":
            return f"JSON: {found['ctx']['error']}"
        case _:
            return found["msg"].removeprefix("Input should be ")


def plain_name(name: str) -> str:
    """A name that is safe to repeat to whoever sent it: what is not plain letters may be a value in the wrong place."""
    return name if _PLAIN.fullmatch(name) else "(a name not repeated)"
