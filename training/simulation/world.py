"""The world a simulation takes place in: customers with cards and devices, merchants with terminals, journeys."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from training.simulation.atlas import CATEGORIES, CITIES, COUNTRIES, LOCAL, REMOTE, STANDING, Category
from training.simulation.config import MIN_MERCHANTS, SimulationConfig

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
Truths = NDArray[np.bool_]

NONE = -1  # stands for an absent value in every array of indices
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

_COUNTRY_CODES = [country.code for country in COUNTRIES]
CITY_COUNTRY: Integers = np.array([_COUNTRY_CODES.index(city.country) for city in CITIES])
CITY_PEOPLE: Reals = np.array([city.people for city in CITIES])
CITY_LATITUDE: Reals = np.array([city.latitude for city in CITIES])
CITY_LONGITUDE: Reals = np.array([city.longitude for city in CITIES])
CITY_UTC_OFFSET_HOURS: Reals = np.array([city.utc_offset_hours for city in CITIES])
CITY_BY_PEOPLE: Integers = np.repeat(np.arange(len(CITIES)), CITY_PEOPLE.astype(np.int64))

_PERSONAS = 6
_TASTE_STEPS = 1024
_FAVOURITES = 6
_HOME_SELLER_SHARE = 0.75
_CARDS_PER_CUSTOMER = 1.15
_COMPUTER_SHARE = 0.6
_NEW_PHONE_SHARE_PER_YEAR = 0.4
_YEAR_MS = 365 * DAY_MS
_SEASON_MS = 60 * DAY_MS  # a customer travels at most once in each
_JOURNEY_SHARE = 0.3
_JOURNEY_DAYS = (2.0, 14.0)
_FRAUDS_PER_GANG = 8


class Reach(IntEnum):
    """From where a merchant is paid: at its shop in a city; from anywhere; by standing order."""

    LOCAL = 0
    REMOTE = 1
    STANDING = 2


_CATEGORIES: dict[Reach, tuple[Category, ...]] = {Reach.LOCAL: LOCAL, Reach.REMOTE: REMOTE, Reach.STANDING: STANDING}
_PLACES = {Reach.LOCAL: len(CITIES), Reach.REMOTE: len(COUNTRIES), Reach.STANDING: len(COUNTRIES)}
_FIRST_SHELF = {
    Reach.LOCAL: 0,
    Reach.REMOTE: len(CITIES) * len(LOCAL),
    Reach.STANDING: len(CITIES) * len(LOCAL) + len(COUNTRIES) * len(REMOTE),
}


@dataclass(frozen=True, slots=True)
class Merchants:
    """One entry per merchant, grouped into shelves: the merchants of one category in one place.

    Shelves are numbered `place * categories of the reach + category`: first the shops of all cities, then the remote
    sellers of all countries, then those with standing orders. `shelf_first` and `shelf_size` find a shelf's merchants.
    """

    category: Integers
    country: Integers
    latitude: Reals
    longitude: Reals
    level_eur: Reals
    terminal_first: Integers
    terminals: Integers
    shelf_first: Integers
    shelf_size: Integers


@dataclass(frozen=True, slots=True)
class Market:
    """The merchants, and what people like: `taste` is (reaches, personas, 1024), a category as often as it is liked."""

    merchants: Merchants
    taste: Integers


@dataclass(frozen=True, slots=True)
class Customers:
    """One entry per customer. Journeys are (customers, seasons), favourites (customers, 6) merchants."""

    city: Integers
    latitude: Reals
    longitude: Reals
    spend_level: Reals
    persona: Integers
    remote_share: Reals
    has_computer: Truths
    new_phone_ms: Integers
    journey_city: Integers
    journey_start_ms: Integers
    journey_end_ms: Integers
    local_favourites: Integers
    remote_favourites: Integers


@dataclass(frozen=True, slots=True)
class World:
    """Everything that stands still while transactions happen.

    Attributes:
        start_ms, end_ms: the period, UTC epoch milliseconds; the end is excluded.
        market, customers: who sells and who buys.
        card_customer: (cards,) whose card it is; ascending, so a city's cards are neighbours.
        tickets: cards, each as often as it is active, grouped by home city.
        ticket_first, ticket_count: (cities,) where a city's tickets are.
        gang_city: (gangs,) where the devices that fraud is committed from stand.
    """

    start_ms: int
    end_ms: int
    market: Market
    customers: Customers
    card_customer: Integers
    tickets: Integers
    ticket_first: Integers
    ticket_count: Integers
    gang_city: Integers

    @property
    def gangs(self) -> int:
        """How many sets of devices and addresses fraud is committed from."""
        return len(self.gang_city)


def build_world(config: SimulationConfig) -> World:
    """Draw the world of a simulation. Memory grows with cards and merchants, not with transactions."""
    rng = generator(config.seed, stage=0)
    start_ms = round(config.start.timestamp()) * 1000
    end_ms = start_ms + config.days * DAY_MS
    market = Market(merchants=_draw_merchants(rng, config), taste=_draw_taste(rng))
    customers = _draw_customers(rng, config.card_count, market, start_ms, end_ms)
    card_customer = _draw_owners(rng, config.card_count, len(customers.city))
    tickets = np.repeat(np.arange(config.card_count), 1 + rng.poisson(rng.gamma(1.2, 4.0, config.card_count)))
    ticket_count = np.bincount(customers.city[card_customer[tickets]], minlength=len(CITIES))
    return World(
        start_ms=start_ms,
        end_ms=end_ms,
        market=market,
        customers=customers,
        card_customer=card_customer,
        tickets=tickets,
        ticket_first=np.cumsum(ticket_count) - ticket_count,
        ticket_count=ticket_count,
        gang_city=pick(rng, CITY_BY_PEOPLE, max(4, config.fraud_count // _FRAUDS_PER_GANG)),
    )


def generator(seed: int, stage: int, index: int = 0) -> np.random.Generator:
    """An independent source of randomness for one stage of one simulation, or for one slice of it."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, stage, index])))


