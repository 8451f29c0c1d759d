"""The definition of every feature in plain loops: docs/features.md restated, each value recomputed from the whole log.

Slow on purpose. Nothing here keeps a running total, a ring or a compacted state: an entity's log is a list of the
entries it accepted, and each value is worked out from that list alone. Written from the page, never from the kernel.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Event = Mapping[str, int | None]
"""One entry: kind, id, time, origin, amount, added, delta and the transaction's fields by name; None where missing."""

Declaration = Mapping[str, object]
"""One mapping of the feature specification, as YAML gives it."""

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
SATURATED = 2**53 - 1
EMPTY: Declaration = {}
LOGARITHMS = [round(65_536 * math.log2(1 + i / 64)) for i in range(65)]
COSINES = [round(10_000 * math.cos(math.radians(degree))) for degree in range(91)]


class Kind(IntEnum):
    """The five kinds of entry."""

    ATTEMPT = 1
    FOLLOW_UP = 2
    FRAUD_LABEL = 3
    ISSUER_DECLINE = 4
    VOID = 5


@dataclass(frozen=True)
class Accepted:
    """An entry that its log accepted, what it adds to each measure, and the log's time when it was applied."""

    event: Event
    adds: Mapping[str, int]
    as_of: int


@dataclass(frozen=True)
class Window:
    """How long, in tiles of which hop, how late it becomes visible (all in ms), and whose time outcomes count at."""

    length: int
    hop: int
    delay: int
    at: str


@dataclass(frozen=True)
class Unusual:
    """An attempt is unusual above so many times the mean amount of a window, once that has counted `minimum`."""

    window: str
    above: float
    minimum: int


@dataclass(frozen=True)
class SlotSet:
    """A bounded list of the values of a field; with `tally`, a weight for each that decays `per_tile` steps a tile."""

    of: str
    capacity: int
    hop: int
    tally: str | None
    per_tile: int


@dataclass(frozen=True)
class Counter:
    """A sum that decays in steps of `quantum` ms, 64 of them to a half-life."""

    sum: str
    quantum: int


@dataclass(frozen=True)
class Definition:
    """What the specification declares for one entity."""

    key: str
    horizon: int
    ring: int
    windows: Mapping[str, Window]
    sets: Mapping[str, SlotSet]
    counters: Mapping[str, Counter]
    unusual: Unusual | None
    features: Mapping[str, Declaration]

    @property
    def longest(self) -> int:
        """The longest stretch any window or distinct count looks back, ms."""
        windows = [window.length + window.delay for window in self.windows.values()]
        distinct = [milliseconds(feature["window"]) for feature in self.features.values() if "distinct" in feature]
        return max([0, *windows, *distinct])


@dataclass
class Slot:
    """One value of a set, the last tile it was seen in, and its weight in 1/1024."""

    value: int
    tile: int
    weight: int


class Oracle:
    """One entity's log, and the features of each transaction in it by their definition."""

    def __init__(self, spec: Declaration, entity: str) -> None:
        self.defined = read_entity(spec, entity)
        self.rev = 0
        self.log: list[Accepted] = []

    def observe(self, event: Event, *, born_at: int) -> list[float] | None:
        """The features of `event` as binary64, one per declared feature, and `event` joins the log.

        Args:
            event: the next entry of this entity's log.
            born_at: time of the first entry that the store ever accepted, ms.

        Returns:
            The values in the order of declaration, all NaN if `event` is no transaction; None for an ignored duplicate.
        """
        if event["id"] in [earlier.event["id"] for earlier in self.log[-self.defined.ring :]]:
            return None
        as_of = max([number(event, "time"), *(earlier.as_of for earlier in self.log[-1:])])
        if self.log and as_of - self.log[-1].as_of > self.defined.horizon:
            self.log = []
        values = self.read(event, as_of, born_at)
        adds = measures(event) | {"unusual": int(self.unusual(event, as_of))}
        self.log.append(Accepted(event, adds, as_of))
        self.rev += 1
        return values

    def unusual(self, event: Event, as_of: int) -> bool:
        """Whether an attempt's amount is far above what its entity spent before it."""
        declared = self.defined.unusual
        if declared is None or event["kind"] != Kind.ATTEMPT:
            return False
        reading = Reading(self.defined, self.log, event, as_of)
        count, amount = reading.total(declared.window, "count"), reading.total(declared.window, "amount")
        if count < declared.minimum or amount <= 0:
            return False
        return float(number(event, "amount")) * float(count) > declared.above * float(amount)

    def read(self, event: Event, as_of: int, born_at: int) -> list[float]:
        """The features of `event` from the entries before it, as of `as_of`."""
        unknown = not self.log and as_of < born_at + self.defined.longest
        if unknown or event["kind"] not in {Kind.ATTEMPT, Kind.FOLLOW_UP}:
            return [math.nan] * len(self.defined.features)
        reading = Reading(self.defined, self.log, event, as_of)
        return [reading.value(feature) for feature in self.defined.features.values()]


