"""What honest customers do: shop at home and on journeys, pay standing orders, try again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from service.vocabulary import Channel, FollowKind, ThreeDS
from training.simulation.atlas import CITIES, HOUR_WEIGHTS, REMOTE_TILT, WEEKDAY_WEIGHTS
from training.simulation.mix import mix
from training.simulation.rows import (
    ATM,
    CATEGORY_CHANNEL,
    Rows,
    Visits,
    amount_in_minor_units,
    checkout,
    draw_amounts,
)
from training.simulation.world import (
    CITY_COUNTRY,
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
    pick,
    seller_country,
    where_they_are,
)

_ROWS_PER_SLICE = 65_536  # large enough that numpy's calls cost nothing, small enough to stay in the cache
_HOURS_PER_WEEK = 168
_FAVOURITE_SHARE = 0.65
_STANDING_PERIOD_MS = 30 * DAY_MS
_ECHO_DELAY_MS = (10_000.0, 1_800_000.0)

_REMOTE_TILT: Reals = np.array(REMOTE_TILT)
_ECHO_OF: Mapping[
    Channel, Mapping[FollowKind | None, float]
] = {  # a further attempt at the same payment, or (None) a further purchase
    Channel.ECOMMERCE: {None: 0.55, FollowKind.RETRY: 0.20, FollowKind.AFTER_CHALLENGE: 0.25},
    Channel.POS: {None: 0.65, FollowKind.RETRY: 0.30, FollowKind.INCREMENTAL: 0.05},
    Channel.ATM: {None: 0.60, FollowKind.RETRY: 0.40},
    Channel.MOTO: {None: 0.40, FollowKind.RETRY: 0.30, FollowKind.INCREMENTAL: 0.30},
    Channel.RECURRING: {FollowKind.RETRY: 1.0},
}
_ECHO = mix(FollowKind, *(_ECHO_OF[channel] for channel in Channel))
_AFTER_CHALLENGE, _INCREMENTAL = (
    list(FollowKind).index(kind) for kind in (FollowKind.AFTER_CHALLENGE, FollowKind.INCREMENTAL)
)
_AUTHENTICATED = list(ThreeDS).index(ThreeDS.AUTHENTICATED)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some whole hours and how many visits and echoes fall into each of them."""

    number: int
    start_ms: int
    end_ms: int
    visits: Integers
    echoes: Integers


