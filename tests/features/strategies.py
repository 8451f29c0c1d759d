"""Hypothesis strategies: any valid feature specification, and any short stream of events."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

from tests.features.oracle import Declaration
from tests.features.streams import AMOUNTS, LATE_MS, LONG_WAITS_MS, PLACES, WAITS_MS, Action, Step

Named = dict[str, Declaration]

HOPS_S = (1, 7, 60, 300, 3_600, 21_600, 86_400)
MOST_TILES = 12
MOST_DELAY_TILES = 7
HALF_LIVES_S = (8, 64, 3_600, 86_400, 32 * 86_400)  # multiples of 64 ms
OF_A_MEASURE = ("total", "latest", "earliest")
OF_WEIGHTS = ("share", "entropy")
KEYS = ("card_id", "merchant_id", "terminal_id", "device_id", "customer_id")
MEMBERS = (*KEYS, "merchant_category_code", "merchant_country", "card_country", "ip_country")
MEASURES = (
    "count", "amount", "units", "units_squared", "fraud", "issuer_declined", "fraud_amount", "log", "log_squared",
)  # fmt: skip
TOGETHER = (  # what some operation needs; drawn one by one these would seldom meet
    (),
    ("count", "amount"),
    ("count", "units", "units_squared"),
    ("count", "log", "log_squared"),
    ("count", "fraud"),
    ("fraud", "fraud_amount"),
)

TRANSACTION_FEATURES: Named = {
    "amount": {"field": "amount"},
    "latitude": {"field": "latitude"},
    "longitude": {"field": "longitude"},
    "hour": {"hour": True},
    "weekday": {"weekday": True},
    "cross_border": {"differs": ["card_country", "merchant_country"]},
    "has_terminal": {"present": "terminal_id"},
    "has_category": {"present": "merchant_category_code"},
    "has_place": {"present": "latitude"},
}


class Groups(NamedTuple):
    """What one entity keeps."""

    windows: Named
    sets: Named
    decays: Named


def steps() -> st.SearchStrategy[Step]:
    """One step; simpler is an attempt at card 1, at once and in time."""
    return st.builds(
        Step,
        action=st.sampled_from([Action.ATTEMPT, Action.ATTEMPT, *Action]),
        wait_ms=st.sampled_from([*WAITS_MS, *LONG_WAITS_MS]),
        late_ms=st.sampled_from(LATE_MS),
        back=st.integers(0, 6),
        ahead_ms=st.sampled_from(LATE_MS),
        card=st.integers(1, 2),
        merchant=st.integers(1, 2),
        terminal=st.integers(0, 1),
        device=st.integers(0, 3),
        amount=st.sampled_from(AMOUNTS),
        category=st.integers(0, 3),
        country=st.integers(0, 2),
        card_country=st.integers(0, 2),
        place=st.integers(0, len(PLACES)),
    )


def streams() -> st.SearchStrategy[list[Step]]:
    """Up to 30 steps."""
    return st.lists(steps(), min_size=1, max_size=30)


@st.composite
def specs(draw: st.DrawFn) -> Declaration:
    """A specification with every operation that its windows, sets and counters allow."""
    horizon_s = draw(st.sampled_from([90 * 86_400, 19 * 86_400, 19 * 3_600, 19 * 60]))
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    return {
        "version": 1,
        "horizon": f"{horizon_s}s",
        "entities": {key.removesuffix("_id"): draw(entities(key, horizon_s)) for key in keys},
        "transaction": {"features": TRANSACTION_FEATURES, "categories": ["channel", "merchant_category_code"]},
    }


@st.composite
def entities(draw: st.DrawFn, key: str, horizon_s: int) -> Declaration:
    """One entity, with cost parameters so small that compaction and forgetting happen within a few entries."""
    compact_at, keep, spare = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(0, 5))
    windows, unusual = draw(unusual_counted(draw(named("w", windows_within(horizon_s)))))
    groups = Groups(windows, sets=draw(named("s", member_sets())), decays=draw(named("d", counters())))
    return {
        "key": key,
        "log": {"compact_at": compact_at, "keep": keep, "ring": compact_at + keep + spare},
        **groups._asdict(),
        **unusual,
        "features": draw(features(key.removesuffix("_id"), horizon_s, groups)),
    }


def named(prefix: str, declarations: st.SearchStrategy[Declaration]) -> st.SearchStrategy[Named]:
    """None to three declarations, named `prefix` and a number."""
    return st.lists(declarations, max_size=3).map(
        lambda items: {f"{prefix}{number}": item for number, item in enumerate(items)}
    )


@st.composite
def windows_within(draw: st.DrawFn, horizon_s: int) -> Declaration:
    """A window whose length and delay together fit the horizon."""
    tiles = MOST_TILES + MOST_DELAY_TILES
    hop_s = draw(st.sampled_from([hop_s for hop_s in HOPS_S if hop_s * tiles <= horizon_s]))
    at = draw(st.sampled_from(["transaction", "transaction", "report"]))
    delay_s = hop_s * draw(st.sampled_from([0, 0, 0, 1, 3, MOST_DELAY_TILES]))
    return {
        "length": f"{hop_s * draw(st.integers(1, MOST_TILES))}s",
        "hop": f"{hop_s}s",
        "sums": draw(sums()),
        "at": at,
    } | ({"delay": f"{delay_s}s"} if delay_s and at == "transaction" else {})


@st.composite
def sums(draw: st.DrawFn) -> list[str]:
    """What a window sums, in any order."""
    together = draw(st.sampled_from(TOGETHER))
    others = draw(st.lists(st.sampled_from(MEASURES), min_size=0 if together else 1))
    return draw(st.permutations(list(dict.fromkeys([*together, *others]))))


@st.composite
def unusual_counted(draw: st.DrawFn, windows: Named) -> tuple[Named, Named]:
    """The windows, and what is unusual by one of them, which then sums what that needs; some count it."""
    able = [name for name, window in windows.items() if "delay" not in window and window["at"] == "transaction"]
    if not able:
        return windows, {}
    by, above = draw(st.sampled_from(able)), draw(st.sampled_from([1.001, 1.5, 3]))
    counting = draw(st.sets(st.sampled_from(list(windows)), min_size=1))
    added = {name: ["count", "amount"] * (name == by) + ["unusual"] * (name in counting) for name in windows}
    widened: Named = {
        name: {**window, "sums": list(dict.fromkeys([*summed(window), *added[name]]))}
        for name, window in windows.items()
    }
    return widened, {"unusual": {"window": by, "above": above, "minimum": draw(st.integers(1, 3))}}


def summed(window: Declaration) -> list[str]:
    sums = window["sums"]
    assert isinstance(sums, list), sums
    return sums


@st.composite
def member_sets(draw: st.DrawFn) -> Declaration:
    """A set so small that it overflows, with a tally now and then."""
    hop_s = draw(st.sampled_from(HOPS_S))
    declared: Declaration = {
        "of": draw(st.sampled_from(MEMBERS)),
        "capacity": draw(st.integers(1, 4)),
        "hop": f"{hop_s}s",
    }
    if draw(st.booleans()):
        half_life_s = hop_s * 64 // draw(st.sampled_from([1, 4, 64]))
        return {**declared, "tally": {"sum": draw(sums_of_attempts()), "half_life": f"{half_life_s}s"}}
    return declared


@st.composite
def counters(draw: st.DrawFn) -> Declaration:
    """A decayed counter."""
    return {"half_life": f"{draw(st.sampled_from(HALF_LIVES_S))}s", "sum": draw(sums_of_attempts())}


def sums_of_attempts() -> st.SearchStrategy[str]:
    """What tallies and counters can sum."""
    return st.sampled_from(["count", "amount"])


@st.composite
def features(draw: st.DrawFn, prefix: str, horizon_s: int, groups: Groups) -> Named:
    """Every operation that the declarations allow, each with or without a default."""
    declared: list[Declaration] = [
        {"since_last": True},
        {"age": True},
        *[{"changed": field} for field in ("merchant_country", "card_country", "merchant_category_code")],
        {"distance": True},
        {"speed": True},
        {"known": True},
        *[feature for name, window in groups.windows.items() for feature in window_features(name, window)],
        *[{"new": name} for name in groups.sets],
        *[{operation: name} for name in groups.sets if "tally" in groups.sets[name] for operation in OF_WEIGHTS],
    ]
    defaults = draw(st.lists(st.sampled_from([None, -1, 0, 2.5]), min_size=len(declared), max_size=len(declared)))
    spans = st.sampled_from([hop_s * 3 for hop_s in HOPS_S if hop_s * 3 <= horizon_s])
    features = [
        *[
            feature if default is None else {**feature, "default": default}
            for feature, default in zip(declared, defaults, strict=True)
        ],
        *[{"distinct": name, "window": f"{draw(spans)}s"} for name in groups.sets],
        *[{"decayed": name} for name in groups.decays],
    ]
    return {f"{prefix}_{number}": feature for number, feature in enumerate(features)}


def window_features(name: str, window: Declaration) -> list[Declaration]:
    """Every operation that the measures of a window allow."""
    sums = summed(window)
    found: list[Declaration] = [{operation: f"{name}.{measure}"} for operation in OF_A_MEASURE for measure in sums]
    found += [{"mean": f"{name}.{measure}", "per": per} for measure, per in pairwise(sums)]
    if "count" in sums:
        found += [{"mean": f"{name}.{measure}"} for measure in sums]
        found += [{"rate": name, "of": measure, "prior": [1, 10]} for measure in sums]
    if {"count", "amount"} <= set(sums):
        found += [{"ratio": name}, {"ratio": name, "of": "amount"}]
    if {"count", "log"} <= set(sums):
        found.append({"ratio": name, "of": "log"})
    if {"count", "units", "units_squared"} <= set(sums):
        found.append({"zscore": name, "minimum": 2})
    if {"count", "log", "log_squared"} <= set(sums):
        found.append({"zscore": name, "of": "log", "minimum": 2})
    if {"count", "fraud"} <= set(sums):
        found.append({"run": name})
    return found
