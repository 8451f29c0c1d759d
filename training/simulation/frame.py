"""Rows of indices as a data frame in the canonical format: the request's fields, and what later became known."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

import numpy as np
import polars as pl

from service.vocabulary import Channel, CheckResult, EntryMode, FollowKind, ThreeDS
from training.simulation.atlas import CATEGORIES, CITIES, COUNTRIES
from training.simulation.fraud import TYPOLOGIES
from training.simulation.rows import CATEGORY_CHANNEL, SHARED_ADDRESSES, Rows
from training.simulation.world import NONE, Integers, World

_MILLISECONDS = pl.Datetime("ms", "UTC")
_NUMBER_DIGITS = 9
_SPREADING = 2_654_435_761  # odd, so that multiplying by it permutes 32 bits (Knuth, TAOCP 3, 6.4)
_SPREADING_SEEDS = 0x5851_F42D

SCHEMA = pl.Schema(
    {
        "transaction_id": pl.String(),
        "timestamp": _MILLISECONDS,
        "card_id": pl.String(),
        "merchant_id": pl.String(),
        "amount": pl.Int64(),
        "currency": pl.String(),
        "merchant_category_code": pl.String(),
        "merchant_country": pl.String(),
        "card_country": pl.String(),
        "billing_country": pl.String(),
        "shipping_country": pl.String(),
        "ip_country": pl.String(),
        "terminal_id": pl.String(),
        "device_id": pl.String(),
        "customer_id": pl.String(),
        "email_hash": pl.String(),
        "ip_address": pl.String(),
        "channel": pl.String(),
        "entry_mode": pl.String(),
        "cvc_check": pl.String(),
        "avs_check": pl.String(),
        "three_ds": pl.String(),
        "latitude": pl.Float64(),
        "longitude": pl.Float64(),
        "follows": pl.String(),
        "follow_kind": pl.String(),
        "is_fraud": pl.Boolean(),
        "reported_at": _MILLISECONDS,
        "typology": pl.String(),
    }
)


@dataclass(frozen=True, slots=True)
class Names:
    """The word for every index of a world. Each table ends with a null, which index -1 finds."""

    seed: int
    cards: pl.Series
    card_countries: pl.Series
    customers: pl.Series
    emails: pl.Series
    devices: pl.Series
    addresses: pl.Series
    merchants: pl.Series
    merchant_countries: pl.Series
    merchant_currencies: pl.Series
    merchant_codes: pl.Series
    merchant_channels: pl.Series
    terminals: pl.Series


def name_everything(world: World, *, seed: int) -> Names:
    """Words for a world's cards, customers, devices, addresses, merchants and terminals; other seeds, other words."""
    customers = len(world.customers.city)
    home = world.customers.city[world.card_customer]
    merchants = world.market.merchants
    return Names(
        seed=seed,
        cards=_tokens("card", len(world.card_customer), seed),
        card_countries=_table([CITIES[city].country for city in range(len(CITIES))]).gather(_ended(home)),
        customers=_tokens("cust", customers, seed),
        emails=_tokens("mail", customers + world.gangs, seed),
        devices=_tokens("dev", 3 * customers + world.gangs, seed),
        addresses=_private_addresses(customers + len(CITIES) * SHARED_ADDRESSES + world.gangs, seed),
        merchants=_tokens("shop", len(merchants.category), seed),
        merchant_countries=_table([country.code for country in COUNTRIES]).gather(_ended(merchants.country)),
        merchant_currencies=_table([country.currency for country in COUNTRIES]).gather(_ended(merchants.country)),
        merchant_codes=_table([category.code for category in CATEGORIES]).gather(_ended(merchants.category)),
        merchant_channels=_words(Channel).gather(_ended(CATEGORY_CHANNEL[merchants.category])),
        terminals=_tokens("term", int(merchants.terminals.sum()), seed),
    )