@dataclass(frozen=True)
class Reading:
    """One transaction looking at the entries before it."""

    defined: Definition
    log: Sequence[Accepted]
    event: Event
    as_of: int

    def value(self, feature: Declaration) -> float:  # noqa: PLR0912 - one case per operation of the page
        """One feature, by the operation it names."""
        default = floating(feature.get("default", math.nan))
        match feature:
            case {"total": str(name)}:
                return float(self.total(*name.split(".")))
            case {"mean": str(name)}:
                return self.mean(*name.split("."), per=str(feature.get("per", "count")), default=default)
            case {"ratio": str(window), "of": "log"}:
                return self.log_ratio(window, default=default)
            case {"ratio": str(window)}:
                return self.ratio(window, default=default)
            case {"zscore": str(window), "of": "log", "minimum": int(minimum)}:
                return self.zscore(window, "log", logarithm(self.event), minimum, default=default)
            case {"zscore": str(window), "minimum": int(minimum)}:
                return self.zscore(window, "units", units(self.event), minimum, default=default)
            case {"run": str(window)}:
                return self.run(window)
            case {"latest": str(name)}:
                return self.days_ago(*name.split("."), choose=max, default=default)
            case {"earliest": str(name)}:
                return self.days_ago(*name.split("."), choose=min, default=default)
            case {"rate": str(window), "of": str(measure), "prior": [int(fraud), int(count)]}:
                return self.rate(window, measure, fraud, count)
            case {"since_last": True}:
                return self.since_last(default=default)
            case {"age": True}:
                return self.age(default=default)
            case {"changed": str(field)}:
                return self.changed(field, default=default)
            case {"distance": True}:
                return self.distance(default=default)
            case {"speed": True}:
                return self.speed(default=default)
            case {"distinct": str(name), "window": str(length)}:
                return self.distinct(name, milliseconds(length))
            case {"new": str(name)}:
                return self.new(name, default=default)
            case {"share": str(name)}:
                return self.share(name, default=default)
            case {"entropy": str(name)}:
                return self.entropy(name, default=default)
            case {"decayed": str(name)}:
                return self.decayed(name)
            case {"known": True}:
                return 1.0 if self.log else 0.0
        raise AssertionError(f"an operation that the page does not define: {feature}")

    # Windows

    def total(self, name: str, measure: str) -> int:
        """The sum of a measure over the window's visible tiles at `as_of`."""
        window = self.defined.windows[name]
        return sum(entry.adds.get(measure, 0) for entry in self.log if counted(window, entry, self.as_of))

    def mean(self, window: str, measure: str, *, per: str, default: float) -> float:
        """Σ measure / Σ per."""
        below = self.total(window, per)
        return default if below <= 0 else float(self.total(window, measure)) / float(below)

    def ratio(self, window: str, *, default: float) -> float:
        """The amount times the mean count per amount: Σ count / Σ amount."""
        amount, count = self.total(window, "amount"), self.total(window, "count")
        if amount <= 0 or count <= 0:
            return default
        return float(number(self.event, "amount")) * float(count) / float(amount)

    def log_ratio(self, window: str, *, default: float) -> float:
        """The binary logarithm of the amount over the geometric mean."""
        count = self.total(window, "count")
        if count <= 0:
            return default
        return (float(logarithm(self.event)) - float(self.total(window, "log")) / float(count)) / 64.0

    def zscore(self, window: str, of: str, own: int, minimum: int, *, default: float) -> float:
        """How many standard deviations the transaction's own value of `of` lies above the mean."""
        c = float(self.total(window, "count"))
        s = float(self.total(window, of))
        q = float(self.total(window, f"{of}_squared"))
        v = c * q - s * s
        if c < minimum or v <= 0:
            return default
        return (float(own) * c - s) / math.sqrt(v)

    def rate(self, window: str, measure: str, prior: int, prior_count: int) -> float:
        """(Σ measure + a) / (Σ count + b), as IEEE divides: voids may have taken more than was counted."""
        above = np.float64(self.total(window, measure) + prior)
        below = np.float64(self.total(window, "count") + prior_count)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(above / below)

    def tiles(self, name: str, measure: str) -> dict[int, int]:
        """What each visible tile of a window holds of a measure, by tile, those left out that hold nothing."""
        window, held = self.defined.windows[name], dict[int, int]()
        for entry in self.log:
            if counted(window, entry, self.as_of):
                tile = window_time(window, entry.event) // window.hop
                held[tile] = held.get(tile, 0) + entry.adds.get(measure, 0)
        return held

    def run(self, window: str) -> float:
        """Frauds in the newest tiles with attempts, back to the first in which not all were frauds."""
        counts, frauds = self.tiles(window, "count"), self.tiles(window, "fraud")
        run = 0
        for tile in sorted(counts, reverse=True):
            if counts[tile] > 0 and frauds[tile] < counts[tile]:
                break
            run += frauds[tile] if counts[tile] > 0 else 0
        return float(run)

    def days_ago(self, name: str, measure: str, *, choose: Callable[[Iterable[int]], int], default: float) -> float:
        """Days from the end of a tile that holds something of a measure to the end of the newest visible one."""
        window = self.defined.windows[name]
        holding = [tile for tile, held in self.tiles(name, measure).items() if held > 0]
        if not holding:
            return default
        return float((visible(window, self.as_of)[-1] - choose(holding)) * window.hop) / float(DAY_MS)

    # Last values

    def last(self, *fields: str) -> Event | None:
        """The attempt with the greatest time (the later of equals) among those in which every field is present."""
        found: Event | None = None
        for event in self.attempts():
            present = all(event[field] is not None for field in fields)
            if present and (found is None or number(event, "time") >= number(found, "time")):
                found = event
        return found

    def attempts(self) -> list[Event]:
        """The entries that move last values and sets."""
        return [entry.event for entry in self.log if entry.event["kind"] == Kind.ATTEMPT]

    def since_last(self, *, default: float) -> float:
        """Whole seconds since the last attempt."""
        last = self.last("time")
        return default if last is None else float(self.seconds_since(last))

    def seconds_since(self, earlier: Event) -> int:
        """Whole seconds from an earlier event to this one, never negative."""
        return max(0, number(self.event, "time") - number(earlier, "time")) // 1000

    def age(self, *, default: float) -> float:
        """Days since the first attempt."""
        attempts = self.attempts()
        return float(max(0, self.as_of - number(attempts[0], "time"))) / float(DAY_MS) if attempts else default

    def changed(self, field: str, *, default: float) -> float:
        """Whether the field differs from its register."""
        last = self.last(field)
        if last is None or self.event[field] is None:
            return default
        return float(self.event[field] != last[field])

    def distance(self, *, default: float) -> float:
        """Kilometres from the last location."""
        last = self.last("latitude", "longitude")
        if last is None or self.event["latitude"] is None or self.event["longitude"] is None:
            return default
        return kilometres(last, self.event)

    def speed(self, *, default: float) -> float:
        """Kilometres per hour from the last location, over at least a minute."""
        last = self.last("latitude", "longitude")
        if last is None or self.event["latitude"] is None or self.event["longitude"] is None:
            return default
        return kilometres(last, self.event) * 3600.0 / float(max(60, self.seconds_since(last)))

    # Sets

    def slots(self, name: str) -> list[Slot]:
        """The set's slots after every attempt in the log, from the empty list."""
        chosen = self.defined.sets[name]
        slots: list[Slot] = []
        for entry in self.log:
            if entry.event["kind"] == Kind.ATTEMPT and entry.event[chosen.of] is not None:
                touch(slots, chosen, entry)
        return slots

    def distinct(self, name: str, length: int) -> float:
        """Number of slots touched within `length` ms."""
        oldest = (self.as_of - length) // self.defined.sets[name].hop
        return float(sum(slot.tile >= oldest for slot in self.slots(name)))

    def new(self, name: str, *, default: float) -> float:
        """Whether the transaction's value has no slot."""
        value = self.event[self.defined.sets[name].of]
        if value is None:
            return default
        return 0.0 if value in [slot.value for slot in self.slots(name)] else 1.0

    def share(self, name: str, *, default: float) -> float:
        """The weight of the transaction's value among all weights, each decayed to now."""
        value, weights = self.event[self.defined.sets[name].of], self.weights(name)
        if value is None or sum(weights.values()) == 0:
            return default
        return float(weights.get(value, 0)) / float(sum(weights.values()))

    def entropy(self, name: str, *, default: float) -> float:
        """How many bits it takes on average to say which value, by weight."""
        weights = self.weights(name).values()
        total, bits = sum(weights), 0.0
        if total == 0:
            return default
        for weight in weights:
            if weight > 0:
                bits += float(weight) / float(total) * float(lg(total) - lg(weight))
        return bits / 65_536.0

    def weights(self, name: str) -> dict[int, int]:
        """The weight of each value of a set, decayed to now, in the order of the slots."""
        chosen = self.defined.sets[name]
        now = self.as_of // chosen.hop
        return {slot.value: decay(slot.weight, (now - slot.tile) * chosen.per_tile) for slot in self.slots(name)}

    # Decayed counters

    def decayed(self, name: str) -> float:
        """A decayed counter as of now."""
        counter = self.defined.counters[name]
        state: tuple[int, int] | None = None
        for entry in self.log:
            added = entry.adds.get(counter.sum, 0)
            if added != 0:
                state = counter_after(state, entry.event, added, counter.quantum)
        if state is None:
            return 0.0
        value, step = state
        return float(decay(value, self.as_of // counter.quantum - step)) / 1024.0


def measures(event: Event) -> dict[str, int]:
    """What an entry adds to each measure; a measure that is not named gets 0."""
    match event["kind"]:
        case Kind.ATTEMPT:
            return amounts(event, attempts=1, amount=number(event, "amount"))
        case Kind.FOLLOW_UP:
            return {"amount": number(event, "added")}
        case Kind.FRAUD_LABEL:
            return {"fraud": number(event, "delta"), "fraud_amount": number(event, "delta") * number(event, "amount")}
        case Kind.ISSUER_DECLINE:
            return {"issuer_declined": 1}
        case Kind.VOID:
            return amounts(event, attempts=number(event, "delta"), amount=-number(event, "amount"))
    raise AssertionError(f"a kind that the page does not define: {event['kind']}")


def amounts(event: Event, *, attempts: int, amount: int) -> dict[str, int]:
    return {
        "count": attempts,
        "amount": amount,
        "units": attempts * units(event),
        "units_squared": attempts * units(event) ** 2,
        "log": attempts * logarithm(event),
        "log_squared": attempts * logarithm(event) ** 2,
    }


def units(event: Event) -> int:
    return min(number(event, "amount") // 100, 100_000)


def logarithm(event: Event) -> int:
    """The amount's binary logarithm in 1/64."""
    return lg(1 + number(event, "amount")) // 1024


def lg(value: int) -> int:
    """A whole number's binary logarithm in 2^-16, between 64ths of an octave in a straight line."""
    exponent = value.bit_length() - 1
    fraction = (value << 22 >> exponent) - 2**22
    step, rest = divmod(fraction, 65_536)
    return 65_536 * exponent + (LOGARITHMS[step] * (65_536 - rest) + LOGARITHMS[step + 1] * rest) // 65_536


def counted(window: Window, entry: Accepted, as_of: int) -> bool:
    """Whether the entry was in the window's ring when it was applied, and its tile is visible at `as_of`."""
    tile = window_time(window, entry.event) // window.hop
    applied = entry.as_of
    if not (applied - window.delay - window.length) // window.hop <= tile <= applied // window.hop:
        return False
    return tile in visible(window, as_of)


def visible(window: Window, as_of: int) -> range:
    """The tiles of a window that are visible at `as_of`."""
    first = (as_of - window.delay - window.length) // window.hop
    last = as_of // window.hop if window.delay == 0 else (as_of - window.delay) // window.hop - 1
    return range(first, last + 1)


def window_time(window: Window, event: Event) -> int:
    match event["kind"]:
        case Kind.ATTEMPT | Kind.FOLLOW_UP:
            return number(event, "time")
        case Kind.VOID:
            return number(event, "origin")
    return number(event, "origin" if window.at == "transaction" else "time")


def touch(slots: list[Slot], chosen: SlotSet, entry: Accepted) -> None:
    """Let one attempt into a set."""
    value, tile = number(entry.event, chosen.of), number(entry.event, "time") // chosen.hop
    weight = 0 if chosen.tally is None else weighed(entry.adds.get(chosen.tally, 0))
    for slot in slots:
        if slot.value == value:
            newest = max(slot.tile, tile)
            kept = decay(slot.weight, (newest - slot.tile) * chosen.per_tile)
            slot.weight = min(SATURATED, kept + decay(weight, (newest - tile) * chosen.per_tile))
            slot.tile = newest
            return
    added = Slot(value, tile, weight)
    if len(slots) < chosen.capacity:
        slots.append(added)
        return
    oldest = min(range(len(slots)), key=lambda place: slots[place].tile)
    slots[oldest] = added


def counter_after(state: tuple[int, int] | None, event: Event, added: int, quantum: int) -> tuple[int, int]:
    """A decayed counter's value (in 1/1024) and step after an entry that adds `added`, negative for a void."""
    at = number(event, "origin" if event["kind"] == Kind.VOID else "time") // quantum
    value, step = (0, at) if state is None else state
    newest = max(step, at)
    kept, moved = decay(value, newest - step), decay(weighed(abs(added)), newest - at)
    return (min(SATURATED, kept + moved) if added > 0 else max(0, kept - moved)), newest


def weighed(added: int) -> int:
    """What enters a weight or a counter for `added`: 1024ths, saturated, so that binary64 holds them exactly."""
    return min(SATURATED, 1024 * added)


def decay(value: int, steps: int) -> int:
    """`value` after `steps` 64ths of a half-life: one binary64 product, then whole halvings."""
    if steps >= 64 * 54:
        return 0
    fraction = round(2**40 * math.exp2(-(steps % 64) / 64)) / 2**40
    return math.floor(float(value) * fraction) >> (steps // 64)


def kilometres(start: Event, end: Event) -> float:
    """Equirectangular distance from coordinates of 10^-4 degree, with a table of cosines of whole degrees."""
    dy = number(end, "latitude") - number(start, "latitude")
    dx = number(end, "longitude") - number(start, "longitude")
    if dx > 1_800_000:
        dx -= 3_600_000
    if dx < -1_800_000:
        dx += 3_600_000
    middle = abs(number(end, "latitude") + number(start, "latitude")) // 2
    degree, rest = divmod(middle, 10_000)
    c = (COSINES[degree] * (10_000 - rest) + COSINES[min(degree + 1, 90)] * rest) // 10_000
    east, north = float(dx * c), float(dy * 10_000)
    return math.sqrt(east * east + north * north) / 10_000 * 0.011132


def transaction_value(feature: Declaration, event: Event) -> float:
    """A feature of the transaction itself, which needs no history."""
    match feature:
        case {"field": str(name)}:
            value = event[name]
            scale = 10_000.0 if name in {"latitude", "longitude"} else 1.0
            return math.nan if value is None else float(value) / scale
        case {"hour": True}:
            return float(number(event, "time") % DAY_MS) / float(HOUR_MS)
        case {"weekday": True}:
            return float((number(event, "time") // DAY_MS + 3) % 7)  # 1970-01-01 was a Thursday
        case {"differs": [str(one), str(other)]}:
            missing = event[one] is None or event[other] is None
            return math.nan if missing else float(event[one] != event[other])
        case {"present": str(name)}:
            return float(event[name] is not None)
    raise AssertionError(f"an operation that the page does not define: {feature}")


@dataclass(frozen=True)
class Answer:
    """What the definition says of a whole stream: columns by feature name, and revs by entity name (-1: none)."""

    features: Mapping[str, npt.NDArray[np.float32]]
    revs: Mapping[str, npt.NDArray[np.int64]]


def define(spec: Declaration, events: Sequence[Event], *, born_at: int | None = None) -> Answer:
    """Every feature of every event of a stream in arrival order, rounded once to float32.

    The store was born at `born_at` ms; by default with the first event.
    """
    columns: dict[str, list[float]] = transaction_columns(spec, events)
    revs: dict[str, list[int]] = {}
    if born_at is None:
        born_at = number(events[0], "time") if events else 0
    for entity in mapping(spec["entities"]):
        rows, revs[entity] = define_entity(spec, entity, events, born_at)
        for place, name in enumerate(read_entity(spec, entity).features):
            columns[name] = [row[place] for row in rows]
    return Answer(
        {name: np.array(values, np.float64).astype(np.float32) for name, values in columns.items()},
        {entity: np.array(values, np.int64) for entity, values in revs.items()},
    )


def define_entity(
    spec: Declaration, entity: str, events: Iterable[Event], born_at: int
) -> tuple[list[list[float]], list[int]]:
    """One kind of entity over a whole stream: a row of features and a rev per event."""
    oracles: dict[int, Oracle] = {}
    defined = read_entity(spec, entity)
    nothing = [math.nan] * len(defined.features)
    rows, revs = [], []
    for event in events:
        key = event[defined.key]
        if key is None:
            rows.append(nothing)
            revs.append(-1)
            continue
        oracle = oracles[key] = oracles.get(key) or Oracle(spec, entity)
        rev, values = oracle.rev, oracle.observe(event, born_at=born_at)
        rows.append(nothing if values is None else values)
        revs.append(-1 if values is None else rev)
    return rows, revs


def transaction_columns(spec: Declaration, events: Sequence[Event]) -> dict[str, list[float]]:
    return {
        name: [
            transaction_value(feature, event) if event["kind"] in {Kind.ATTEMPT, Kind.FOLLOW_UP} else math.nan
            for event in events
        ]
        for name, feature in named(mapping(spec["transaction"]), "features")
    }


# Reading the declaration


def read_entity(spec: Declaration, entity: str) -> Definition:
    declared = mapping(mapping(spec["entities"])[entity])
    return Definition(
        key=str(declared["key"]),
        horizon=milliseconds(spec["horizon"]),
        ring=integer(mapping(declared["log"])["ring"]),
        windows={name: read_window(item) for name, item in named(declared, "windows")},
        sets={name: read_set(item) for name, item in named(declared, "sets")},
        counters={name: read_counter(item) for name, item in named(declared, "decays")},
        unusual=read_unusual(mapping(declared["unusual"])) if "unusual" in declared else None,
        features=dict(named(declared, "features")),
    )


def read_window(declared: Declaration) -> Window:
    return Window(
        length=milliseconds(declared["length"]),
        hop=milliseconds(declared["hop"]),
        delay=milliseconds(declared.get("delay", "0s")),
        at=str(declared.get("at", "transaction")),
    )


def read_unusual(declared: Declaration) -> Unusual:
    return Unusual(str(declared["window"]), floating(declared["above"]), integer(declared["minimum"]))


def read_set(declared: Declaration) -> SlotSet:
    hop, tally = milliseconds(declared["hop"]), mapping(declared.get("tally", EMPTY))
    return SlotSet(
        of=str(declared["of"]),
        capacity=integer(declared["capacity"]),
        hop=hop,
        tally=str(tally["sum"]) if tally else None,
        per_tile=64 * hop // milliseconds(tally["half_life"]) if tally else 0,
    )


def read_counter(declared: Declaration) -> Counter:
    return Counter(sum=str(declared["sum"]), quantum=milliseconds(declared["half_life"]) // 64)


def named(declared: Declaration, group: str) -> list[tuple[str, Declaration]]:
    return [(name, mapping(item)) for name, item in mapping(declared.get(group, EMPTY)).items()]


def milliseconds(duration: object) -> int:
    """`90d` and its like: an integer and s, m, h or d."""
    text = str(duration)
    return int(text[:-1]) * {"s": 1000, "m": 60_000, "h": HOUR_MS, "d": DAY_MS}[text[-1]]


def mapping(value: object) -> Declaration:
    assert isinstance(value, Mapping), value
    return value


def integer(value: object) -> int:
    assert isinstance(value, int), value
    return value


def floating(value: object) -> float:
    assert isinstance(value, int | float), value
    return float(value)


def number(event: Event, field: str) -> int:
    value = event[field]
    assert value is not None, field
    return value
