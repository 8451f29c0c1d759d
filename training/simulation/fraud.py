"""What thieves and dishonest customers do: six ways of committing fraud, and how late each becomes known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from service.vocabulary import CheckResult, ThreeDS
from training.simulation.atlas import COUNTRIES, HOUR_WEIGHTS, LOCAL, REMOTE, Category
from training.simulation.legitimate import go_shopping
from training.simulation.mix import mix
from training.simulation.rows import (
    CHIP,
    KEYED,
    MAGSTRIPE,
    Rows,
    Visits,
    checkout,
    choose_terminal,
    draw_amounts,
    gang_address,
    gang_device,
    gang_email,
    shared_address,
)
from training.simulation.world import (
    CITY_BY_PEOPLE,
    CITY_COUNTRY,
    CITY_LATITUDE,
    CITY_LONGITUDE,
    CITY_PEOPLE,
    CITY_UTC_OFFSET_HOURS,
    DAY_MS,
    HOUR_MS,
    NONE,
    Integers,
    Reach,
    Reals,
    World,
    card_of_city,
    choose_merchant,
    log_uniform,
    merchant_of,
    pick,
)

TYPOLOGIES: Mapping[str, str] = MappingProxyType(
    {
        "card_testing_burst": "Stolen numbers are tried with many small online payments within minutes.",
        "account_takeover_new_device": "A thief shops online in a customer's name, from a device new to the card.",
        "compromised_terminal": "A terminal skims cards: fraud follows there, and later on the cards used there.",
        "skimmed_card_abroad": "A copied magnetic stripe pays in another country while the customer pays at home.",
        "high_amount_cash_out": "A stolen card is emptied within hours at cash machines and in shops for valuables.",
        "friendly_fraud": "A customer pays online as always, and disputes the payment 20 to 90 days later.",
    }
)

_REMOTE_ONLY = 1e9  # a tilt under which nobody goes to a shop
_NUMBERS_PER_TEST = 24
_SHOPS_PER_TEST = 3  # at most
_SKIMMED_CARDS = 12
_SKIMMED_CARDS_PER_FRAUD = 3
_AT_THE_TERMINAL_SHARE = 0.4
_OWN_EMAIL_SHARE = 0.4
_GANG_DEVICE_SHARE = 0.97  # else the customer's own was broken into
_ONE_GANG_SHARE = 0.8
_SHIPPED_TO_GANG_SHARE = 0.5
_REPEATING_DISPUTERS_SHARE = 0.5
_TEMPTED_SHARE = 0.5

_TESTED_AT = ("games", "digital media", "donations", "marketplace")
_SKIMMED_AT = ("fuel", "cash machine", "fast food", "restaurant", "groceries")
_DISPUTED_AT = ("electronics online", "games", "gambling", "travel agency")
_CASHED_AT = ("cash machine", "cash machine", "cash machine", "jewellery", "electronics", "clothing")

_TESTED_CVC = mix(CheckResult, {CheckResult.PASS: 0.55, CheckResult.FAIL: 0.35, CheckResult.UNAVAILABLE: 0.10})
_THIEF_THREE_DS = mix(
    ThreeDS,
    {ThreeDS.AUTHENTICATED: 0.20, ThreeDS.ATTEMPTED: 0.15, ThreeDS.FAILED: 0.06, ThreeDS.NOT_USED: 0.59},
)


@dataclass(frozen=True, slots=True)
class Plot:
    """Fraudulent rows, and the honest ones that belong to their story."""

    fraud: Rows
    honest: Rows


@dataclass(frozen=True, slots=True)
class Way:
    """One way of committing fraud.

    Attributes:
        share: of all fraudulent rows.
        commit: draws exactly that many fraudulent rows, at least one.
        report_days: least and greatest delay between a fraud and the moment it becomes known.
    """

    share: float
    commit: Callable[[World, np.random.Generator, int], Plot]
    report_days: tuple[float, float]


def draw_fraud(world: World, rng: np.random.Generator, count: int) -> Rows:
    """Exactly `count` fraudulent rows of all typologies and the honest ones of their stories, in order of time."""
    parts = [checkout(world, rng, _nobody())]
    for number, (name, fraudulent) in enumerate(share_out(count).items()):
        if fraudulent > 0:
            plot = _WAYS[name].commit(world, rng, fraudulent)
            parts += [_label(rng, plot.fraud, number, _WAYS[name].report_days), plot.honest]
    rows = Rows.concatenate(parts)
    return rows.take(np.argsort(rows.time_ms, kind="stable"))


def share_out(count: int) -> dict[str, int]:
    """How many fraudulent rows each typology has: their shares, rounded so that the sum is exact."""
    shares = [_WAYS[name].share for name in TYPOLOGIES]
    bounds = np.rint(np.cumsum([0.0, *shares]) * count).astype(np.int64)
    return dict(zip(TYPOLOGIES, np.diff(bounds).tolist(), strict=True))


def _label(rng: np.random.Generator, rows: Rows, typology: int, report_days: tuple[float, float]) -> Rows:
    delay_ms = _whole(log_uniform(rng, *report_days, len(rows)) * DAY_MS)
    return replace(rows, typology=np.full(len(rows), typology), reported_ms=rows.time_ms + delay_ms)


def _card_testing_burst(world: World, rng: np.random.Generator, count: int) -> Plot:
    burst, bursts = _episodes(rng, count, least=6, most=25)
    gang = rng.integers(0, world.gangs, bursts)
    country = CITY_COUNTRY[pick(rng, CITY_BY_PEOPLE, bursts * _SHOPS_PER_TEST)]
    shops = merchant_of(rng, world.market, _one_of(rng, REMOTE, _TESTED_AT, len(country)), country, Reach.REMOTE)
    shops_hit = rng.integers(1, _SHOPS_PER_TEST + 1, bursts)[burst]
    shop = shops[burst * _SHOPS_PER_TEST + _whole(shops_hit * rng.random(count))]
    numbers = pick(rng, world.tickets, bursts * _NUMBERS_PER_TEST)
    card = numbers[burst * _NUMBERS_PER_TEST + rng.integers(0, _NUMBERS_PER_TEST, count)]
    time_ms = _during(world, rng, burst, _whole(log_uniform(rng, 2.0, 60.0, bursts) * HOUR_MS / 60))
    amount_eur = log_uniform(rng, 0.4, 9.0, count)
    rows = checkout(world, rng, Visits(time_ms, card, shop, world.gang_city[gang[burst]], amount_eur))
    helping = np.where(rng.random(count) < _ONE_GANG_SHARE, gang[burst], rng.integers(0, world.gangs, count))
    rows = _from_gang(world, rng, rows, helping, own_country=0.7)
    return _alone(replace(rows, cvc_check=_TESTED_CVC.draw(rng, np.zeros(count, dtype=np.int64))))


def _account_takeover_new_device(world: World, rng: np.random.Generator, count: int) -> Plot:
    spree, sprees = _episodes(rng, count, least=1, most=6)
    gang = rng.integers(0, world.gangs, sprees)
    card = pick(rng, world.tickets, sprees)[spree]
    time_ms = _during(world, rng, spree, _whole(rng.uniform(0.05, 1.5, sprees) * DAY_MS))
    visits = go_shopping(world, rng, time_ms, card, remote_tilt=np.full(count, _REMOTE_ONLY))
    greed = rng.uniform(1.0, 4.5, sprees)[spree]
    rows = checkout(world, rng, replace(visits, amount_eur=visits.amount_eur * greed))
    return _alone(_from_gang(world, rng, rows, gang[spree], own_country=0.45))


def _compromised_terminal(world: World, rng: np.random.Generator, count: int) -> Plot:
    scheme, schemes = _episodes(rng, count, least=8, most=25)
    city = world.customers.city[world.card_customer[pick(rng, world.tickets, schemes)]]
    shop = merchant_of(rng, world.market, _one_of(rng, LOCAL, _SKIMMED_AT, schemes), city, Reach.LOCAL)
    terminal = choose_terminal(world, rng, shop)
    start_ms = _starts(world, rng, schemes)
    skims_ms = _whole(rng.uniform(3.0, 10.0, schemes) * DAY_MS)

    victims = min(_SKIMMED_CARDS, _SKIMMED_CARDS_PER_FRAUD * count)
    visit = np.repeat(np.arange(schemes), victims)
    victim = card_of_city(world, rng, city[visit])
    moment_ms = _by_day(world, rng, start_ms[visit] + _whole(skims_ms[visit] * rng.random(len(visit))), city[visit])
    paid_eur = draw_amounts(world, rng, victim, shop[visit])
    honest = checkout(world, rng, Visits(moment_ms, victim, shop[visit], city[visit], paid_eur))

    here = rng.random(count) < _AT_THE_TERMINAL_SHARE  # with copies made anywhere; elsewhere with those made here
    copy = victim[scheme * victims + rng.integers(0, victims, count)]
    card = np.where(here, card_of_city(world, rng, city[scheme]), copy)
    since_ms = np.where(here, 0, skims_ms[scheme]) + _whole(np.where(here, 12.0, 20.0) * DAY_MS * rng.random(count))
    time_ms = _by_day(world, rng, start_ms[scheme] + since_ms, city[scheme])
    elsewhere = go_shopping(world, rng, time_ms, card, remote_tilt=np.ones(count))
    merchant = np.where(here, shop[scheme], elsewhere.merchant)
    amount_eur = draw_amounts(world, rng, card, merchant) * rng.uniform(0.8, 3.0, count)
    rows = checkout(world, rng, Visits(time_ms, card, merchant, elsewhere.city, amount_eur))
    rows = _from_gang(world, rng, rows, rng.integers(0, world.gangs, count), own_country=0.4)
    rows = _entered(rng, rows, {MAGSTRIPE: 0.5, KEYED: 0.1})
    return Plot(
        fraud=replace(rows, terminal=np.where(here, terminal[scheme], rows.terminal)),
        honest=replace(honest, terminal=terminal[visit]),
    )


def _skimmed_card_abroad(world: World, rng: np.random.Generator, count: int) -> Plot:
    spree, sprees = _episodes(rng, count, least=2, most=7)
    card = pick(rng, world.tickets, sprees)
    customer = world.card_customer[card]
    city = _elsewhere(rng, world.customers.city[customer])[spree]
    time_ms = _during(world, rng, spree, _whole(rng.uniform(0.02, 1.2, sprees) * DAY_MS))
    persona = world.customers.persona[customer[spree]]
    shop = choose_merchant(rng, world.market, persona, city, Reach.LOCAL)
    amount_eur = draw_amounts(world, rng, card[spree], shop) * rng.uniform(0.8, 3.0, sprees)[spree]
    rows = checkout(world, rng, Visits(time_ms, card[spree], shop, city, amount_eur))
    return _alone(_entered(rng, rows, {MAGSTRIPE: 0.75, KEYED: 0.05}))


def _high_amount_cash_out(world: World, rng: np.random.Generator, count: int) -> Plot:
    spree, sprees = _episodes(rng, count, least=2, most=6)
    card = pick(rng, world.tickets, sprees)[spree]
    city = world.customers.city[world.card_customer[card]]
    time_ms = _during(world, rng, spree, _whole(rng.uniform(0.2, 3.0, sprees) * HOUR_MS))
    shop = merchant_of(rng, world.market, _one_of(rng, LOCAL, _CASHED_AT, count), city, Reach.LOCAL)
    amount_eur = draw_amounts(world, rng, card, shop) * rng.uniform(1.2, 5.0, sprees)[spree]
    rows = checkout(world, rng, Visits(time_ms, card, shop, city, amount_eur))
    return _alone(_entered(rng, rows, {CHIP: 0.6, MAGSTRIPE: 0.15}))


def _friendly_fraud(world: World, rng: np.random.Generator, count: int) -> Plot:
    repeating = pick(rng, world.tickets, 1 + count // 10)
    again = rng.random(count) < _REPEATING_DISPUTERS_SHARE
    card = np.where(again, pick(rng, repeating, count), pick(rng, world.tickets, count))
    time_ms = _by_day(world, rng, _starts(world, rng, count), world.customers.city[world.card_customer[card]])
    usual = go_shopping(world, rng, time_ms, card, remote_tilt=np.full(count, _REMOTE_ONLY))
    country = CITY_COUNTRY[usual.city]
    tempting = merchant_of(rng, world.market, _one_of(rng, REMOTE, _DISPUTED_AT, count), country, Reach.REMOTE)
    shop = np.where(rng.random(count) < _TEMPTED_SHARE, tempting, usual.merchant)
    amount_eur = draw_amounts(world, rng, card, shop) * rng.uniform(0.8, 3.0, count)
    return _alone(checkout(world, rng, replace(usual, merchant=shop, amount_eur=amount_eur)))


_WAYS: Mapping[str, Way] = {
    "card_testing_burst": Way(0.22, _card_testing_burst, report_days=(0.1, 7.0)),
    "account_takeover_new_device": Way(0.18, _account_takeover_new_device, report_days=(0.3, 14.0)),
    "compromised_terminal": Way(0.20, _compromised_terminal, report_days=(2.0, 35.0)),
    "skimmed_card_abroad": Way(0.14, _skimmed_card_abroad, report_days=(0.2, 10.0)),
    "high_amount_cash_out": Way(0.13, _high_amount_cash_out, report_days=(0.1, 5.0)),
    "friendly_fraud": Way(0.13, _friendly_fraud, report_days=(20.0, 90.0)),
}


def _episodes(rng: np.random.Generator, count: int, *, least: int, most: int) -> tuple[Integers, int]:
    """The episode of each of `count` rows, and how many there are. Each has `least` to `most` rows; the last, fewer."""
    sizes = rng.integers(least, most + 1, -(-count // least))
    episode = np.repeat(np.arange(len(sizes)), sizes)[:count]
    return episode, int(episode[-1]) + 1


def _starts(world: World, rng: np.random.Generator, episodes: int) -> Integers:
    """When each of some episodes starts: evenly over the period, so that every part of it has its share of fraud."""
    return world.start_ms + _whole(
        (world.end_ms - world.start_ms) / episodes * (np.arange(episodes) + rng.random(episodes))
    )


def _during(world: World, rng: np.random.Generator, episode: Integers, lasts_ms: Integers) -> Integers:
    """A moment in its episode for each row."""
    time_ms = _starts(world, rng, len(lasts_ms))[episode] + _whole(lasts_ms[episode] * rng.random(len(episode)))
    return _within(world, time_ms)


def _by_day(world: World, rng: np.random.Generator, time_ms: Integers, city: Integers) -> Integers:
    """The same local days at an hour when people buy."""
    hour = rng.choice(len(HOUR_WEIGHTS), len(time_ms), p=np.array(HOUR_WEIGHTS) / sum(HOUR_WEIGHTS))
    midnight_ms = time_ms - (time_ms + _whole(CITY_UTC_OFFSET_HOURS[city] * HOUR_MS)) % DAY_MS
    return _within(world, midnight_ms + hour * HOUR_MS + rng.integers(0, HOUR_MS, len(time_ms)))


def _within(world: World, time_ms: Integers) -> Integers:
    """The same times within the period: what would happen after its end stands for what began before its start."""
    return world.start_ms + (time_ms - world.start_ms) % (world.end_ms - world.start_ms)


def _elsewhere(rng: np.random.Generator, home: Integers) -> Integers:
    """A city in another country, more likely one where stripes are still read."""
    swipes = np.array([COUNTRIES[country].magstripe_share for country in CITY_COUNTRY])
    weight = CITY_PEOPLE * (0.02 + swipes)
    abroad = weight * (CITY_COUNTRY[:, None] != CITY_COUNTRY)
    cumulative = np.cumsum(abroad, axis=1)
    drawn = rng.random(len(home)) * cumulative[home, -1]
    city: Integers = (cumulative[home] <= drawn[:, None]).sum(axis=1)
    return city


def _one_of(rng: np.random.Generator, reach: Sequence[Category], names: Sequence[str], count: int) -> Integers:
    """Categories drawn by name, as positions within their reach."""
    known = [category.name for category in reach]
    return pick(rng, np.array([known.index(name) for name in names]), count)


def _from_gang(world: World, rng: np.random.Generator, rows: Rows, gang: Integers, *, own_country: float) -> Rows:
    """The rows as they look when a gang pays: those online from its device, and from its city or as if from home."""
    foreign = (rows.device != NONE) & (rng.random(len(rows)) < _GANG_DEVICE_SHARE)
    there = foreign & (rng.random(len(rows)) < own_country)
    city = world.gang_city[gang]
    disguise = shared_address(world, rng, world.customers.city[world.card_customer[rows.card]])
    return replace(
        rows,
        device=np.where(foreign, gang_device(world, gang), rows.device),
        email=np.where(foreign & (rng.random(len(rows)) < _OWN_EMAIL_SHARE), gang_email(world, gang), rows.email),
        address=np.where(there, gang_address(world, gang), np.where(foreign, disguise, rows.address)),
        three_ds=np.where(foreign, _THIEF_THREE_DS.draw(rng, np.zeros(len(rows), dtype=np.int64)), rows.three_ds),
        ip_country=np.where(there, CITY_COUNTRY[city], rows.ip_country),
        shipping_country=np.where(
            there & (rows.shipping_country != NONE) & (rng.random(len(rows)) < _SHIPPED_TO_GANG_SHARE),
            CITY_COUNTRY[city],
            rows.shipping_country,
        ),
        latitude=np.where(there, CITY_LATITUDE[city], rows.latitude),
        longitude=np.where(there, CITY_LONGITUDE[city], rows.longitude),
    )


def _entered(rng: np.random.Generator, rows: Rows, shares: Mapping[int, float]) -> Rows:
    """The rows at a terminal entered in other ways, by shares; what is left stays as it is."""
    drawn, entry_mode, bound = rng.random(len(rows)), rows.entry_mode, 0.0
    for mode, share in shares.items():
        entry_mode = np.where((bound <= drawn) & (drawn < bound + share), mode, entry_mode)
        bound += share
    return replace(rows, entry_mode=np.where(rows.terminal == NONE, rows.entry_mode, entry_mode))


def _alone(fraud: Rows) -> Plot:
    return Plot(fraud=fraud, honest=fraud.take(slice(0, 0)))


def _nobody() -> Visits:
    nothing = np.zeros(0, dtype=np.int64)
    return Visits(nothing, nothing, nothing, nothing, nothing.astype(np.float64))


def _whole(values: Reals) -> Integers:
    return values.astype(np.int64)
