"""A feature specification is read whole or refused whole, with every fault and its place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from service.errors import SpecInvalid
from service.features.plan import compile_plan
from service.features.spec import parse_spec
from tests.features.agreement import plan_of, shipped_spec
from tests.features.oracle import Declaration
from tests.features.strategies import specs

Document = dict[str, Any]  # as YAML gives it: the tests below break it in every way


def document() -> Document:
    """A small specification without a fault."""
    return {
        "version": 1,
        "horizon": "90d",
        "entities": {
            "card": {
                "key": "card_id",
                "log": {"compact_at": 4, "keep": 2, "ring": 8},
                "windows": {"d1": {"length": "1d", "hop": "1h", "delay": "2h", "sums": ["count", "amount"]}},
                "sets": {
                    "categories": {
                        "of": "merchant_category_code",
                        "capacity": 4,
                        "hop": "12h",
                        "tally": {"sum": "amount", "half_life": "32d"},
                    },
                    "devices": {"of": "device_id", "capacity": 4, "hop": "1d"},
                },
                "decays": {"burst": {"half_life": "1h", "sum": "count"}},
                "features": {
                    "count": {"total": "d1.count"},
                    "rate": {"rate": "d1", "of": "amount", "prior": [1, 1000]},
                    "share": {"share": "categories"},
                    "distinct": {"distinct": "devices", "window": "30d"},
                    "burst": {"decayed": "burst"},
                },
            }
        },
        "transaction": {"features": {"abroad": {"differs": ["card_country", "ip_country"]}}, "categories": ["channel"]},
    }


def telling() -> Document:
    """The same, which also says what is unusual, and looks at frauds, logarithms and single tiles."""
    body = document()
    card = body["entities"]["card"]
    sums = ["count", "amount", "units", "units_squared", "log", "log_squared", "unusual"]
    card["windows"]["d30"] = {"length": "30d", "hop": "1d", "sums": sums}
    card["windows"]["told"] = {"length": "30d", "hop": "1d", "at": "report", "sums": ["count", "amount", "fraud"]}
    card["unusual"] = {"window": "d30", "above": 2.5, "minimum": 3}
    card["features"] |= {
        "octaves": {"ratio": "d30", "of": "log"},
        "z": {"zscore": "d30", "of": "log"},
        "mean": {"mean": "d30.amount", "per": "unusual"},
        "latest": {"latest": "told.fraud"},
        "earliest": {"earliest": "told.fraud"},
        "run": {"run": "told"},
        "entropy": {"entropy": "categories"},
    }
    return body


def at(path: str, value: object) -> Callable[[Document], None]:
    """A change: put a value at a dotted path."""

    def change(body: Document) -> None:
        *parents, last = path.split(".")
        for name in parents:
            body = body[name]
        body[last] = value

    return change


def without(path: str) -> Callable[[Document], None]:
    """A change: remove what stands at a dotted path."""

    def change(body: Document) -> None:
        *parents, last = path.split(".")
        for name in parents:
            body = body[name]
        del body[last]

    return change


CARD = "entities.card"
REFUSALS = [
    (at("version", 2), "version"),
    (at("horizont", "90d"), "horizont"),
    (at("horizon", "90"), "horizon"),
    (at("horizon", 90), "horizon"),
    (at("horizon", "1d"), f"{CARD}.windows.d1"),
    (at("entities", {}), "entities"),
    (at("entities", [1]), "entities"),
    (without("transaction"), "transaction"),
    (at(f"{CARD}.key", "amount"), f"{CARD}.key"),
    (without(f"{CARD}.log"), f"{CARD}.log"),
    (at(f"{CARD}.log.ring", 5), f"{CARD}.log.ring"),
    (at(f"{CARD}.log.keep", True), f"{CARD}.log.keep"),
    (at(f"{CARD}.log.keep", 0), f"{CARD}.log.keep"),
    (at(f"{CARD}.log.compact_at", 1.5), f"{CARD}.log.compact_at"),
    (at(f"{CARD}.windows.d1.hop", "7h"), f"{CARD}.windows.d1.hop"),
    (at(f"{CARD}.windows.d1.hop", "0h"), f"{CARD}.windows.d1.hop"),
    (at(f"{CARD}.windows.d1.delay", "90m"), f"{CARD}.windows.d1.delay"),
    (at(f"{CARD}.windows.d1.at", "report"), f"{CARD}.windows.d1.delay"),
    (at(f"{CARD}.windows.d1.at", "arrival"), f"{CARD}.windows.d1.at"),
    (at(f"{CARD}.windows.d1.sums", ["count", "count"]), f"{CARD}.windows.d1.sums"),
    (at(f"{CARD}.windows.d1.sums", []), f"{CARD}.windows.d1.sums"),
    (at(f"{CARD}.windows.d1.sums", ["money"]), f"{CARD}.windows.d1.sums.0"),
    (at(f"{CARD}.sets.categories.of", "amount"), f"{CARD}.sets.categories.of"),
    (at(f"{CARD}.sets.categories.capacity", 0), f"{CARD}.sets.categories.capacity"),
    (at(f"{CARD}.sets.categories.tally.half_life", "33d"), f"{CARD}.sets.categories.tally.half_life"),
    (at(f"{CARD}.sets.categories.tally.sum", "fraud"), f"{CARD}.sets.categories.tally.sum"),
    (at(f"{CARD}.decays.burst.half_life", "1s"), f"{CARD}.decays.burst.half_life"),
    (at(f"{CARD}.decays.burst.sum", "units"), f"{CARD}.decays.burst.sum"),
    (at(f"{CARD}.features.count", {"total": "d2.count"}), f"{CARD}.features.count.total"),
    (at(f"{CARD}.features.count", {"total": "d1.fraud"}), f"{CARD}.features.count.total"),
    (at(f"{CARD}.features.count", {"zscore": "d1"}), f"{CARD}.features.count.zscore"),
    (at(f"{CARD}.features.count", {"total": "d1.count", "mean": "d1.amount"}), f"{CARD}.features.count"),
    (at(f"{CARD}.features.count", {"total": "d1.count", "minimum": 3}), f"{CARD}.features.count.minimum"),
    (at(f"{CARD}.features.count", {"total": "d1.count", "default": float("nan")}), f"{CARD}.features.count.default"),
    (at(f"{CARD}.features.count", {"hour": True}), f"{CARD}.features.count"),
    (at(f"{CARD}.features.count", {"age": False}), f"{CARD}.features.count.age"),
    (at(f"{CARD}.features.Count", {"age": True}), f"{CARD}.features"),
    (at(f"{CARD}.features.rate.prior", [1, 0]), f"{CARD}.features.rate.prior"),
    (at(f"{CARD}.features.rate.of", "fraud"), f"{CARD}.features.rate.rate"),
    (at(f"{CARD}.features.share.share", "devices"), f"{CARD}.features.share.share"),
    (at(f"{CARD}.features.distinct.distinct", "cards"), f"{CARD}.features.distinct.distinct"),
    (without(f"{CARD}.features.distinct.window"), f"{CARD}.features.distinct.window"),
    (at(f"{CARD}.features.distinct.window", "91d"), f"{CARD}.features.distinct.window"),
    (at(f"{CARD}.features.burst.decayed", "bursts"), f"{CARD}.features.burst.decayed"),
    (at("transaction.features.count", {"hour": True}), "entities"),
    (at("transaction.features.known", {"known": True}), "transaction.features.known"),
    (at("transaction.features.abroad.differs", ["card_country"]), "transaction.features.abroad.differs"),
    (at("transaction.features.abroad.differs", ["card_country", "amount"]), "transaction.features.abroad.differs"),
    (at("transaction.categories", ["amount"]), "transaction.categories.0"),
]


UNUSUAL, FEATURES = f"{CARD}.unusual", f"{CARD}.features"
TELLING_REFUSALS = [
    (without(UNUSUAL), f"{CARD}.windows.d30.sums"),
    (at(UNUSUAL, "d30"), UNUSUAL),
    (without(f"{UNUSUAL}.above"), f"{UNUSUAL}.above"),
    (at(f"{UNUSUAL}.below", 1), f"{UNUSUAL}.below"),
    (at(f"{UNUSUAL}.window", "d90"), f"{UNUSUAL}.window"),
    (at(f"{UNUSUAL}.window", "d1"), f"{UNUSUAL}.window"),  # is delayed
    (at(f"{UNUSUAL}.window", "told"), f"{UNUSUAL}.window"),  # is at report
    (at(f"{CARD}.windows.d30.sums", ["count", "log", "log_squared", "unusual"]), f"{UNUSUAL}.window"),
    (at(f"{UNUSUAL}.above", 1), f"{UNUSUAL}.above"),
    (at(f"{UNUSUAL}.above", 1_000_001), f"{UNUSUAL}.above"),
    (at(f"{UNUSUAL}.above", float("inf")), f"{UNUSUAL}.above"),
    (at(f"{UNUSUAL}.above", "3"), f"{UNUSUAL}.above"),
    (at(f"{UNUSUAL}.minimum", 0), f"{UNUSUAL}.minimum"),
    (at(f"{UNUSUAL}.minimum", 1.5), f"{UNUSUAL}.minimum"),
    (at(f"{CARD}.sets.categories.tally.sum", "unusual"), f"{CARD}.sets.categories.tally.sum"),
    (at(f"{CARD}.decays.burst.sum", "log"), f"{CARD}.decays.burst.sum"),
    (at(f"{FEATURES}.octaves.of", "units"), f"{FEATURES}.octaves.of"),
    (at(f"{FEATURES}.octaves.ratio", "d1"), f"{FEATURES}.octaves.ratio"),
    (at(f"{FEATURES}.octaves.ratio", "d30.log"), f"{FEATURES}.octaves.ratio"),
    (at(f"{FEATURES}.z.of", "amount"), f"{FEATURES}.z.of"),
    (at(f"{FEATURES}.z.zscore", "told"), f"{FEATURES}.z.zscore"),
    (at(f"{FEATURES}.mean.per", "money"), f"{FEATURES}.mean.per"),
    (at(f"{FEATURES}.mean.per", "fraud"), f"{FEATURES}.mean.mean"),
    (at(f"{FEATURES}.count.per", "count"), f"{FEATURES}.count.per"),
    (at(f"{FEATURES}.latest.latest", "told"), f"{FEATURES}.latest.latest"),
    (at(f"{FEATURES}.latest.latest", "d30.fraud"), f"{FEATURES}.latest.latest"),
    (at(f"{FEATURES}.earliest.earliest", "never.fraud"), f"{FEATURES}.earliest.earliest"),
    (at(f"{FEATURES}.run.run", "d30"), f"{FEATURES}.run.run"),
    (at(f"{FEATURES}.run.run", "told.fraud"), f"{FEATURES}.run.run"),
    (at(f"{FEATURES}.run.of", "fraud"), f"{FEATURES}.run.of"),
    (at(f"{FEATURES}.entropy.entropy", "devices"), f"{FEATURES}.entropy.entropy"),
    (at("transaction.features.run", {"run": "told"}), "transaction.features.run"),
]


@pytest.mark.parametrize(
    ("whole", "change", "path"),
    [*((document, *refusal) for refusal in REFUSALS), *((telling, *refusal) for refusal in TELLING_REFUSALS)],
)
def test_what_the_engine_cannot_run_is_refused_with_its_place(
    whole: Callable[[], Document], change: Callable[[Document], None], path: str
) -> None:
    """Each fault is named by its path, and the same document without the fault is taken."""
    broken = whole()
    parse_spec(broken)
    change(broken)
    with pytest.raises(SpecInvalid) as refused:
        parse_spec(broken)
    assert path in [fault.path for fault in refused.value.faults]


def test_every_fault_is_reported_at_once() -> None:
    """Three mistakes in three places are three faults of one refusal."""
    broken = document()
    for path in (f"{CARD}.key", f"{CARD}.decays.burst.sum", "transaction.categories"):
        at(path, ["no"])(broken)
    with pytest.raises(SpecInvalid) as refused:
        parse_spec(broken)
    paths = [f"{CARD}.key", f"{CARD}.decays.burst.sum", "transaction.categories.0"]
    assert sorted(fault.path for fault in refused.value.faults) == sorted(paths)


def test_a_state_that_is_too_large_is_refused() -> None:
    """An entity whose windows and sets would not fit the bound of its state is refused before anything is folded."""
    broken = document()
    at(f"{CARD}.windows.d1", {"length": "90d", "hop": "5m", "sums": ["count", "amount"]})(broken)
    with pytest.raises(SpecInvalid, match="slots"):
        compile_plan(parse_spec(broken))


@settings(max_examples=20)
@given(spec=specs())
def test_the_digest_is_of_what_a_specification_means(spec: Declaration) -> None:
    """A copy has the same digest; another default, another order of the features another one."""
    plain: Document = copy.deepcopy(dict(spec))
    digest = parse_spec(plain).sha256
    entity = next(iter(plain["entities"].values()))
    assert parse_spec(copy.deepcopy(plain)).sha256 == digest
    entity["features"] = dict(reversed(entity["features"].items()))
    assert parse_spec(plain).sha256 != digest
    entity["features"] = dict(reversed(entity["features"].items()))
    next(iter(entity["features"].values()))["default"] = 7.25
    assert parse_spec(plain).sha256 != digest


def test_a_document_that_spells_out_what_is_given_anyway_means_the_same() -> None:
    """Durations and defaults are compared by what they mean: a day is 24 hours, at the transaction is the rule."""
    spelled = document()
    at(f"{CARD}.windows.d1.length", "24h")(spelled)
    at(f"{CARD}.windows.d1.at", "transaction")(spelled)
    assert parse_spec(spelled).sha256 == parse_spec(document()).sha256


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ({"ratio": "d30"}, {"of": "amount"}),
        ({"zscore": "d30"}, {"of": "units"}),
        ({"mean": "d30.amount"}, {"per": "count"}),
    ],
)
def test_a_measure_that_goes_without_saying_may_be_said(feature: Declaration, said: Declaration) -> None:
    """A ratio is of amounts, a z-score of units and a mean per attempt, and to say so changes nothing."""
    plain, spelled = telling(), telling()
    at(f"{FEATURES}.mean", feature)(plain)
    at(f"{FEATURES}.mean", {**feature, **said})(spelled)
    assert parse_spec(spelled).sha256 == parse_spec(plain).sha256


def test_what_specifications_learn_to_say_changes_no_digest_of_those_that_do_not_say_it() -> None:
    """A specification has the digest under which stores have kept its histories from the start."""
    assert parse_spec(document()).sha256 == "fa93be5d3d4f9a04ce7c9f5f6ed3890d78c47e188b945a2293e1110312aa7d4b"


@pytest.mark.parametrize(
    "change",
    [
        at(f"{UNUSUAL}.above", 2),
        at(f"{UNUSUAL}.minimum", 4),
        at(f"{FEATURES}.mean", {"mean": "d30.amount"}),
        at(f"{FEATURES}.octaves", {"ratio": "d30"}),
    ],
)
def test_what_is_said_of_amounts_counts_in_the_digest(change: Callable[[Document], None]) -> None:
    """What is unusual, what a mean is per and whether amounts are taken as logarithms are part of the meaning."""
    other = telling()
    change(other)
    assert parse_spec(other).sha256 != parse_spec(telling()).sha256


def test_the_shipped_specification_is_as_large_as_it_was_meant() -> None:
    """At least thirty features over card, merchant, terminal and device, each with a name of its own."""
    plan = plan_of(shipped_spec())
    assert plan.entities == ("card", "merchant", "terminal", "device")
    assert len(plan.numeric) >= 30
    assert len(set(plan.numeric)) == len(plan.numeric)
