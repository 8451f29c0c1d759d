"""Whether a string looks like a payment card's number, which is never accepted, stored, logged or echoed."""

import re
from string import ascii_letters

# ISO/IEC 7812 issuer ranges of the card networks, each with the lengths it issues.
_ISSUED = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|30[0-59][0-9]{11,16}|3[689][0-9]{12,17}"  # Diners Club
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}"  # Discover
    r"|(?:6[0-9]|81|82)[0-9]{14,17}"  # UnionPay, RuPay
    r"|(?:50|5[6-8]|6[0-9])[0-9]{11,17}"  # Maestro
    r"|220[0-4][0-9]{12,15}"  # Mir
    r"|9792[0-9]{12}"  # Troy
    r"|1[0-9]{14}"  # UATP
)
_has_no_letter = frozenset(ascii_letters).isdisjoint
_digits_apart = re.compile(r"[0-9 .:_-]*").fullmatch
_SEPARATORS = str.maketrans("", "", " .:_-")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # digit sum of twice the digit
_SHORTEST, _LONGEST = 13, 19
_IN_TEXT = re.compile(r"(?<![0-9A-Za-z])[0-9](?:[ .:_-]?[0-9]){12,18}(?![0-9A-Za-z])")


def looks_like_card_number(value: str) -> bool:
    """True if the whole value, separators removed, is 13-19 digits of a card network's range with a valid check digit.

    About one in a hundred random 16-digit numbers looks like a card number; tokens with a letter never do.
    """
    if not _has_no_letter(value) or not _digits_apart(value):  # most tokens begin with a letter; no card number has one
        return False
    digits = value.translate(_SEPARATORS)
    if not _SHORTEST <= len(digits) <= _LONGEST:
        return False
    return _ISSUED.fullmatch(digits) is not None and _luhn_valid(digits)


def mask_card_numbers(text: str) -> str:
    """The text with whatever looks like a card number replaced by asterisks; for logs."""
    return _IN_TEXT.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    return "****" if looks_like_card_number(found.group()) else found.group()


def _luhn_valid(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B: the check digit makes the weighted digit sum a multiple of ten."""
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[0::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0
