from decimal import Decimal, localcontext
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.currency import CurrencyTable, parse_currency_table
from service.errors import BundleInvalid

RATES = {"USD": "0.86", "JPY": "0.0056", "KWD": "2.8", "GBP": "1.15", "CLF": "36.5"}
DECIMAL_PLACES = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3, "GBP": 2, "CLF": 4}


def table(rates: dict[str, str] | None = None, base: str = "EUR") -> CurrencyTable:
    return parse_currency_table({"base": base, "as_of": "2026-11-01", "rates": RATES if rates is None else rates})


@pytest.mark.parametrize(
    ("amount_minor", "currency", "euro_cents"),
    [
        pytest.param(1234, "EUR", 1234, id="the base is worth itself"),
        pytest.param(10000, "USD", 8600, id="same decimal places"),
        pytest.param(10000, "JPY", 5600, id="10,000 yen have no decimals"),
        pytest.param(10000, "KWD", 2800, id="10 dinars have three"),
        pytest.param(0, "USD", 0, id="nothing"),
        pytest.param(10**12, "JPY", 560_000_000_000, id="the largest amount"),
        pytest.param(100, "THB", None, id="no rate"),
        pytest.param(100, "EURO", None, id="no currency"),
    ],
)
def test_an_amount_is_converted_with_both_currencies_decimal_places(
    amount_minor: int, currency: str, euro_cents: int | None
) -> None:
    """An amount becomes minor units of the base; without a rate it becomes nothing at all."""
    assert table().to_base(amount_minor, currency) == euro_cents


@pytest.mark.parametrize(("amount_minor", "euro_cents"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4)])
def test_halves_round_to_even(amount_minor: int, euro_cents: int) -> None:
    """Exactly half a minor unit goes to the even neighbour, so sums do not drift."""
    assert table({"USD": "0.5"}).to_base(amount_minor, "USD") == euro_cents


@given(
    amount_minor=st.integers(0, 10**12),
    rate=st.decimals(min_value=Decimal("1e-12"), max_value=999, places=12).filter(lambda rate: rate > 0),
    currency=st.sampled_from(sorted(RATES)),
)
def test_conversion_equals_decimal_arithmetic(amount_minor: int, rate: Decimal, currency: str) -> None:
    """For any amount and rate the result is the one that arbitrary-precision decimals give."""
    with localcontext() as context:
        context.prec = 60
        shift = DECIMAL_PLACES["EUR"] - DECIMAL_PLACES[currency]
        exact = (amount_minor * rate).scaleb(shift)
        expected = int(exact.to_integral_value("ROUND_HALF_EVEN"))
    assert table({currency: f"{rate:f}"}).to_base(amount_minor, currency) == expected


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "expected an object"),
        ({"base": "EUR", "as_of": "2026-11-01"}, "rates"),
        ({"base": "XEU", "as_of": "2026-11-01", "rates": {}}, "base"),
        ({"base": "EUR", "as_of": "yesterday", "rates": {}}, "as_of"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {}, "source": "x"}, "unknown key"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": 0.86}}, "rates/USD"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "0"}}, "rates/USD"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "-1"}}, "rates/USD"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "1e3"}}, "rates/USD"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"USD": "٣"}}, "rates/USD"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"usd": "1"}}, "ISO 4217"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"EUR": "2"}}, "rates/EUR"),
        ({"base": "EUR", "as_of": "2026-11-01", "rates": {"JPY": "99999"}}, "JPY"),
    ],
)
def test_a_faulty_table_is_refused_with_what_is_wrong(document: object, named: str) -> None:
    """A table that cannot be trusted is refused, naming the place."""
    with pytest.raises(BundleInvalid, match=named):
        parse_currency_table(document)


def test_a_table_reads_back_what_it_writes() -> None:
    """A table survives being written into a bundle."""
    written = table()
    read = parse_currency_table(written.as_document())
    assert read == written


def test_the_example_rates_cover_the_major_currencies() -> None:
    """The rates that training ships are a valid table with the euro as base and at least 35 currencies."""
    path = Path(__file__).parents[1] / "training" / "configs" / "currencies.yaml"
    shipped = parse_currency_table(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert shipped.base == "EUR"
    assert len(shipped.rates) >= 35
    assert shipped.rates.keys() >= {"USD", "GBP", "JPY", "CHF", "CNY", "INR", "BRL", "AUD", "CAD", "KWD"}
