"""Transactions as columns of numbers, and the checkout that fills in what a shop and a bank would say."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from service.vocabulary import Channel, CheckResult, EntryMode, ThreeDS, minor_unit_exponent
from training.simulation.atlas import CATEGORIES, CITIES, COUNTRIES
from training.simulation.mix import mix
from training.simulation.world import (
    CITY_COUNTRY,
    CITY_LATITUDE,
    CITY_LONGITUDE,
    NONE,
    Integers,
    Reals,
    Truths,
    World,
)

CATEGORY_CHANNEL: Integers = np.array([list(Channel).index(category.channel) for category in CATEGORIES])
POS, ATM, ECOMMERCE, MOTO = (
    list(Channel).index(channel) for channel in (Channel.POS, Channel.ATM, Channel.ECOMMERCE, Channel.MOTO)
)
CHIP, MAGSTRIPE, KEYED = (
    list(EntryMode).index(mode) for mode in (EntryMode.CHIP, EntryMode.MAGSTRIPE, EntryMode.KEYED)
)
SHARED_ADDRESSES = 64  # per city, of hotels and private networks

_CATEGORY_SHIPS: Truths = np.array([category.ships for category in CATEGORIES])
_CATEGORY_SPREAD: Reals = np.array([category.spread for category in CATEGORIES])
_ASKS_THREE_DS: Truths = np.array([country.asks_three_ds for country in COUNTRIES])
_CHECKS_ADDRESS: Truths = np.array([country.checks_address for country in COUNTRIES])
_MAGSTRIPE_SHARE: Reals = np.array([country.magstripe_share for country in COUNTRIES])
_MINOR_PER_EURO: Reals = np.array(
    [country.units_per_euro * 10.0 ** minor_unit_exponent(country.currency) for country in COUNTRIES]
)
_BANKNOTE_MINOR: Reals = np.array(  # the power of ten nearest to ten euros
    [
        10.0 ** (round(np.log10(10.0 * country.units_per_euro)) + minor_unit_exponent(country.currency))
        for country in COUNTRIES
    ]
)
_MAX_AMOUNT_EUR = 20_000.0
_CONTACTLESS_LIMIT_EUR = 50.0
_DESK_SHARE = 0.4

_SHOP_SMALL, _SHOP_LARGE, _CASH, _ONLINE, _TELEPHONE, _STANDING = range(6)
_CHANNEL_SITUATION = {
    Channel.POS: _SHOP_SMALL,
    Channel.ATM: _CASH,
    Channel.ECOMMERCE: _ONLINE,
    Channel.MOTO: _TELEPHONE,
    Channel.RECURRING: _STANDING,
}
_SITUATION: Integers = np.array([_CHANNEL_SITUATION[channel] for channel in Channel])
_ENTRY_MODE = mix(
    EntryMode,
    {EntryMode.CONTACTLESS: 0.80, EntryMode.CHIP: 0.20},
    {EntryMode.CONTACTLESS: 0.25, EntryMode.CHIP: 0.745, EntryMode.KEYED: 0.005},
    {EntryMode.CHIP: 0.95, EntryMode.CONTACTLESS: 0.05},
    {EntryMode.KEYED: 0.40, EntryMode.CREDENTIAL_ON_FILE: 0.35, EntryMode.TOKEN: 0.25},
    {EntryMode.KEYED: 1.0},
    {EntryMode.CREDENTIAL_ON_FILE: 1.0},
)
_CVC_CHECK = mix(  # typed in; anything else
    CheckResult,
    {CheckResult.PASS: 0.945, CheckResult.FAIL: 0.025, CheckResult.UNAVAILABLE: 0.03},
    {CheckResult.UNCHECKED: 0.7, None: 0.3},
)
_AVS_CHECK = mix(  # an address is checked; is not
    CheckResult,
    {CheckResult.PASS: 0.84, CheckResult.FAIL: 0.07, CheckResult.UNAVAILABLE: 0.04, CheckResult.UNCHECKED: 0.05},
    {CheckResult.UNAVAILABLE: 0.4, None: 0.6},
)
_THREE_DS = mix(  # strong authentication is the rule; is not
    ThreeDS,
    {ThreeDS.AUTHENTICATED: 0.62, ThreeDS.ATTEMPTED: 0.07, ThreeDS.FAILED: 0.01, ThreeDS.NOT_USED: 0.30},
    {ThreeDS.AUTHENTICATED: 0.18, ThreeDS.ATTEMPTED: 0.10, ThreeDS.FAILED: 0.01, ThreeDS.NOT_USED: 0.71},
)


@dataclass(frozen=True, slots=True)
class Visits:
    """Who pays how much where: (n,) each. The city is where the customer is, the amount is in euros."""

    time_ms: Integers
    card: Integers
    merchant: Integers
    city: Integers
    amount_eur: Reals


@dataclass(frozen=True, slots=True)
class Rows:
    """Transactions, (n,) each: indices into the world or a vocabulary, -1 (a coordinate: NaN) where absent.

    `follows` is the position of another row of the same slice; `reported_ms` is -1 for legitimate rows.
    """

    time_ms: Integers
    card: Integers
    merchant: Integers
    terminal: Integers
    device: Integers
    email: Integers
    address: Integers
    amount_minor: Integers
    entry_mode: Integers
    cvc_check: Integers
    avs_check: Integers
    three_ds: Integers
    ip_country: Integers
    billing_country: Integers
    shipping_country: Integers
    latitude: Reals
    longitude: Reals
    follows: Integers
    follow_kind: Integers
    typology: Integers
    reported_ms: Integers

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, positions: Integers | slice) -> Self:
        """The rows at some positions, in their order. `follows` keeps its meaning only if all rows are taken."""
        return type(self)(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All rows of all parts; `follows` must already count from the first part."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


def checkout(world: World, rng: np.random.Generator, visits: Visits) -> Rows:
    """What the request of each visit says when its customer is who they say they are."""
    merchants, customers = world.market.merchants, world.customers
    nothing = np.full(len(visits.time_ms), NONE)
    customer = world.card_customer[visits.card]
    category = merchants.category[visits.merchant]
    seller = merchants.country[visits.merchant]
    home = CITY_COUNTRY[customers.city[customer]]
    channel = CATEGORY_CHANNEL[category]
    online = channel == ECOMMERCE
    asked = online | (channel == MOTO)
    entry_mode = _draw_entry_mode(rng, visits, channel, seller)
    away = visits.city != customers.city[customer]
    latitude = np.where(away, CITY_LATITUDE[visits.city], customers.latitude[customer])
    longitude = np.where(away, CITY_LONGITUDE[visits.city], customers.longitude[customer])
    return Rows(
        time_ms=visits.time_ms,
        card=visits.card,
        merchant=visits.merchant,
        terminal=choose_terminal(world, rng, visits.merchant),
        device=np.where(online, _own_device(world, rng, customer, visits.time_ms), NONE),
        email=np.where(asked, customer, NONE),
        address=np.where(online, _own_address(world, rng, customer, visits.city, away=away), NONE),
        amount_minor=amount_in_minor_units(visits.amount_eur, seller, cash=channel == ATM),
        entry_mode=entry_mode,
        cvc_check=np.where(asked, _CVC_CHECK.draw(rng, (entry_mode != KEYED).astype(np.int64)), NONE),
        avs_check=np.where(asked, _AVS_CHECK.draw(rng, (~_CHECKS_ADDRESS[home]).astype(np.int64)), NONE),
        three_ds=np.where(online, _THREE_DS.draw(rng, (~_ASKS_THREE_DS[home]).astype(np.int64)), NONE),
        ip_country=np.where(online, _mostly(rng, CITY_COUNTRY[visits.city], share=0.98), NONE),
        billing_country=np.where(asked, _mostly(rng, home, share=0.985), NONE),
        shipping_country=np.where(asked & _CATEGORY_SHIPS[category], _mostly(rng, home, share=0.97), NONE),
        latitude=np.where(online, latitude, merchants.latitude[visits.merchant]),
        longitude=np.where(online, longitude, merchants.longitude[visits.merchant]),
        follows=nothing,
        follow_kind=nothing,
        typology=nothing,
        reported_ms=nothing,
    )


def draw_amounts(world: World, rng: np.random.Generator, card: Integers, merchant: Integers) -> Reals:
    """What customers usually pay there, in euros: log-normal around the merchant's and the customer's own level."""
    merchants = world.market.merchants
    spread = _CATEGORY_SPREAD[merchants.category[merchant]] * rng.standard_normal(len(card))
    return merchants.level_eur[merchant] * world.customers.spend_level[world.card_customer[card]] * np.exp(spread)


def amount_in_minor_units(amount_eur: Reals, country: Integers, *, cash: Truths) -> Integers:
    """Euros as minor units of a country's currency, at least 1; cash comes in banknotes."""
    exact = np.minimum(amount_eur, _MAX_AMOUNT_EUR) * _MINOR_PER_EURO[country]
    banknote = _BANKNOTE_MINOR[country]
    in_banknotes = np.maximum(1.0, np.rint(exact / banknote)) * banknote
    return np.where(cash, in_banknotes, np.maximum(1.0, np.rint(exact))).astype(np.int64)


