"""A currency table: what money in any currency is worth in the bundle's base currency, in whole minor units."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from service.errors import BundleInvalid
from service.vocabulary import CURRENCIES, minor_unit_exponent

_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_KEYS = ("as_of", "base", "rates")
# The largest amount a request may carry is 10^12; this keeps its value inside an int64 with room for nine of them.
_MOST_BASE_MINOR_PER_MINOR = 10**6


@dataclass(frozen=True, slots=True)
class CurrencyTable:
    """Rates as they stand in the bundle, ready to convert exactly.

    Attributes:
        base: ISO 4217 code of the currency everything is converted to.
        as_of: the day of the rates, YYYY-MM-DD.
        rates: per currency, the value of one unit of it in units of `base`, as a decimal string.
    """

    base: str
    as_of: str
    rates: Mapping[str, str]
    _ratios: Mapping[str, tuple[int, int]]

    def to_base(self, amount_minor: int, currency: str) -> int | None:
        """Convert minor units of `currency` to minor units of `base`, rounding halves to even.

        Exact: an integer times a ratio of integers, so every machine finds the same value.

        Returns:
            None where the table has no rate for the currency.
        """
        ratio = self._ratios.get(currency)
        if ratio is None:
            return None
        numerator, denominator = ratio
        whole, rest = divmod(amount_minor * numerator, denominator)
        above_half = 2 * rest - denominator
        return whole + 1 if above_half > 0 or (above_half == 0 and whole % 2) else whole

    def as_document(self) -> dict[str, str | dict[str, str]]:
        """The mapping that `parse_currency_table` reads back, with sorted currencies."""
        return {"base": self.base, "as_of": self.as_of, "rates": dict(sorted(self.rates.items()))}


def parse_currency_table(document: object) -> CurrencyTable:
    """Read `{"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "0.86", ...}}`.

    The base has the rate 1 whether it is listed or not.

    Raises:
        BundleInvalid: names everything that is wrong with the table.
    """
    if not isinstance(document, Mapping):
        raise BundleInvalid("currency table: expected an object with the keys as_of, base and rates")
    faults = [*_frame_faults(document), *_rate_faults(document)]
    if faults:
        raise BundleInvalid("currency table: " + "; ".join(faults))
    base: str = document["base"]
    rates: dict[str, str] = {base: "1", **document["rates"]}
    ratios = {currency: _minor_ratio(rate, currency, base) for currency, rate in rates.items()}
    steep = [currency for currency, ratio in ratios.items() if ratio > _MOST_BASE_MINOR_PER_MINOR]
    if steep:
        raise BundleInvalid(
            f"currency table: one minor unit of {', '.join(sorted(steep))} is worth more than "
            f"{_MOST_BASE_MINOR_PER_MINOR} minor units of {base}, more than stored sums can hold"
        )
    return CurrencyTable(
        base=base,
        as_of=document["as_of"],
        rates=MappingProxyType(rates),
        _ratios=MappingProxyType({currency: ratio.as_integer_ratio() for currency, ratio in ratios.items()}),
    )


def _frame_faults(document: Mapping[object, object]) -> list[str]:
    faults = [f"unknown key; expected only {', '.join(_KEYS)}" for key in document if key not in _KEYS][:1]
    base = document.get("base")
    if not isinstance(base, str) or base not in CURRENCIES:
        faults.append("base: expected an ISO 4217 code")
    as_of = document.get("as_of")
    if not isinstance(as_of, str) or not _DATE.fullmatch(as_of):
        faults.append("as_of: expected a quoted date, YYYY-MM-DD")
    return faults


def _rate_faults(document: Mapping[object, object]) -> list[str]:
    rates = document.get("rates")
    if not isinstance(rates, Mapping):
        return ["rates: expected an object of currency codes and rates"]
    faults = []
    for currency, rate in rates.items():
        if not isinstance(currency, str) or currency not in CURRENCIES:
            faults.append("rates: expected ISO 4217 codes as keys")
        elif not isinstance(rate, str) or not _RATE.fullmatch(rate) or Fraction(rate) == 0:
            faults.append(f'rates/{currency}: expected a positive decimal in quotes, such as "0.86"')
        elif currency == document.get("base") and Fraction(rate) != 1:
            faults.append(f"rates/{currency}: expected 1, since it is the base")
    return faults


def _minor_ratio(rate: str, currency: str, base: str) -> Fraction:
    """Base minor units per minor unit of the currency: decimal places differ (JPY 0, EUR 2, KWD 3)."""
    shift = minor_unit_exponent(base) - minor_unit_exponent(currency)
    return Fraction(rate) * Fraction(10) ** shift