def pick(rng: np.random.Generator, values: Integers, size: int) -> Integers:
    """One of `values` for each of `size` draws, all equally likely."""
    return values[rng.integers(0, len(values), size)]


def log_uniform(rng: np.random.Generator, low: float, high: float, size: int) -> Reals:
    """Numbers from `low` to `high` whose logarithms are equally likely."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def card_of_city(world: World, rng: np.random.Generator, city: Integers) -> Integers:
    """A card whose customer lives in each city, more likely a busy one. Every such city must have a card."""
    return world.tickets[world.ticket_first[city] + (world.ticket_count[city] * rng.random(len(city))).astype(np.int64)]


def where_they_are(world: World, customer: Integers, time_ms: Integers) -> tuple[Integers, Truths]:
    """The city each customer is in at a moment, and whether they are on a journey."""
    customers = world.customers
    season = (time_ms - world.start_ms) // _SEASON_MS
    gone = customers.journey_start_ms[customer, season] <= time_ms
    away = gone & (time_ms < customers.journey_end_ms[customer, season])
    return np.where(away, customers.journey_city[customer, season], customers.city[customer]), away


def seller_country(rng: np.random.Generator, city: Integers) -> Integers:
    """Where a remote seller is: mostly in the country of the customer's city."""
    anywhere = CITY_COUNTRY[pick(rng, CITY_BY_PEOPLE, len(city))]
    return np.where(rng.random(len(city)) < _HOME_SELLER_SHARE, CITY_COUNTRY[city], anywhere)


def choose_merchant(
    rng: np.random.Generator, market: Market, persona: Integers, place: Integers, reach: Reach
) -> Integers:
    """A merchant to each persona's taste at a place: a city where the reach is local, else a country."""
    category = market.taste[reach, persona, rng.integers(0, _TASTE_STEPS, len(persona))]
    return merchant_of(rng, market, category, place, reach)


def merchant_of(
    rng: np.random.Generator, market: Market, category: Integers, place: Integers, reach: Reach
) -> Integers:
    """A merchant of a category (numbered within its reach) at a place; the first of a shelf are the busiest."""
    shelf = _FIRST_SHELF[reach] + place * len(_CATEGORIES[reach]) + category
    below = market.merchants.shelf_size[shelf] * rng.random(len(shelf)) ** 2
    merchant: Integers = market.merchants.shelf_first[shelf] + below.astype(np.int64)
    return merchant


def _draw_merchants(rng: np.random.Generator, config: SimulationConfig) -> Merchants:
    category, place, shops = _shelves()
    median_eur = np.array([item.median_eur for item in CATEGORIES])
    weight = np.array([item.weight for item in CATEGORIES])[category] * _people(place, shops)
    spare_shops = config.local_merchant_count - int(shops.sum())
    spare_remote = config.merchant_count - MIN_MERCHANTS - spare_shops
    shelf_size = 1 + rng.multinomial(spare_shops, _shares(weight * shops))
    shelf_size += rng.multinomial(spare_remote, _shares(weight * ~shops))
    category, place, shops = category.repeat(shelf_size), place.repeat(shelf_size), shops.repeat(shelf_size)
    city = np.where(shops, place, 0)
    terminals = shops + rng.multinomial(config.terminal_count - int(shops.sum()), _shares(shops.astype(np.float64)))
    return Merchants(
        category=category,
        country=np.where(shops, CITY_COUNTRY[city], place % len(COUNTRIES)),
        latitude=np.where(shops, _near(rng, CITY_LATITUDE[city], 0.06), np.nan),
        longitude=np.where(shops, _near(rng, CITY_LONGITUDE[city], 0.08), np.nan),
        level_eur=median_eur[category] * np.exp(rng.normal(0.0, 0.35, len(category))),
        terminal_first=np.cumsum(terminals) - terminals,
        terminals=terminals,
        shelf_first=np.cumsum(shelf_size) - shelf_size,
        shelf_size=shelf_size,
    )