@dataclass(frozen=True, slots=True)
class StandingOrders:
    """Payments that repeat every thirty days, by the time within the thirty days at which they fall due."""

    phase_ms: Integers
    card: Integers
    merchant: Integers
    amount_eur: Reals

    def due_count(self, world: World) -> int:
        """How many payments fall due in the whole period."""
        return sum(high - low for _, low, high in self._due(world, world.start_ms, world.end_ms))

    def due(self, world: World, start_ms: int, end_ms: int) -> Visits:
        """The payments that fall due in [start, end), by order of the list, then of time."""
        rounds = list(self._due(world, start_ms, end_ms))
        orders = np.concatenate([np.arange(low, high) for _, low, high in rounds])
        times = np.concatenate([round_ms + self.phase_ms[low:high] for round_ms, low, high in rounds])
        card = self.card[orders]
        home = world.customers.city[world.card_customer[card]]
        return Visits(times, card, self.merchant[orders], home, self.amount_eur[orders])

    def _due(self, world: World, start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
        """Start of a round, and the range of orders due in it, for every round that the time touches."""
        first = (start_ms - world.start_ms) // _STANDING_PERIOD_MS
        last = (end_ms - 1 - world.start_ms) // _STANDING_PERIOD_MS
        for turn in range(first, last + 1):
            round_ms = world.start_ms + turn * _STANDING_PERIOD_MS
            low, high = np.searchsorted(self.phase_ms, (start_ms - round_ms, end_ms - round_ms))
            yield round_ms, int(low), int(high)


def draw_standing_orders(world: World, rng: np.random.Generator, *, payments: int) -> StandingOrders:
    """As many orders as cause at most `payments` payments in the period."""
    rounds = -(-(world.end_ms - world.start_ms) // _STANDING_PERIOD_MS)
    count = payments // rounds
    card = pick(rng, world.tickets, count)
    customer = world.card_customer[card]
    country = CITY_COUNTRY[world.customers.city[customer]]
    merchant = choose_merchant(rng, world.market, world.customers.persona[customer], country, Reach.STANDING)
    return StandingOrders(
        phase_ms=np.sort(rng.integers(0, _STANDING_PERIOD_MS, count)),
        card=card,
        merchant=merchant,
        amount_eur=world.market.merchants.level_eur[merchant] * np.exp(rng.normal(0.0, 0.3, count)),
    )


def cut_slices(world: World, rng: np.random.Generator, *, visits: int, echoes: int) -> list[Slice]:
    """Spread visits and echoes over the hours by the rhythm of the week, and cut the hours into slices."""
    hours = np.arange((world.end_ms - world.start_ms) // HOUR_MS)
    weight = rhythm(world).sum(axis=1)[_hour_of_week(world.start_ms, hours)]
    visits_by_hour = rng.multinomial(visits, weight / weight.sum())
    echoes_by_hour = rng.multinomial(echoes, visits_by_hour / max(1, visits))
    before = np.cumsum(visits_by_hour) - visits_by_hour
    cuts = np.append(np.unique(before // _ROWS_PER_SLICE, return_index=True)[1], len(hours))
    return [
        Slice(
            number=number,
            start_ms=world.start_ms + first * HOUR_MS,
            end_ms=world.start_ms + last * HOUR_MS,
            visits=visits_by_hour[first:last],
            echoes=echoes_by_hour[first:last],
        )
        for number, (first, last) in enumerate(pairwise(cuts.tolist()))
    ]


def rhythm(world: World) -> Reals:
    """(168, cities): how much is bought in each hour of the UTC week, Monday first, by the customers of each city."""
    local: Reals = np.array(WEEKDAY_WEIGHTS)[:, None] * np.array(HOUR_WEIGHTS)
    hour = (np.arange(_HOURS_PER_WEEK)[:, None] + CITY_UTC_OFFSET_HOURS).astype(np.int64) % _HOURS_PER_WEEK
    weight: Reals = local.ravel()[hour] * world.ticket_count
    return weight


def draw_slice(world: World, rng: np.random.Generator, piece: Slice, standing: StandingOrders) -> Rows:
    """Everything honest that happens in one slice, in no order; `follows` counts from its first row."""
    rows = checkout(world, rng, _draw_visits(world, rng, piece))
    echoes = _draw_echoes(world, rng, rows, piece)
    return Rows.concatenate([rows, echoes, checkout(world, rng, standing.due(world, piece.start_ms, piece.end_ms))])


def go_shopping(
    world: World, rng: np.random.Generator, time_ms: Integers, card: Integers, *, remote_tilt: Reals
) -> Visits:
    """Where each card pays at a moment when its customer buys something, and how much."""
    customers = world.customers
    customer = world.card_customer[card]
    city, away = where_they_are(world, customer, time_ms)
    remote = rng.random(len(card)) < customers.remote_share[customer] * remote_tilt
    slot = (customers.local_favourites.shape[1] * rng.random(len(card)) ** 2).astype(np.int64)
    favourite = np.where(
        remote, customers.remote_favourites[customer, slot], customers.local_favourites[customer, slot]
    )
    persona = customers.persona[customer]
    seller = seller_country(rng, customers.city[customer])
    other = np.where(
        remote,
        choose_merchant(rng, world.market, persona, seller, Reach.REMOTE),
        choose_merchant(rng, world.market, persona, city, Reach.LOCAL),
    )
    faithful = (rng.random(len(card)) < _FAVOURITE_SHARE) & (remote | ~away)
    merchant = np.where(faithful, favourite, other)
    return Visits(time_ms, card, merchant, city, draw_amounts(world, rng, card, merchant))


def _draw_visits(world: World, rng: np.random.Generator, piece: Slice) -> Visits:
    hours = np.arange(len(piece.visits))
    weight = rhythm(world)[_hour_of_week(piece.start_ms, hours)]
    by_city = rng.multinomial(piece.visits, weight / weight.sum(axis=1, keepdims=True))
    hour = np.repeat(hours, piece.visits)
    home = np.repeat(np.tile(np.arange(len(CITIES)), len(hours)), by_city.ravel())
    time_ms = piece.start_ms + hour * HOUR_MS + rng.integers(0, HOUR_MS, len(hour))
    card = card_of_city(world, rng, home)
    local_hour = (time_ms // HOUR_MS + CITY_UTC_OFFSET_HOURS[home]).astype(np.int64) % 24
    return go_shopping(world, rng, time_ms, card, remote_tilt=_REMOTE_TILT[local_hour])


def _draw_echoes(world: World, rng: np.random.Generator, rows: Rows, piece: Slice) -> Rows:
    """Further purchases and further attempts, soon after some of the rows and before the slice ends."""
    count = int(piece.echoes.sum())
    if count == 0:
        return rows.take(slice(0, 0))
    of = rng.integers(0, len(rows), count)
    first = rows.take(of)
    category = world.market.merchants.category[first.merchant]
    kind = _ECHO.draw(rng, CATEGORY_CHANNEL[category])
    delay_ms = log_uniform(rng, *_ECHO_DELAY_MS, count).astype(np.int64)
    again = amount_in_minor_units(
        draw_amounts(world, rng, first.card, first.merchant),
        world.market.merchants.country[first.merchant],
        cash=CATEGORY_CHANNEL[category] == ATM,
    )
    more = np.maximum(1, (first.amount_minor * rng.uniform(0.05, 0.4, count)).astype(np.int64))
    amount = np.where(kind == NONE, again, np.where(kind == _INCREMENTAL, more, first.amount_minor))
    return replace(
        first,
        time_ms=np.minimum(first.time_ms + delay_ms, piece.end_ms - 1),
        amount_minor=amount,
        three_ds=np.where(kind == _AFTER_CHALLENGE, _AUTHENTICATED, first.three_ds),
        follows=np.where(kind == NONE, NONE, of),
        follow_kind=kind,
    )


def _hour_of_week(start_ms: int, hours: Integers) -> Integers:
    """Monday 00:00 UTC is 0; 1970-01-01 was a Thursday."""
    return (start_ms // HOUR_MS + hours + 3 * 24) % _HOURS_PER_WEEK
