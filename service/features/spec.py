"""The feature spec: which windows, sets and counters each entity keeps, and which features are read from them."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from service.errors import Fault, SpecInvalid

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

MEASURES = (
    "count", "amount", "units", "units_squared", "fraud", "issuer_declined",
    "fraud_amount", "unusual", "log", "log_squared",
)  # fmt: skip
KEY_FIELDS = ("card_id", "merchant_id", "terminal_id", "device_id", "customer_id", "email_hash", "ip_address")
COUNTRY_FIELDS = ("merchant_country", "card_country", "billing_country", "shipping_country", "ip_country")
MEMBER_FIELDS = (*KEY_FIELDS, "merchant_category_code", *COUNTRY_FIELDS)  # what a set or a register can hold
COMPARABLE_FIELDS = ("merchant_category_code", *COUNTRY_FIELDS)
NUMBER_FIELDS = ("amount", "latitude", "longitude")
CODE_FIELDS = ("channel", "entry_mode", "cvc_check", "avs_check", "three_ds", *COMPARABLE_FIELDS)

MAX_STATE_SLOTS = 1 << 14  # 128 KiB of int64 per entity while it is folded; the shipped spec uses a twentieth
MAX_RING = 1 << 12
MAX_LOG = 256
MAX_ABOVE = 1_000_000  # so that the fraction it is fits two integers


class Operation(StrEnum):
    """What a feature computes. Definitions: docs/features.md."""

    TOTAL = "total"
    MEAN = "mean"
    RATIO = "ratio"
    ZSCORE = "zscore"
    RATE = "rate"
    SINCE_LAST = "since_last"
    AGE = "age"
    CHANGED = "changed"
    DISTANCE = "distance"
    SPEED = "speed"
    DISTINCT = "distinct"
    NEW = "new"
    SHARE = "share"
    DECAYED = "decayed"
    KNOWN = "known"
    RUN = "run"
    LATEST = "latest"
    EARLIEST = "earliest"
    ENTROPY = "entropy"
    FIELD = "field"
    HOUR = "hour"
    WEEKDAY = "weekday"
    DIFFERS = "differs"
    PRESENT = "present"


TRANSACTION_OPERATIONS = frozenset(
    {Operation.FIELD, Operation.HOUR, Operation.WEEKDAY, Operation.DIFFERS, Operation.PRESENT}
)


@dataclass(frozen=True, slots=True)
class Window:
    """A ring of tiles over the last `length_ms`, moving in steps of `hop_ms`, seen `delay_ms` late."""

    name: str
    length_ms: int
    hop_ms: int
    delay_ms: int
    at_report: bool
    sums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """A decayed weight kept for each member of a set."""

    sum: str
    half_life_ms: int


@dataclass(frozen=True, slots=True)
class MemberSet:
    """The last `capacity` distinct values of a field, each with the tile of its last use."""

    name: str
    of: str
    capacity: int
    hop_ms: int
    tally: Tally | None


@dataclass(frozen=True, slots=True)
class DecayedCounter:
    """A sum that halves every `half_life_ms`; eight bytes instead of a ring."""

    name: str
    half_life_ms: int
    sum: str


@dataclass(frozen=True, slots=True)
class Log:
    """Cost parameters of an entity's log: when it is compacted, how much stays, how many ids are remembered."""

    compact_at: int
    keep: int
    ring: int


