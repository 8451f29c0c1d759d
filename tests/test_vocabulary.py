import pycountry
import pytest

from service.vocabulary import COUNTRIES, CURRENCIES, minor_unit_exponent


def test_countries_are_those_of_iso_3166() -> None:
    """Our country codes are exactly the alpha-2 codes of ISO 3166-1."""
    assert {country.alpha_2 for country in pycountry.countries} == COUNTRIES


def test_currencies_are_those_of_iso_4217() -> None:
    """Our currency codes are exactly those of ISO 4217."""
    assert {currency.alpha_3 for currency in pycountry.currencies} == CURRENCIES


@pytest.mark.parametrize(
    ("places", "currencies"),
    [
        (0, ["JPY", "KRW", "ISK", "CLP", "UGX", "VND", "XAF"]),
        (2, ["EUR", "USD", "GBP", "HUF", "IDR", "MRU", "SLE"]),
        (3, ["KWD", "BHD", "TND", "IQD", "JOD", "LYD", "OMR"]),
        (4, ["CLF", "UYW"]),
    ],
)
def test_minor_units_have_the_decimal_places_of_iso_4217(places: int, currencies: list[str]) -> None:
    """A currency's minor unit has as many decimal places as ISO 4217 says."""
    assert {minor_unit_exponent(currency) for currency in currencies} == {places}
