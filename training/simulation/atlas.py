"""What the simulator knows about the earth: countries, cities, merchant categories, the rhythm of a week.

Figures are rounded and only have to be plausible: nothing here is an estimate of a real portfolio. Exchange rates are
round numbers of mid 2025; the service converts with its own table.
"""

from typing import NamedTuple

from service.vocabulary import Channel


class Country(NamedTuple):
    """A country in which cards live and merchants sell."""

    code: str
    currency: str
    units_per_euro: float
    magstripe_share: float
    """Share of honest card-present payments that still swipe the stripe."""
    asks_three_ds: bool
    """Whether strong authentication is the rule for its cards online."""
    checks_address: bool


class City(NamedTuple):
    """A place where cards live; people is its weight, in millions."""

    name: str
    country: str
    latitude: float
    longitude: float
    utc_offset_hours: float
    people: float


class Category(NamedTuple):
    """A merchant category: its code (ISO 18245), how it is paid, and what a payment there is worth."""

    name: str
    code: str
    channel: Channel
    median_eur: float
    spread: float
    """Standard deviation of the logarithm of one merchant's amounts."""
    weight: float
    """Share among the categories of the same reach (see `LOCAL` and `REMOTE`)."""
    ships: bool = False
    """Whether something is sent to an address."""


COUNTRIES = (
    Country("AU", "AUD", 1.75, 0.010, asks_three_ds=False, checks_address=False),
    Country("BE", "EUR", 1.0, 0.003, asks_three_ds=True, checks_address=False),
    Country("BR", "BRL", 6.4, 0.040, asks_three_ds=False, checks_address=False),
    Country("CA", "CAD", 1.55, 0.020, asks_three_ds=False, checks_address=True),
    Country("CH", "CHF", 0.94, 0.004, asks_three_ds=True, checks_address=False),
    Country("CZ", "CZK", 25.0, 0.003, asks_three_ds=True, checks_address=False),
    Country("DE", "EUR", 1.0, 0.005, asks_three_ds=True, checks_address=False),
    Country("DK", "DKK", 7.46, 0.003, asks_three_ds=True, checks_address=False),
    Country("ES", "EUR", 1.0, 0.005, asks_three_ds=True, checks_address=False),
    Country("FR", "EUR", 1.0, 0.003, asks_three_ds=True, checks_address=False),
    Country("GB", "GBP", 0.86, 0.004, asks_three_ds=True, checks_address=True),
    Country("IE", "EUR", 1.0, 0.004, asks_three_ds=True, checks_address=False),
    Country("IN", "INR", 98.0, 0.050, asks_three_ds=True, checks_address=False),
    Country("IT", "EUR", 1.0, 0.006, asks_three_ds=True, checks_address=False),
    Country("JP", "JPY", 168.0, 0.060, asks_three_ds=False, checks_address=False),
    Country("MX", "MXN", 22.0, 0.080, asks_three_ds=False, checks_address=False),
    Country("NL", "EUR", 1.0, 0.002, asks_three_ds=True, checks_address=False),
    Country("PL", "PLN", 4.25, 0.004, asks_three_ds=True, checks_address=False),
    Country("SE", "SEK", 11.2, 0.003, asks_three_ds=True, checks_address=False),
    Country("TH", "THB", 38.0, 0.070, asks_three_ds=False, checks_address=False),
    Country("TR", "TRY", 46.0, 0.030, asks_three_ds=False, checks_address=False),
    Country("US", "USD", 1.15, 0.110, asks_three_ds=False, checks_address=True),
    Country("ZA", "ZAR", 20.5, 0.040, asks_three_ds=True, checks_address=False),
)

CITIES = (
    City("Sydney", "AU", -33.87, 151.21, 10, 3.0),
    City("Brussels", "BE", 50.85, 4.35, 1, 4.0),
    City("São Paulo", "BR", -23.55, -46.63, -3, 3.0),
    City("Toronto", "CA", 43.65, -79.38, -5, 3.0),
    City("Zürich", "CH", 47.37, 8.54, 1, 2.0),
    City("Prague", "CZ", 50.08, 14.44, 1, 2.0),
    City("Berlin", "DE", 52.52, 13.40, 1, 7.0),
    City("Hamburg", "DE", 53.55, 9.99, 1, 5.0),
    City("Köln", "DE", 50.94, 6.96, 1, 5.0),
    City("München", "DE", 48.14, 11.58, 1, 6.0),
    City("Copenhagen", "DK", 55.68, 12.57, 1, 2.0),
    City("Barcelona", "ES", 41.39, 2.17, 1, 4.0),
    City("Madrid", "ES", 40.42, -3.70, 1, 5.0),
    City("Sevilla", "ES", 37.39, -5.98, 1, 2.0),
    City("Lyon", "FR", 45.76, 4.84, 1, 4.0),
    City("Marseille", "FR", 43.30, 5.37, 1, 3.0),
    City("Paris", "FR", 48.86, 2.35, 1, 9.0),
    City("Glasgow", "GB", 55.86, -4.25, 0, 2.0),
    City("London", "GB", 51.51, -0.13, 0, 8.0),
    City("Manchester", "GB", 53.48, -2.24, 0, 4.0),
    City("Dublin", "IE", 53.35, -6.26, 0, 2.0),
    City("Mumbai", "IN", 19.08, 72.88, 5.5, 3.0),
    City("Milano", "IT", 45.46, 9.19, 1, 5.0),
    City("Napoli", "IT", 40.85, 14.27, 1, 3.0),
    City("Roma", "IT", 41.90, 12.50, 1, 5.0),
    City("Tokyo", "JP", 35.68, 139.69, 9, 4.0),
    City("Mexico City", "MX", 19.43, -99.13, -6, 2.0),
    City("Amsterdam", "NL", 52.37, 4.90, 1, 4.0),
    City("Rotterdam", "NL", 51.92, 4.48, 1, 3.0),
    City("Kraków", "PL", 50.06, 19.94, 1, 2.0),
    City("Warsaw", "PL", 52.23, 21.01, 1, 3.0),
    City("Stockholm", "SE", 59.33, 18.07, 1, 2.0),
    City("Bangkok", "TH", 13.76, 100.50, 7, 1.0),
    City("Istanbul", "TR", 41.01, 28.98, 3, 2.0),
    City("Chicago", "US", 41.88, -87.63, -6, 4.0),
    City("Houston", "US", 29.76, -95.37, -6, 3.0),
    City("Los Angeles", "US", 34.05, -118.24, -8, 5.0),
    City("Miami", "US", 25.76, -80.19, -5, 3.0),
    City("New York", "US", 40.71, -74.01, -5, 7.0),
    City("Johannesburg", "ZA", -26.20, 28.05, 2, 1.0),
)