def _shelves() -> tuple[Integers, Integers, Truths]:
    """Category, place and whether its merchants have shops, of each shelf in order."""
    category = [
        np.tile([CATEGORIES.index(item) for item in _CATEGORIES[reach]], places) for reach, places in _PLACES.items()
    ]
    place = [np.repeat(np.arange(places), len(_CATEGORIES[reach])) for reach, places in _PLACES.items()]
    everything = np.concatenate(category)
    return everything, np.concatenate(place), everything < len(LOCAL)


def _people(place: Integers, shops: Truths) -> Reals:
    """How many live at each place: a city where there are shops, else a country."""
    country_people = np.bincount(CITY_COUNTRY, weights=CITY_PEOPLE, minlength=len(COUNTRIES))
    return np.where(shops, CITY_PEOPLE[place % len(CITIES)], country_people[place % len(COUNTRIES)])


def _near(rng: np.random.Generator, degrees: Reals, spread: float) -> Reals:
    """Coordinates around others, to the 10⁻⁴ degree that the features use."""
    return np.round(degrees + rng.normal(0.0, spread, len(degrees)), 4)


def _draw_taste(rng: np.random.Generator) -> Integers:
    steps = (np.arange(_TASTE_STEPS) + 0.5) / _TASTE_STEPS
    taste = np.empty((len(Reach), _PERSONAS, _TASTE_STEPS), dtype=np.int64)
    for reach in Reach:
        weight = np.array([category.weight for category in _CATEGORIES[reach]])
        for persona in range(_PERSONAS):
            liking = _shares(weight * np.exp(rng.normal(0.0, 0.5, len(weight))))
            taste[reach, persona] = np.searchsorted(np.cumsum(liking)[:-1], steps)
    return taste


def _shares(weight: Reals) -> Reals:
    shares: Reals = weight / weight.sum()
    return shares


def _draw_customers(rng: np.random.Generator, cards: int, market: Market, start_ms: int, end_ms: int) -> Customers:
    count = max(1, round(cards / _CARDS_PER_CUSTOMER))
    city = np.sort(pick(rng, CITY_BY_PEOPLE, count))
    persona = rng.integers(0, _PERSONAS, count)
    journey_city, journey_start_ms, journey_end_ms = _draw_journeys(rng, count, start_ms, end_ms)
    home, taste = np.repeat(city, _FAVOURITES), np.repeat(persona, _FAVOURITES)
    shops = choose_merchant(rng, market, taste, home, Reach.LOCAL)
    sellers = choose_merchant(rng, market, taste, seller_country(rng, home), Reach.REMOTE)
    return Customers(
        city=city,
        latitude=_near(rng, CITY_LATITUDE[city], 0.08),
        longitude=_near(rng, CITY_LONGITUDE[city], 0.10),
        spend_level=np.exp(rng.normal(0.0, 0.45, count)),
        persona=persona,
        remote_share=rng.beta(2.0, 5.0, count),
        has_computer=rng.random(count) < _COMPUTER_SHARE,
        new_phone_ms=_draw_new_phones(rng, count, start_ms, end_ms),
        journey_city=journey_city,
        journey_start_ms=journey_start_ms,
        journey_end_ms=journey_end_ms,
        local_favourites=shops.reshape(count, _FAVOURITES),
        remote_favourites=sellers.reshape(count, _FAVOURITES),
    )


def _draw_journeys(
    rng: np.random.Generator, count: int, start_ms: int, end_ms: int
) -> tuple[Integers, Integers, Integers]:
    """City, start and end of each customer's journey in each season. Where none is made, it ends as it starts."""
    seasons = -(-(end_ms - start_ms) // _SEASON_MS)
    shape = (count, seasons)
    journey_start_ms = start_ms + _SEASON_MS * np.arange(seasons) + rng.integers(0, _SEASON_MS, shape)
    length_ms = (rng.uniform(*_JOURNEY_DAYS, shape) * DAY_MS).astype(np.int64)
    made = rng.random(shape) < _JOURNEY_SHARE
    city = pick(rng, CITY_BY_PEOPLE, count * seasons).reshape(shape)
    return city, journey_start_ms, journey_start_ms + length_ms * made


def _draw_new_phones(rng: np.random.Generator, count: int, start_ms: int, end_ms: int) -> Integers:
    """When each customer changes phones; at the end of the period for those who don't."""
    changes = rng.random(count) < _NEW_PHONE_SHARE_PER_YEAR * min(1.0, (end_ms - start_ms) / _YEAR_MS)
    return np.where(changes, rng.integers(start_ms, end_ms, count), end_ms)


def _draw_owners(rng: np.random.Generator, cards: int, customers: int) -> Integers:
    """Whose card each is: everybody has one, some have more."""
    return np.sort(np.concatenate([np.arange(customers), rng.integers(0, customers, cards - customers)]))
