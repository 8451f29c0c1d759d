"""The plan: a spec compiled to integer tables, which is all the kernel ever sees."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import Fault, SpecInvalid
from service.features.entry import COORDINATE_SCALE, FIELD_COLUMNS, Column, Kind
from service.features.spec import (
    COMPARABLE_FIELDS,
    MAX_STATE_SLOTS,
    MEASURES,
    DecayedCounter,
    Entity,
    Feature,
    MemberSet,
    Operation,
    Spec,
    Window,
)
from service.features.state import BASE_HEADER, HEAD

Int64Table = NDArray[np.int64]

# Columns of the tables. The kernel reads them by these names.
# entities
STATE_SIZE, RING_AT, RING_SIZE, HORIZON, LONGEST, KEY_COLUMN, COMPACT_AT, KEEP, SPEC_HASH = range(9)
FIRST_WINDOW, END_WINDOW, FIRST_SET, END_SET, FIRST_DECAY, END_DECAY, FIRST_REGISTER, END_REGISTER = range(9, 17)
LOCATION_AT, FIRST_FEATURE, END_FEATURE, SUMS_LOG = range(17, 21)
# what is unusual: where the window's totals are, the least count, and `above` as a fraction, which is exact
UNUSUAL_COUNT_AT, UNUSUAL_AMOUNT_AT, UNUSUAL_MINIMUM, ABOVE_NUMERATOR, ABOVE_DENOMINATOR, FIRST_LAYOUT = range(21, 27)
KINDS = len(Kind) + 1  # a layout range for each kind: FIRST_LAYOUT + kind − 1 .. FIRST_LAYOUT + kind
LENGTH = FIRST_LAYOUT + KINDS - 1  # bytes of an entry of each kind: LENGTH + kind
# windows; the delay is in tiles
W_AT, W_LENGTH, W_HOP, W_DELAY, W_REPORT, W_TILES, W_SUMS, W_FIRST_SUM = range(8)
# sets
S_AT, S_COLUMN, S_CAPACITY, S_HOP, S_TALLY, S_STEPS, S_STRIDE = range(7)
# decays
D_AT, D_QUANTUM, D_MEASURE = range(3)
# registers
R_AT, R_COLUMN = range(2)
# features
F_OPERATION, F_A, F_B, F_C, F_D, F_E = range(6)

OPERATION_CODES = {operation: code for code, operation in enumerate(Operation)}
NO_LOCATION = -1
NOTHING_UNUSUAL = -1


class Tables(NamedTuple):
    """The arrays the kernel takes, in its argument order."""

    entities: Int64Table
    windows: Int64Table
    sets: Int64Table
    decays: Int64Table
    registers: Int64Table
    features: Int64Table
    defaults: NDArray[np.float64]
    layout: Int64Table
    categories: Int64Table


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled spec.

    Attributes:
        entities: names of the entities, in the order of the tables.
        key_columns: by entity, the event column that names it.
        numeric: names of the numeric features, in the order of the graph's input.
        categorical: names of the categorical inputs, in order.
        categorical_columns: by categorical input, its event column.
        entity_features: by entity, the slice of `numeric` that is its own.
    """

    spec: Spec
    tables: Tables
    entities: tuple[str, ...]
    key_columns: tuple[Column, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    categorical_columns: tuple[int, ...]
    entity_features: tuple[slice, ...]

    def base_space(self, k: int) -> int:
        """Bytes that hold any base of entity kind k: a slot takes at most ten."""
        return 10 * int(self.tables.entities[k, STATE_SIZE]) + BASE_HEADER


def compile_plan(spec: Spec) -> Plan:
    """Lay out every entity's state and turn each feature into one row of integers.

    Raises:
        SpecInvalid: an entity's state would not fit its bound.
    """
    build = _Build()
    spec_hash = int(spec.sha256[:15], 16)  # 60 bits: positive, and enough to tell specs apart
    for entity in spec.entities:
        build.entity(entity, spec.horizon_ms, spec_hash)
    for feature in spec.transaction_features:
        build.feature(feature, _transaction_arguments(feature))
    build.categories += [int(FIELD_COLUMNS[name]) for name in spec.categories]
    names = [feature.name for entity in spec.entities for feature in entity.features]
    names += [feature.name for feature in spec.transaction_features]
    return Plan(
        spec=spec,
        tables=build.tables(),
        entities=tuple(entity.name for entity in spec.entities),
        key_columns=tuple(FIELD_COLUMNS[entity.key] for entity in spec.entities),
        numeric=tuple(names),
        categorical=spec.categories,
        categorical_columns=tuple(int(FIELD_COLUMNS[name]) for name in spec.categories),
        entity_features=tuple(slice(int(row[FIRST_FEATURE]), int(row[END_FEATURE])) for row in build.tables().entities),
    )


class _Build:
    """Grows the tables, one entity after the other."""

    def __init__(self) -> None:
        self.entities: list[list[int]] = []
        self.windows: list[list[int]] = []
        self.sets: list[list[int]] = []
        self.decays: list[list[int]] = []
        self.registers: list[list[int]] = []
        self.features: list[list[int]] = []
        self.defaults: list[float] = []
        self.layout: list[list[int]] = []
        self.categories: list[int] = []

    def tables(self) -> Tables:
        return Tables(
            _table(self.entities, LENGTH + KINDS),
            _table(self.windows, W_FIRST_SUM + len(MEASURES)),
            _table(self.sets, S_STRIDE + 1),
            _table(self.decays, D_MEASURE + 1),
            _table(self.registers, R_COLUMN + 1),
            _table(self.features, F_E + 1),
            np.array(self.defaults, np.float64),
            _table(self.layout, 3),
            np.array(self.categories, np.int64),
        )

    def entity(self, entity: Entity, horizon_ms: int, spec_hash: int) -> None:
        starts = [len(table) for table in (self.windows, self.sets, self.decays, self.registers, self.features)]
        compared = [name for name in COMPARABLE_FIELDS if _uses(entity, Operation.CHANGED, name)]
        located = _uses(entity, Operation.DISTANCE) or _uses(entity, Operation.SPEED)
        at = HEAD
        register_at = {}
        for name in compared:
            register_at[name] = at
            self.registers.append([at, int(FIELD_COLUMNS[name])])
            at += 2  # time, value
        location_at = NO_LOCATION
        if located:
            location_at, at = at, at + 3  # time, latitude, longitude
        window_at = {}
        for window in entity.windows:
            window_at[window.name] = at
            at = self.window(window, at)
        for member_set in entity.sets:
            at = self.member_set(member_set, at)
        for decay in entity.decays:
            at = self.decay(decay, at)
        ring_at, at = at, at + 1 + entity.log.ring
        if at > MAX_STATE_SLOTS:
            raise SpecInvalid([Fault(f"entities.{entity.name}", f"its state needs {at} slots of {MAX_STATE_SLOTS}")])
        places = _Places(window_at, starts[0], register_at, location_at, starts[1], starts[2])
        for feature in entity.features:
            self.feature(feature, _entity_arguments(feature, entity, places))
        ends = [len(table) for table in (self.windows, self.sets, self.decays, self.registers, self.features)]
        row = [at, ring_at, entity.log.ring, horizon_ms, _longest_ms(entity), int(FIELD_COLUMNS[entity.key])]
        row += [entity.log.compact_at, entity.log.keep, spec_hash]
        row += [starts[0], ends[0], starts[1], ends[1], starts[2], ends[2], starts[3], ends[3], location_at]
        row += [starts[4], ends[4], int(_sums(entity, "log") or _sums(entity, "log_squared"))]
        row += _unusual_arguments(entity, places)
        self.entities.append(row + self.entry_layouts(entity, compared, located=located))

    def window(self, window: Window, at: int) -> int:
        tiles = (window.length_ms + window.delay_ms) // window.hop_ms + 1
        measures = [MEASURES.index(name) for name in window.sums]
        delay_tiles = window.delay_ms // window.hop_ms
        row = [at, window.length_ms, window.hop_ms, delay_tiles, int(window.at_report), tiles, len(measures)]
        self.windows.append(row + measures + [NO_LOCATION] * (len(MEASURES) - len(measures)))
        return at + 1 + len(measures) * (1 + tiles)  # current tile, totals, ring

    def member_set(self, member_set: MemberSet, at: int) -> int:
        tally = member_set.tally
        stride = 2 if tally is None else 3  # value, tile and, where tallied, weight
        kept = 0 if tally is None else 1 + MEASURES.index(tally.sum)
        steps = 0 if tally is None else 64 * member_set.hop_ms // tally.half_life_ms
        column = int(FIELD_COLUMNS[member_set.of])
        self.sets.append([at, column, member_set.capacity, member_set.hop_ms, kept, steps, stride])
        return at + 1 + stride * member_set.capacity

    def decay(self, decay: DecayedCounter, at: int) -> int:
        self.decays.append([at, decay.half_life_ms // 64, MEASURES.index(decay.sum)])
        return at + 2  # value, step

    def feature(self, feature: Feature, arguments: list[int]) -> None:
        row = [OPERATION_CODES[feature.operation], *arguments]
        self.features.append(row + [0] * (F_E + 1 - len(row)))
        self.defaults.append(np.nan if feature.default is None else feature.default)

    def entry_layouts(self, entity: Entity, compared: Iterable[str], *, located: bool) -> list[int]:
        """Which columns an entity's entries carry, by kind, only what its state needs; and how long these are."""
        members = [FIELD_COLUMNS[member_set.of] for member_set in entity.sets]
        members += [FIELD_COLUMNS[name] for name in compared]
        attempt = [Column.ID, Column.TIME, Column.AMOUNT, *dict.fromkeys(members)]
        if located:
            attempt += [Column.LATITUDE, Column.LONGITUDE]
        labelled = [Column.AMOUNT] if _sums(entity, "fraud_amount") else []
        columns = {
            Kind.ATTEMPT: attempt,
            Kind.FOLLOW_UP: [Column.ID, Column.TIME, Column.ADDED],
            Kind.FRAUD_LABEL: [Column.ID, Column.TIME, Column.ORIGIN, Column.DELTA, *labelled],
            Kind.ISSUER_DECLINE: [Column.ID, Column.TIME, Column.ORIGIN],
            Kind.VOID: [Column.ID, Column.TIME, Column.ORIGIN, Column.AMOUNT, Column.DELTA],
        }
        bounds, lengths = [len(self.layout)], []
        for kind in Kind:
            layout = [[int(column), *_WIDTHS.get(column, _HASH)] for column in columns[kind]]
            self.layout += layout
            bounds.append(len(self.layout))
            lengths.append(1 + sum(width for _, width, _ in layout))
        return bounds + lengths


_HASH = (4, 0)  # sets keep the low half of a token's hash
_WIDTHS = {  # bytes, signed
    Column.ID: (6, 0),
    Column.TIME: (6, 0),  # milliseconds until the year 10889
    Column.ORIGIN: (6, 0),
    Column.AMOUNT: (6, 0),
    Column.ADDED: (6, 0),
    Column.DELTA: (1, 1),
    Column.MCC: (2, 1),
    Column.MERCHANT_COUNTRY: (2, 0),
    Column.CARD_COUNTRY: (2, 0),
    Column.BILLING_COUNTRY: (2, 0),
    Column.SHIPPING_COUNTRY: (2, 0),
    Column.IP_COUNTRY: (2, 0),
    Column.LATITUDE: (3, 1),
    Column.LONGITUDE: (3, 1),
}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where an entity's parts stand: in its state (`…_at`), or in the tables (`first_…`)."""

    window_at: dict[str, int]
    first_window: int
    register_at: dict[str, int]
    location_at: int
    first_set: int
    first_decay: int


def _entity_arguments(feature: Feature, entity: Entity, places: _Places) -> list[int]:
    """The integers of one feature row: places in the state wherever they are known now."""
    totals = [_total_at(entity, feature.target, measure, places) for measure in feature.summed]
    match feature.operation:
        case Operation.TOTAL | Operation.MEAN:
            return totals
        case Operation.RATIO:
            return [*totals, int(feature.other == "log")]
        case Operation.ZSCORE:
            return [*totals, feature.minimum, int(feature.other == "log")]
        case Operation.RATE:
            return [*totals, *feature.prior]
        case Operation.RUN | Operation.LATEST | Operation.EARLIEST:  # which look at single tiles
            names = [window.name for window in entity.windows]
            sums = entity.windows[names.index(feature.target)].sums
            return [places.first_window + names.index(feature.target), *map(sums.index, feature.summed)]
        case Operation.CHANGED:
            return [places.register_at[feature.target], int(FIELD_COLUMNS[feature.target])]
        case Operation.DISTANCE | Operation.SPEED:
            return [places.location_at]
        case Operation.DISTINCT | Operation.NEW | Operation.SHARE | Operation.ENTROPY:
            return [places.first_set + [item.name for item in entity.sets].index(feature.target), feature.window_ms]
        case Operation.DECAYED:
            return [places.first_decay + [item.name for item in entity.decays].index(feature.target)]
        case _:
            return []


def _unusual_arguments(entity: Entity, places: _Places) -> list[int]:
    """An entity's columns from UNUSUAL_COUNT_AT to ABOVE_DENOMINATOR."""
    unusual = entity.unusual
    if unusual is None:
        return [NOTHING_UNUSUAL, NOTHING_UNUSUAL, 0, 0, 1]
    totals = [_total_at(entity, unusual.window, measure, places) for measure in ("count", "amount")]
    return [*totals, unusual.minimum, *unusual.above.as_integer_ratio()]


def _total_at(entity: Entity, name: str, measure: str, places: _Places) -> int:
    """Where a window's total of a measure stands in the state."""
    window = next(item for item in entity.windows if item.name == name)
    return places.window_at[name] + 1 + window.sums.index(measure)


def _sums(entity: Entity, measure: str) -> bool:
    return any(measure in window.sums for window in entity.windows)


def _transaction_arguments(feature: Feature) -> list[int]:
    match feature.operation:
        case Operation.FIELD:
            scale = COORDINATE_SCALE if feature.target in {"latitude", "longitude"} else 1
            return [int(FIELD_COLUMNS[feature.target]), scale]
        case Operation.DIFFERS:
            return [int(FIELD_COLUMNS[feature.target]), int(FIELD_COLUMNS[feature.other])]
        case Operation.PRESENT:
            return [int(FIELD_COLUMNS[feature.target])]
        case _:
            return []


def _uses(entity: Entity, operation: Operation, target: str = "") -> bool:
    return any(item.operation is operation and target in {"", item.target} for item in entity.features)


def _longest_ms(entity: Entity) -> int:
    """The longest past any of the entity's windows looks at: until a store is that old, it cannot know what is new."""
    spans = [window.length_ms + window.delay_ms for window in entity.windows]
    spans += [feature.window_ms for feature in entity.features]
    return max(spans, default=0)


def _table(rows: list[list[int]], width: int) -> Int64Table:
    return np.array(rows, np.int64).reshape(len(rows), width)