LOCAL = (  # paid where the merchant stands
    Category("groceries", "5411", Channel.POS, 27.0, 0.70, 28.0),
    Category("bakery", "5462", Channel.POS, 7.0, 0.50, 8.0),
    Category("restaurant", "5812", Channel.POS, 34.0, 0.60, 11.0),
    Category("fast food", "5814", Channel.POS, 11.0, 0.45, 11.0),
    Category("fuel", "5541", Channel.POS, 48.0, 0.45, 8.0),
    Category("public transport", "4111", Channel.POS, 5.0, 0.70, 8.0),
    Category("pharmacy", "5912", Channel.POS, 16.0, 0.70, 6.0),
    Category("clothing", "5651", Channel.POS, 49.0, 0.75, 6.0),
    Category("electronics", "5732", Channel.POS, 120.0, 1.00, 2.0),
    Category("home improvement", "5200", Channel.POS, 45.0, 0.90, 3.0),
    Category("hotel", "7011", Channel.POS, 170.0, 0.60, 1.5),
    Category("jewellery", "5944", Channel.POS, 260.0, 1.00, 0.5),
    Category("cash machine", "6011", Channel.ATM, 90.0, 0.70, 7.0),
)

REMOTE = (  # paid from anywhere
    Category("marketplace", "5399", Channel.ECOMMERCE, 32.0, 0.85, 24.0, ships=True),
    Category("fashion online", "5691", Channel.ECOMMERCE, 55.0, 0.70, 14.0, ships=True),
    Category("electronics online", "5045", Channel.ECOMMERCE, 140.0, 1.00, 7.0, ships=True),
    Category("games", "5816", Channel.ECOMMERCE, 6.0, 0.90, 14.0),
    Category("digital media", "5815", Channel.ECOMMERCE, 8.0, 0.70, 12.0),
    Category("food delivery", "5811", Channel.ECOMMERCE, 24.0, 0.45, 14.0, ships=True),
    Category("travel agency", "4722", Channel.ECOMMERCE, 240.0, 0.90, 4.0),
    Category("gambling", "7995", Channel.ECOMMERCE, 25.0, 1.00, 4.0),
    Category("donations", "8398", Channel.ECOMMERCE, 15.0, 0.90, 2.0),
    Category("florist by telephone", "5992", Channel.MOTO, 42.0, 0.40, 2.0, ships=True),
    Category("travel by telephone", "7012", Channel.MOTO, 190.0, 0.60, 3.0),
)

STANDING = (  # charged every thirty days without the customer
    Category("streaming", "4899", Channel.RECURRING, 12.0, 0.0, 45.0),
    Category("telephone", "4814", Channel.RECURRING, 26.0, 0.0, 25.0),
    Category("software", "5734", Channel.RECURRING, 15.0, 0.0, 20.0),
    Category("insurance", "6300", Channel.RECURRING, 48.0, 0.0, 10.0),
)

CATEGORIES = LOCAL + REMOTE + STANDING

HOUR_WEIGHTS = (  # of a day by local time, midnight first; morning, then afternoon
    *(0.30, 0.18, 0.12, 0.10, 0.12, 0.28, 0.65, 1.10, 1.50, 1.60, 1.70, 2.00),
    *(2.30, 2.00, 1.70, 1.70, 1.90, 2.30, 2.40, 2.10, 1.70, 1.30, 0.90, 0.55),
)

WEEKDAY_WEIGHTS = (0.95, 0.95, 0.97, 1.00, 1.15, 1.20, 0.85)  # Monday first

REMOTE_TILT = (  # how much more of the trade is remote, by local hour: little at noon, much late in the evening
    *(2.0, 2.0, 2.0, 2.0, 1.8, 1.4, 1.0, 0.8, 0.8, 0.8, 0.8, 0.8),
    *(0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9, 1.2, 1.5, 1.8, 2.0, 2.0),
)