def frame(world: World, names: Names, rows: Rows, *, first_number: int) -> pl.DataFrame:
    """The rows in their order as a data frame with `SCHEMA`; the first gets the transaction number `first_number`."""
    ids = _transaction_ids(names.seed, first_number, len(rows))
    countries = _table([country.code for country in COUNTRIES])
    checks = _words(CheckResult)
    customer = world.card_customer[rows.card]
    return pl.DataFrame(
        [
            ids.head(len(rows)).alias("transaction_id"),
            pl.Series("timestamp", rows.time_ms).cast(_MILLISECONDS),
            names.cards.gather(rows.card).alias("card_id"),
            names.merchants.gather(rows.merchant).alias("merchant_id"),
            pl.Series("amount", rows.amount_minor),
            names.merchant_currencies.gather(rows.merchant).alias("currency"),
            names.merchant_codes.gather(rows.merchant).alias("merchant_category_code"),
            names.merchant_countries.gather(rows.merchant).alias("merchant_country"),
            names.card_countries.gather(rows.card).alias("card_country"),
            countries.gather(rows.billing_country).alias("billing_country"),
            countries.gather(rows.shipping_country).alias("shipping_country"),
            countries.gather(rows.ip_country).alias("ip_country"),
            names.terminals.gather(rows.terminal).alias("terminal_id"),
            names.devices.gather(rows.device).alias("device_id"),
            names.customers.gather(customer).alias("customer_id"),
            names.emails.gather(rows.email).alias("email_hash"),
            names.addresses.gather(rows.address).alias("ip_address"),
            names.merchant_channels.gather(rows.merchant).alias("channel"),
            _words(EntryMode).gather(rows.entry_mode).alias("entry_mode"),
            checks.gather(rows.cvc_check).alias("cvc_check"),
            checks.gather(rows.avs_check).alias("avs_check"),
            _words(ThreeDS).gather(rows.three_ds).alias("three_ds"),
            pl.Series("latitude", rows.latitude).fill_nan(None),
            pl.Series("longitude", rows.longitude).fill_nan(None),
            ids.gather(rows.follows).alias("follows"),
            _words(FollowKind).gather(rows.follow_kind).alias("follow_kind"),
            pl.Series("is_fraud", rows.typology != NONE),
            pl.Series("reported_at", rows.reported_ms)
            .set(pl.Series(rows.reported_ms == NONE), None)
            .cast(_MILLISECONDS),
            _table(list(TYPOLOGIES)).gather(rows.typology).alias("typology"),
        ]
    )


def _transaction_ids(seed: int, first_number: int, count: int) -> pl.Series:
    """`sim-7-000000123` and so on, ended by a null."""
    numbers = pl.Series(np.arange(first_number, first_number + count)).cast(pl.String).str.zfill(_NUMBER_DIGITS)
    return (f"sim-{seed}-" + numbers).extend_constant(None, 1)


def _tokens(kind: str, count: int, seed: int) -> pl.Series:
    """`card-9e3779b1` and so on: distinct, in no order, and with letters, so that none looks like a card number."""
    return _table([f"{kind}-{_spread(number, seed):08x}" for number in range(count)])


def _private_addresses(count: int, seed: int) -> pl.Series:
    """Addresses in 10.0.0.0/8 (RFC 1918), so that none is anybody's."""
    return _table([str(IPv4Address(0x0A000000 | _spread(number, seed) >> 8)) for number in range(count)])


def _words(vocabulary: type[StrEnum]) -> pl.Series:
    return _table([member.value for member in vocabulary])


def _table(words: list[str]) -> pl.Series:
    return pl.Series([*words, None], dtype=pl.String)


def _ended(indices: Integers) -> Integers:
    """The indices, and one that finds a null."""
    return np.append(indices, NONE)


def _spread(number: int, seed: int) -> int:
    """A number below 2^32 that looks like no count; different numbers below 2^32 stay different."""
    return (number * _SPREADING + seed * _SPREADING_SEEDS) % 2**32