def choose_terminal(world: World, rng: np.random.Generator, merchant: Integers) -> Integers:
    """One of each merchant's terminals; none where there is no shop."""
    count = world.market.merchants.terminals[merchant]
    terminal = world.market.merchants.terminal_first[merchant] + (count * rng.random(len(merchant))).astype(np.int64)
    return np.where(count > 0, terminal, NONE)


def gang_device(world: World, gang: Integers) -> Integers:
    """The device a gang commits fraud with. Devices are numbered old phones, new phones, computers, gangs'."""
    return 3 * len(world.customers.city) + gang


def gang_email(world: World, gang: Integers) -> Integers:
    """A gang's own e-mail address. The customers' come first."""
    return len(world.customers.city) + gang


def shared_address(world: World, rng: np.random.Generator, city: Integers) -> Integers:
    """An IP address that many use in a city: of a hotel, or of a network that hides where one is."""
    return len(world.customers.city) + city * SHARED_ADDRESSES + rng.integers(0, SHARED_ADDRESSES, len(city))


def gang_address(world: World, gang: Integers) -> Integers:
    """A gang's IP address. First come the customers' homes, then the shared ones of every city."""
    return len(world.customers.city) + len(CITIES) * SHARED_ADDRESSES + gang


def _draw_entry_mode(rng: np.random.Generator, visits: Visits, channel: Integers, seller: Integers) -> Integers:
    large = (channel == POS) & (visits.amount_eur > _CONTACTLESS_LIMIT_EUR)
    drawn = _ENTRY_MODE.draw(rng, np.where(large, _SHOP_LARGE, _SITUATION[channel]))
    swiped = ((channel == POS) | (channel == ATM)) & (rng.random(len(channel)) < _MAGSTRIPE_SHARE[seller])
    return np.where(swiped, MAGSTRIPE, drawn)


def _own_device(world: World, rng: np.random.Generator, customer: Integers, time_ms: Integers) -> Integers:
    customers, count = world.customers, len(world.customers.city)
    phone = customer + count * (time_ms >= customers.new_phone_ms[customer])
    at_desk = customers.has_computer[customer] & (rng.random(len(customer)) < _DESK_SHARE)
    return np.where(at_desk, 2 * count + customer, phone)


def _own_address(
    world: World, rng: np.random.Generator, customer: Integers, city: Integers, *, away: Truths
) -> Integers:
    return np.where(away, shared_address(world, rng, city), customer)


def _mostly(rng: np.random.Generator, country: Integers, *, share: float) -> Integers:
    """The country itself, or with what is left of the share any other: a gift, a holiday home, a private network."""
    other = rng.integers(0, len(COUNTRIES), len(country))
    return np.where(rng.random(len(country)) < share, country, other)