@dataclass(frozen=True, slots=True)
class Unusual:
    """What makes an attempt unusual: more than `above` times the mean amount of a window that has counted `minimum`."""

    window: str
    above: float
    minimum: int


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of the feature vector.

    `target` is the window, set, counter or field the operation works on; `other` the measure or the second field;
    `per` the measure that a mean is per. Where a measure goes without saying, it is "".
    """

    name: str
    operation: Operation
    target: str = ""
    other: str = ""
    window_ms: int = 0
    minimum: int = 0
    prior: tuple[int, int] = (0, 0)
    default: float | None = None
    per: str = ""

    @property
    def summed(self) -> tuple[str, ...]:
        """What its window has to sum, in the order in which the operation takes it; nothing where it has no window."""
        match self.operation:
            case Operation.TOTAL | Operation.LATEST | Operation.EARLIEST:
                return (self.other,)
            case Operation.MEAN:
                return self.other, self.per or "count"
            case Operation.RATIO:
                return self.other or "amount", "count"
            case Operation.ZSCORE:
                of = self.other or "units"
                return "count", of, f"{of}_squared"
            case Operation.RATE:
                return self.other, "count"
            case Operation.RUN:
                return "count", "fraud"
            case _:
                return ()


@dataclass(frozen=True, slots=True)
class Entity:
    """Something with history, named by a field of the transaction."""

    name: str
    key: str
    log: Log
    windows: tuple[Window, ...]
    sets: tuple[MemberSet, ...]
    decays: tuple[DecayedCounter, ...]
    features: tuple[Feature, ...]
    unusual: Unusual | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole feature spec, checked."""

    horizon_ms: int
    entities: tuple[Entity, ...]
    transaction_features: tuple[Feature, ...]
    categories: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Digest of what the spec means; comments and spacing do not count, order does."""
        meaning = asdict(self, dict_factory=_what_is_said)
        return hashlib.sha256(json.dumps(meaning, separators=(",", ":")).encode()).hexdigest()


def parse_spec(document: Mapping[str, object]) -> Spec:
    """Check a spec as read from YAML.

    Raises:
        SpecInvalid: with every fault found, each with its path and what was expected.
    """
    reader = _Reader()
    spec = reader.spec(document)
    names = [feature.name for entity in spec.entities for feature in entity.features]
    names += [feature.name for feature in spec.transaction_features]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reader.fault("entities", f"the feature name {name} is used more than once")
    if reader.faults:
        raise SpecInvalid(reader.faults)
    return spec


# Fields that specs did not have from the start. They count in the digest only where they say something: a spec that was
# written before keeps the digest under which bundles and stores know it.
_UNSAID = {"per": "", "unusual": None}


def _what_is_said(fields: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in fields if name not in _UNSAID or value != _UNSAID[name]}


_DURATION = re.compile(r"([1-9][0-9]*)([smhd])")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_UNIT_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


class _Reader:
    """Reads nested mappings and keeps every fault instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, path: str, reason: str) -> None:
        self.faults.append(Fault(path, reason))

    def spec(self, document: Mapping[str, object]) -> Spec:
        top = self.mapping("", document, required=("version", "horizon", "entities", "transaction"))
        if top.get("version") != 1:
            self.fault("version", "expected 1")
        horizon_ms = self.duration("horizon", top.get("horizon"))
        if any(fault.path == "horizon" for fault in self.faults):
            horizon_ms = 0  # unknown: nothing can be said to exceed it
        entities = tuple(
            self.entity(f"entities.{name}", name, value, horizon_ms)
            for name, value in self.named("entities", top.get("entities"))
        )
        if not entities:
            self.fault("entities", "expected at least one entity")
        rest = self.mapping("transaction", top.get("transaction"), required=("features", "categories"))
        features = tuple(
            self.feature(f"transaction.features.{name}", name, value, None)
            for name, value in self.named("transaction.features", rest.get("features"))
        )
        categories = tuple(
            self.choice(f"transaction.categories.{index}", value, CODE_FIELDS)
            for index, value in enumerate(self.sequence("transaction.categories", rest.get("categories")))
        )
        return Spec(horizon_ms, entities, features, categories)

    def entity(self, path: str, name: str, value: object, horizon_ms: int) -> Entity:
        body = self.mapping(
            path, value, required=("key", "log", "features"), optional=("windows", "sets", "decays", "unusual")
        )
        windows = tuple(
            self.window(f"{path}.windows.{key}", key, item)
            for key, item in self.named(f"{path}.windows", body.get("windows", {}))
        )
        for window in windows:
            if window.length_ms + window.delay_ms > horizon_ms > 0:
                self.fault(f"{path}.windows.{window.name}", "length + delay must not exceed the horizon")
        sets = tuple(
            self.member_set(f"{path}.sets.{key}", key, item)
            for key, item in self.named(f"{path}.sets", body.get("sets", {}))
        )
        decays = tuple(
            self.decay(f"{path}.decays.{key}", key, item)
            for key, item in self.named(f"{path}.decays", body.get("decays", {}))
        )
        unusual = self.unusual(f"{path}.unusual", body["unusual"], windows) if "unusual" in body else None
        for window in windows:
            if unusual is None and "unusual" in window.sums:
                self.fault(
                    f"{path}.windows.{window.name}.sums", "sums unusual, but the entity does not say what that is"
                )
        entity = Entity(
            name, self.choice(f"{path}.key", body.get("key"), KEY_FIELDS), self.log(f"{path}.log", body.get("log")),
            windows, sets, decays, (), unusual,
        )  # fmt: skip
        features = tuple(
            self.feature(f"{path}.features.{key}", key, item, entity)
            for key, item in self.named(f"{path}.features", body.get("features"))
        )
        for feature in features:
            if feature.window_ms > horizon_ms > 0:
                self.fault(f"{path}.features.{feature.name}.window", "must not exceed the horizon")
        return replace(entity, features=features)

    def log(self, path: str, value: object) -> Log:
        body = self.mapping(path, value, required=("compact_at", "keep", "ring"))
        log = Log(
            self.whole(f"{path}.compact_at", body.get("compact_at"), 1, MAX_LOG),
            self.whole(f"{path}.keep", body.get("keep"), 1, MAX_LOG),
            self.whole(f"{path}.ring", body.get("ring"), 2, MAX_RING),
        )
        if log.ring < log.compact_at + log.keep:
            self.fault(f"{path}.ring", "must be at least compact_at + keep, or compaction would forget a retry's id")
        return log

    def window(self, path: str, name: str, value: object) -> Window:
        body = self.mapping(path, value, required=("length", "hop", "sums"), optional=("delay", "at"))
        length_ms = self.duration(f"{path}.length", body.get("length"))
        hop_ms = self.duration(f"{path}.hop", body.get("hop"))
        delay_ms = self.duration(f"{path}.delay", body["delay"]) if "delay" in body else 0
        at = self.choice(f"{path}.at", body.get("at", "transaction"), ("transaction", "report"))
        if length_ms % hop_ms:
            self.fault(f"{path}.hop", "must divide length")
        if delay_ms % hop_ms:
            self.fault(f"{path}.delay", "must be a multiple of hop")
        if at == "report" and delay_ms:
            self.fault(f"{path}.delay", "a window at report takes no delay: what was reported is known")
        sums = tuple(
            self.choice(f"{path}.sums.{index}", item, MEASURES)
            for index, item in enumerate(self.sequence(f"{path}.sums", body.get("sums")))
        )
        if not sums or len(set(sums)) != len(sums):
            self.fault(f"{path}.sums", "expected one or more different measures")
        return Window(name, length_ms, hop_ms, delay_ms, at == "report", sums)

    def member_set(self, path: str, name: str, value: object) -> MemberSet:
        body = self.mapping(path, value, required=("of", "capacity", "hop"), optional=("tally",))
        hop_ms = self.duration(f"{path}.hop", body.get("hop"))
        tally = None
        if "tally" in body:
            inner = self.mapping(f"{path}.tally", body["tally"], required=("sum", "half_life"))
            half_life_ms = self.duration(f"{path}.tally.half_life", inner.get("half_life"))
            if 64 * hop_ms % half_life_ms:
                self.fault(f"{path}.tally.half_life", "64 × hop must be a whole multiple of half_life")
            tally = Tally(self.choice(f"{path}.tally.sum", inner.get("sum"), ("count", "amount")), half_life_ms)
        of = self.choice(f"{path}.of", body.get("of"), MEMBER_FIELDS)
        return MemberSet(name, of, self.whole(f"{path}.capacity", body.get("capacity"), 1, 1024), hop_ms, tally)

    def unusual(self, path: str, value: object, windows: Sequence[Window]) -> Unusual:
        body = self.mapping(path, value, required=("window", "above", "minimum"))
        name = self.choice(f"{path}.window", body.get("window"), tuple(window.name for window in windows))
        for window in windows:
            if window.name == name and (window.delay_ms or window.at_report):
                self.fault(f"{path}.window", "expected a window without delay, not at report: what the entity does now")
            if window.name == name and not {"count", "amount"} <= set(window.sums):
                self.fault(f"{path}.window", f"the window {name} does not sum count and amount")
        above = self.number(f"{path}.above", body.get("above"))
        if not 1 < above <= MAX_ABOVE:
            self.fault(
                f"{path}.above", f"expected a number above 1, at most {MAX_ABOVE}: how many times the mean amount"
            )
        return Unusual(name, above, self.whole(f"{path}.minimum", body.get("minimum"), 1, 1 << 20))

    def decay(self, path: str, name: str, value: object) -> DecayedCounter:
        body = self.mapping(path, value, required=("half_life", "sum"))
        half_life_ms = self.duration(f"{path}.half_life", body.get("half_life"))
        if half_life_ms % 64:
            self.fault(f"{path}.half_life", "must be a multiple of 64 ms")
        return DecayedCounter(name, half_life_ms, self.choice(f"{path}.sum", body.get("sum"), ("count", "amount")))

    def feature(self, path: str, name: str, value: object, entity: Entity | None) -> Feature:
        body = self.mapping(path, value, required=(), optional=_FEATURE_KEYS)
        operations = [operation for operation in Operation if operation.value in body]
        if len(operations) != 1:
            self.fault(path, "expected exactly one operation of " + ", ".join(Operation))
            return Feature(name, Operation.KNOWN)
        operation = operations[0]
        if (operation in TRANSACTION_OPERATIONS) != (entity is None):
            self.fault(path, f"{operation} belongs to {'transaction' if entity else 'an entity'}, not here")
            return Feature(name, operation)
        argument = body[operation.value]
        allowed = {operation.value, "default", *_EXTRA_KEYS.get(operation, ())}
        for key in body.keys() - allowed:
            self.fault(f"{path}.{key}", f"{operation} does not take it")
        default = self.number(f"{path}.default", body["default"]) if "default" in body else None
        target, other = self.arguments(path, operation, argument, body, entity)
        window_ms = (
            self.duration(f"{path}.window", body.get("window")) if operation is Operation.DISTINCT else 0
        )  # a set has no window of its own
        minimum = self.whole(f"{path}.minimum", body.get("minimum", 2), 2, 1 << 20)
        feature = Feature(
            name, operation, target, other, window_ms, minimum, self.prior(path, operation, body), default,
            self.per(path, operation, body),
        )  # fmt: skip
        if entity is not None:
            self.require_sums(f"{path}.{operation}", feature, entity)
        return feature

    def arguments(
        self, place: str, operation: Operation, argument: object, body: Mapping[str, object], entity: Entity | None
    ) -> tuple[str, str]:
        """The operation's target and, where it has one, its measure or second field."""
        path = f"{place}.{operation}"
        if operation in _OF_A_MEASURE:
            window, _, measure = str(argument).partition(".")
            return window, measure
        if operation in {Operation.RATE, Operation.RUN}:
            return str(argument), str(body.get("of", ""))
        if operation in _AMOUNTS:
            usual = _AMOUNTS[operation][0]
            of = self.choice(f"{place}.of", body.get("of", usual), _AMOUNTS[operation])
            return str(argument), "" if of == usual else of
        if entity is not None and operation in _OF_A_SET:
            chosen = self.choice(path, argument, tuple(item.name for item in entity.sets))
            tallied = operation in {Operation.SHARE, Operation.ENTROPY}
            if tallied and any(item.name == chosen and item.tally is None for item in entity.sets):
                self.fault(path, f"the set {chosen} keeps no tally, which {operation} is of")
            return chosen, ""
        if entity is not None and operation is Operation.DECAYED:
            return self.choice(path, argument, tuple(item.name for item in entity.decays)), ""
        if operation is Operation.CHANGED:
            return self.choice(path, argument, COMPARABLE_FIELDS), ""
        if operation is Operation.FIELD:
            return self.choice(path, argument, NUMBER_FIELDS), ""
        if operation is Operation.PRESENT:
            return self.choice(path, argument, (*MEMBER_FIELDS, "latitude")), ""
        if operation is Operation.DIFFERS:
            fields = [self.choice(path, item, COMPARABLE_FIELDS) for item in self.sequence(path, argument)]
            if len(fields) != 2:  # noqa: PLR2004 - two fields can differ
                self.fault(path, "expected two fields")
                return "", ""
            return fields[0], fields[1]
        if argument is not True:
            self.fault(path, "expected true")
        return "", ""

    def require_sums(self, path: str, feature: Feature, entity: Entity) -> None:
        """A feature of a window needs a window of the entity that sums what it takes."""
        if not feature.summed:
            return
        windows = {window.name: window for window in entity.windows}
        if feature.target not in windows:
            self.fault(path, "expected a window of this entity: " + ", ".join(windows))
            return
        for missing in [measure for measure in feature.summed if measure not in windows[feature.target].sums]:
            self.fault(path, f"the window {feature.target} does not sum {missing or 'a measure named here'}")

    def per(self, path: str, operation: Operation, body: Mapping[str, object]) -> str:
        if operation is not Operation.MEAN or "per" not in body:
            return ""
        per = self.choice(f"{path}.per", body["per"], MEASURES)
        return "" if per == "count" else per

    def prior(self, path: str, operation: Operation, body: Mapping[str, object]) -> tuple[int, int]:
        if operation is not Operation.RATE:
            return (0, 0)
        values = [
            self.whole(f"{path}.prior.{index}", item, 0, 1 << 30)
            for index, item in enumerate(self.sequence(f"{path}.prior", body.get("prior")))
        ]
        if len(values) != 2 or values[1] < 1:  # noqa: PLR2004 - k and n
            self.fault(f"{path}.prior", "expected two whole numbers [frauds, transactions], the second at least 1")
            return (0, 1)
        return values[0], values[1]

    def mapping(
        self, path: str, value: object, *, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            self.fault(path or "spec", "expected a mapping")
            return {}
        for key in value:
            if key not in required and key not in optional:
                self.fault(f"{path}.{key}".lstrip("."), "is not a key of the spec here")
        for key in required:
            if key not in value:
                self.fault(f"{path}.{key}".lstrip("."), "is missing")
        return value

    def named(self, path: str, value: object) -> list[tuple[str, object]]:
        if not isinstance(value, Mapping):
            self.fault(path, "expected a mapping of names")
            return []
        for name in value:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                self.fault(path, "names are lower case letters, digits and _, and begin with a letter")
        return [(str(name), item) for name, item in value.items()]

    def sequence(self, path: str, value: object) -> Sequence[object]:
        if not isinstance(value, list | tuple):
            self.fault(path, "expected a list")
            return ()
        return value

    def choice(self, path: str, value: object, allowed: Sequence[str]) -> str:
        if value not in allowed:
            self.fault(path, "expected one of " + (", ".join(allowed) or "(none is declared)"))
            return allowed[0] if allowed else ""
        return str(value)

    def whole(self, path: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fault(path, f"expected a whole number from {low} to {high}")
            return low
        return value

    def number(self, path: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fault(path, "expected a finite number")
            return 0.0
        return float(value)

    def duration(self, path: str, value: object) -> int:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.fault(path, "expected a duration such as 5m, 1h or 30d")
            return DAY_MS
        return int(match[1]) * _UNIT_MS[match[2]]


_EXTRA_KEYS: dict[Operation, tuple[str, ...]] = {
    Operation.MEAN: ("per",),
    Operation.RATIO: ("of",),
    Operation.ZSCORE: ("minimum", "of"),
    Operation.RATE: ("of", "prior"),
    Operation.DISTINCT: ("window",),
}
_FEATURE_KEYS = (*Operation, "default", "minimum", "of", "per", "prior", "window")
_OF_A_MEASURE = frozenset({Operation.TOTAL, Operation.MEAN, Operation.LATEST, Operation.EARLIEST})
_OF_A_SET = frozenset({Operation.DISTINCT, Operation.NEW, Operation.SHARE, Operation.ENTROPY})
_AMOUNTS = {Operation.RATIO: ("amount", "log"), Operation.ZSCORE: ("units", "log")}  # the first if nothing is said
