"""The kernel: folds entries into an entity's state and reads features from it. The only code that computes them.

`online` runs it over the bytes a store returned, `offline` over columns grouped by entity. Both call the same
`advance`, `read_known` and `apply`; docs/features.md says what these mean.
"""

import math

import numpy as np

from service.features.compiled import Float32s, Float64s, Int, Ints, Number, compiled, int64, unsigned
from service.features.entry import MISSING, Column, Kind
from service.features.plan import (
    ABOVE_DENOMINATOR,
    ABOVE_NUMERATOR,
    D_AT,
    D_MEASURE,
    D_QUANTUM,
    END_DECAY,
    END_FEATURE,
    END_REGISTER,
    END_SET,
    END_WINDOW,
    F_A,
    F_B,
    F_C,
    F_D,
    F_E,
    F_OPERATION,
    FIRST_DECAY,
    FIRST_FEATURE,
    FIRST_REGISTER,
    FIRST_SET,
    FIRST_WINDOW,
    HORIZON,
    LOCATION_AT,
    LONGEST,
    NO_LOCATION,
    NOTHING_UNUSUAL,
    R_AT,
    R_COLUMN,
    RING_AT,
    RING_SIZE,
    S_AT,
    S_CAPACITY,
    S_COLUMN,
    S_HOP,
    S_STEPS,
    S_STRIDE,
    S_TALLY,
    SUMS_LOG,
    UNUSUAL_AMOUNT_AT,
    UNUSUAL_COUNT_AT,
    UNUSUAL_MINIMUM,
    W_AT,
    W_DELAY,
    W_FIRST_SUM,
    W_HOP,
    W_REPORT,
    W_SUMS,
    W_TILES,
)
from service.features.spec import DAY_MS, HOUR_MS, MEASURES
from service.features.state import (
    FIRST,
    GENERATION,
    HWM,
    LAST,
    NONE,
    REMEMBERED,
    REV,
    clear,
)

# What came of one entity of one transaction (a bit field).
FOLDED = 0
NEW = 1  # it has no history, and the store is old enough to know
UNKNOWN = 2  # it has no history, and the store is too young to tell
ABSENT = 4  # the transaction does not name it
UNAVAILABLE = 8  # the store did not answer for it, or its value cannot be read
DUPLICATE = 16  # counted before; only its id is remembered, so the features are as of now
RETRIED = 32  # counted before and still in the log, so the features are those of the first time
COMPACTABLE = 64  # its log is long enough to be replaced by a base

# Enumerations as plain integers, which is how numba freezes them into the code.
ATTEMPT, FOLLOW_UP, FRAUD_LABEL, ISSUER_DECLINE, VOID = (int(kind) for kind in Kind)
C_ID, C_TIME, C_ORIGIN = int(Column.ID), int(Column.TIME), int(Column.ORIGIN)
C_AMOUNT, C_ADDED, C_DELTA = int(Column.AMOUNT), int(Column.ADDED), int(Column.DELTA)
C_LATITUDE, C_LONGITUDE = int(Column.LATITUDE), int(Column.LONGITUDE)
N_COLUMNS, N_MEASURES = len(Column), len(MEASURES)
M_COUNT, M_AMOUNT, M_UNITS, M_UNITS_SQUARED, M_FRAUD, M_ISSUER_DECLINED = range(6)
M_FRAUD_AMOUNT, M_UNUSUAL, M_LOG, M_LOG_SQUARED = range(6, N_MEASURES)
O_TOTAL, O_MEAN, O_RATIO, O_ZSCORE, O_RATE, O_SINCE_LAST, O_AGE, O_CHANGED, O_DISTANCE, O_SPEED = range(10)
O_DISTINCT, O_NEW, O_SHARE, O_DECAYED, O_KNOWN, O_RUN, O_LATEST, O_EARLIEST, O_ENTROPY = range(10, 19)
O_FIELD, O_HOUR, O_WEEKDAY, O_DIFFERS, O_PRESENT = range(19, 24)

UNIT_MINOR = 100  # amounts enter the z-score in whole units, capped so that sums of squares stay far from 2^63
UNITS_CAP = 100_000
MEMBER_MASK = 0xFFFFFFFF  # sets and registers keep the low half of a token's hash
THURSDAY = 3  # 1970-01-01, with Monday as 0

# Half-life steps: 64 to a halving. Rounded to 40 bits, so that no libm's last bit can show.
STEPS_PER_HALVING = 64
DECAY_FRACTIONS = np.array([round(2.0**40 * 2.0 ** (-step / 64)) / 2.0**40 for step in range(STEPS_PER_HALVING)])
DECAY_SCALE = 1024
DECAY_LIMIT = 2**53 - 1

# log2 of whole numbers in 2^-16, interpolated linearly between 64ths of an octave; no libm at run time here either.
LOG_STEPS = 64
LOG_ONE = 65_536
LOG_FRACTIONS = np.array([round(LOG_ONE * math.log2(1 + step / LOG_STEPS)) for step in range(LOG_STEPS + 1)], np.int64)
LOG_MEASURE_UNIT = 1024  # of 2^-16: the measures are in 1/64, so that sums of squares stay far from 2^63

# Cosine of whole degrees in 1/10,000, interpolated linearly; no libm at run time.
COSINES = np.array([round(10_000 * math.cos(math.radians(degree))) for degree in range(91)], np.int64)
HALF_TURN = 1_800_000  # 180° in 10^-4 degree
KM_PER_COORDINATE = 0.011132


# ---------------------------------------------------------------- an entry


@compiled
def advance(state: Ints, entity: Ints, windows: Ints, time: Int) -> Int:
    """Move an entity's state to the time of an entry: reset it beyond the horizon, roll its windows. Returns as_of."""
    as_of = max(time, state[HWM])
    if state[HWM] != NONE and as_of - state[HWM] > entity[HORIZON]:
        clear(state)
    for window in range(unsigned(entity[FIRST_WINDOW]), unsigned(entity[END_WINDOW])):
        if as_of >= (state[unsigned(windows[window, W_AT])] + 1) * windows[window, W_HOP]:
            _roll(state, windows, window, as_of // windows[window, W_HOP])
    return as_of


@compiled
def _roll(state: Ints, windows: Ints, window: Int, target: Int) -> None:
    """Let tiles leave a window and others enter it, up to the tile `target`."""
    at, tiles, sums = unsigned(windows[window, W_AT]), windows[window, W_TILES], unsigned(windows[window, W_SUMS])
    delay = windows[window, W_DELAY]
    total = at + unsigned(1)
    ring = total + sums
    first = state[at] + 1  # of the tiles that enter
    state[at] = target
    if target - first + 1 >= tiles:
        for place in range(total, ring + unsigned(tiles) * sums):
            state[place] = 0
        return
    slot, seen = first % tiles, (first - delay - 1) % tiles
    for _ in range(target - first + 1):
        for measure in range(sums):  # the tile that leaves shares its slot with the one that enters
            place = ring + unsigned(slot) * sums + measure
            state[total + measure] -= state[place]
            state[place] = 0
            if delay > 0:
                state[total + measure] += state[ring + unsigned(seen) * sums + measure]
        slot = slot + 1 if slot + 1 < tiles else int64(0)
        seen = seen + 1 if seen + 1 < tiles else int64(0)


@compiled
def apply(
    state: Ints,
    entity: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    registers: Ints,
    event: Ints,
    added: Ints,
    as_of: Int,
) -> None:
    """Add one accepted entry to a state that was advanced to it. Uses `added`, int64 (measures)."""
    kind, time = event[0], event[C_TIME]
    _measure(event, added)
    if kind == ATTEMPT and entity[UNUSUAL_COUNT_AT] != NOTHING_UNUSUAL:
        added[M_UNUSUAL] = _unusual(state, entity, event[C_AMOUNT])
    if kind in (ATTEMPT, VOID) and entity[SUMS_LOG] != 0:
        log = _log_amount(event[C_AMOUNT])
        added[M_LOG] = added[M_COUNT] * log
        added[M_LOG_SQUARED] = added[M_COUNT] * log * log
    for window in range(unsigned(entity[FIRST_WINDOW]), unsigned(entity[END_WINDOW])):
        _count(state, windows, window, event, added)
    for index in range(entity[FIRST_DECAY], entity[END_DECAY]):
        _decay_by(state, decays[index], event, added)
    if kind == ATTEMPT:
        for index in range(entity[FIRST_SET], entity[END_SET]):
            _touch(state, sets, index, event, added)
        if state[FIRST] == NONE:
            state[FIRST] = time
        state[LAST] = max(state[LAST], time)
        _register(state, entity, registers, event)
    if state[REV] == 0:
        state[GENERATION] = event[C_ID]
    _remember(state, entity, event[C_ID])
    state[HWM] = as_of
    state[REV] += 1


@compiled
def _measure(event: Ints, added: Ints) -> None:
    """What an entry adds to each measure, but for those that only some entities sum."""
    kind = event[0]
    for measure in range(N_MEASURES):
        added[measure] = 0
    if kind in (ATTEMPT, VOID):
        attempts, units = 1 if kind == ATTEMPT else event[C_DELTA], _units(event[C_AMOUNT])
        added[M_COUNT] = attempts
        added[M_AMOUNT] = event[C_AMOUNT] if kind == ATTEMPT else -event[C_AMOUNT]
        added[M_UNITS] = attempts * units
        added[M_UNITS_SQUARED] = attempts * units * units
    elif kind == FOLLOW_UP:
        added[M_AMOUNT] = event[C_ADDED]
    elif kind == FRAUD_LABEL:
        added[M_FRAUD] = event[C_DELTA]
        added[M_FRAUD_AMOUNT] = event[C_DELTA] * event[C_AMOUNT]
    elif kind == ISSUER_DECLINE:
        added[M_ISSUER_DECLINED] = 1


@compiled
def _units(amount: Int) -> Int:
    return min(amount // UNIT_MINOR, UNITS_CAP)


@compiled
def _unusual(state: Ints, entity: Ints, amount: Int) -> Int:
    """1 where an amount is far above the mean of those that its window has counted so far, else 0."""
    count, total = state[unsigned(entity[UNUSUAL_COUNT_AT])], state[unsigned(entity[UNUSUAL_AMOUNT_AT])]
    if count < entity[UNUSUAL_MINIMUM] or total <= 0:
        return int64(0)
    above = float(entity[ABOVE_NUMERATOR]) / float(entity[ABOVE_DENOMINATOR])
    return int64(1) if float(amount) * float(count) > above * float(total) else int64(0)


@compiled
def _log_amount(amount: Int) -> Int:
    """The logarithm of an amount in 1/64; of 1 + amount, so that there is one of 0."""
    return log2(1 + amount) // LOG_MEASURE_UNIT


@compiled
def log2(value: Int) -> Int:
    """The binary logarithm of a positive whole number, in 2^-16."""
    exponent = int64(0)
    for bits in (32, 16, 8, 4, 2, 1):
        if value >> (exponent + bits) != 0:
            exponent += bits
    fraction = ((value << (62 - exponent)) >> 40) - (1 << 22)  # the 22 bits behind the leading one
    step, rest = unsigned(fraction >> 16), fraction & 0xFFFF
    between = LOG_FRACTIONS[step] * (LOG_ONE - rest) + LOG_FRACTIONS[step + unsigned(1)] * rest
    return exponent * LOG_ONE + between // LOG_ONE


@compiled
def _count(state: Ints, windows: Ints, window: Int, event: Ints, added: Ints) -> None:
    """Add an entry to its tile of a window, and to the totals if the tile is visible."""
    hop, tiles, sums = windows[window, W_HOP], windows[window, W_TILES], unsigned(windows[window, W_SUMS])
    own_time = event[0] in (ATTEMPT, FOLLOW_UP) or (event[0] != VOID and windows[window, W_REPORT] != 0)
    tile = (event[C_TIME] if own_time else event[C_ORIGIN]) // hop
    at = unsigned(windows[window, W_AT])
    current = state[at]
    if tile > current or tile <= current - tiles:
        return
    delay = windows[window, W_DELAY]
    visible = delay == 0 or tile < current - delay
    total = at + unsigned(1)
    slot = total + sums + unsigned(tile % tiles) * sums
    for index in range(sums):
        value = added[windows[window, unsigned(W_FIRST_SUM) + index]]
        state[slot + index] += value
        if visible:
            state[total + index] += value


@compiled
def decayed(value: Int, steps: Int) -> Int:
    """`value` after `steps` of 1/64 half-life, rounded down."""
    halvings = steps // STEPS_PER_HALVING
    if halvings >= 54:  # noqa: PLR2004 - values stay below 2^53
        return int64(0)
    return int64(float(value) * DECAY_FRACTIONS[unsigned(steps % STEPS_PER_HALVING)]) >> halvings


@compiled
def _decay_by(state: Ints, decay: Ints, event: Ints, added: Ints) -> None:
    change = DECAY_SCALE * added[decay[D_MEASURE]]
    if change == 0:
        return
    at = decay[D_AT]
    step = (event[C_ORIGIN] if event[0] == VOID else event[C_TIME]) // decay[D_QUANTUM]
    latest = max(state[at + 1], step)
    value = decayed(state[at], latest - state[at + 1])
    if change > 0:
        value = min(value + decayed(min(change, DECAY_LIMIT), latest - step), DECAY_LIMIT)
    else:
        value = max(0, value - decayed(min(-change, DECAY_LIMIT), latest - step))
    state[at] = value
    state[at + 1] = latest


@compiled
def _touch(state: Ints, sets: Ints, index: Int, event: Ints, added: Ints) -> None:
    """Note a value in a bounded set; the least recently used makes room."""
    value = event[sets[index, S_COLUMN]]
    if value == MISSING[sets[index, S_COLUMN]]:
        return
    value &= MEMBER_MASK
    at, stride, tallied = sets[index, S_AT], sets[index, S_STRIDE], sets[index, S_TALLY] != 0
    tile = event[C_TIME] // sets[index, S_HOP]
    weight = int64(0)
    if tallied:
        weight = min(DECAY_SCALE * added[sets[index, S_TALLY] - 1], DECAY_LIMIT)
    slot = _find(state, at, stride, value)
    if slot < 0:
        slot = _make_room(state, at, stride, sets[index, S_CAPACITY])
        state[slot] = value
        state[slot + 1] = tile
    else:
        latest = max(state[slot + 1], tile)
        if tallied:
            steps = sets[index, S_STEPS]
            kept = decayed(state[slot + 2], (latest - state[slot + 1]) * steps)
            weight = min(kept + decayed(weight, (latest - tile) * steps), DECAY_LIMIT)
        state[slot + 1] = latest
    if tallied:
        state[slot + 2] = weight


@compiled
def _find(state: Ints, at: Int, stride: Int, value: Int) -> Int:
    """Where a set holds a value, or -1."""
    slot = unsigned(at + 1)
    for _ in range(state[at]):
        if state[slot] == value:
            return int64(slot)
        slot += unsigned(stride)
    return int64(-1)


@compiled
def _make_room(state: Ints, at: Int, stride: Int, capacity: Int) -> Int:
    """Where a set takes another value: behind the others, or instead of the one that was used longest ago."""
    size = state[at]
    if size < capacity:
        state[at] = size + 1
        return at + 1 + size * stride
    slot = oldest = unsigned(at + 1)
    for _ in range(size):
        if state[slot + unsigned(1)] < state[oldest + unsigned(1)]:
            oldest = slot
        slot += unsigned(stride)
    return int64(oldest)


@compiled
def _register(state: Ints, entity: Ints, registers: Ints, event: Ints) -> None:
    """Keep the latest value of each watched field, and the latest location. Values are kept + 1: 0 is never written."""
    time = event[C_TIME]
    for index in range(entity[FIRST_REGISTER], entity[END_REGISTER]):
        at, column = registers[index, R_AT], registers[index, R_COLUMN]
        if event[column] != MISSING[column] and time >= state[at]:
            state[at] = time
            state[at + 1] = (event[column] & MEMBER_MASK) + 1
    at = entity[LOCATION_AT]
    located = event[C_LATITUDE] != MISSING[C_LATITUDE] and event[C_LONGITUDE] != MISSING[C_LONGITUDE]
    if at != NO_LOCATION and located and time + 1 >= state[at]:
        state[at] = time + 1
        state[at + 1] = event[C_LATITUDE]
        state[at + 2] = event[C_LONGITUDE]


@compiled
def _remember(state: Ints, entity: Ints, identity: Int) -> None:
    """Put an accepted id into the ring, over the oldest."""
    at, size = entity[RING_AT], entity[RING_SIZE]
    state[at + 1 + state[at]] = identity
    state[at] = (state[at] + 1) % size
    state[REMEMBERED] = min(state[REMEMBERED] + 1, size)


@compiled
def accept(
    state: Ints, entity: Ints, windows: Ints, sets: Ints, decays: Ints, registers: Ints, event: Ints, added: Ints
) -> bool:
    """Advance and apply, unless the event's id is remembered. Returns whether it was accepted."""
    if remembered(state, entity, event[C_ID]) >= 0:
        return False
    as_of = advance(state, entity, windows, event[C_TIME])
    apply(state, entity, windows, sets, decays, registers, event, added, as_of)
    return True


@compiled
def remembered(state: Ints, entity: Ints, identity: Int) -> Int:
    """The rev under which an id was accepted, or -1 where it is not among the last ones."""
    at, size = entity[RING_AT], entity[RING_SIZE]
    for slot in range(state[REMEMBERED]):
        if state[unsigned(at + 1 + slot)] == identity:
            return state[REV] - 1 - (state[at] - 1 - slot) % size
    return int64(-1)


# ---------------------------------------------------------------- features


@compiled
def read_known(
    state: Ints,
    entity: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    features: Ints,
    defaults: Float64s,
    mine: Ints,
    time: Int,
    as_of: Int,
    born_at: Int,
    out: Float32s,
) -> int:
    """Read features, or mark them missing where the store cannot know. Returns FOLDED, NEW or UNKNOWN.

    `time` is the event time that the first append of the transaction fixed.
    """
    known = state[HWM] != NONE  # not rev: a log forgotten beyond the horizon is like one that never was
    if not known and as_of < born_at + entity[LONGEST]:
        out[entity[FIRST_FEATURE] : entity[END_FEATURE]] = math.nan
        return UNKNOWN
    given = mine[C_TIME]
    mine[C_TIME] = time
    read(state, entity, windows, sets, decays, features, defaults, mine, as_of, known, out)
    mine[C_TIME] = given
    return FOLDED if known else NEW


@compiled
def read(
    state: Ints,
    entity: Ints,
    windows: Ints,
    sets: Ints,
    decays: Ints,
    features: Ints,
    defaults: Float64s,
    event: Ints,
    as_of: Int,
    known: bool,
    out: Float32s,
) -> None:
    """Read an entity's features for a transaction, from a state advanced to it, into out (float32, all features)."""
    time = event[C_TIME]
    for index in range(entity[FIRST_FEATURE], entity[END_FEATURE]):
        operation = features[index, F_OPERATION]
        a, b = features[index, F_A], features[index, F_B]
        value = defaults[index]
        if operation == O_TOTAL:
            value = float(state[a])
        elif operation == O_MEAN:
            if state[b] > 0:
                value = float(state[a]) / float(state[b])
        elif operation == O_RATIO:
            if features[index, F_C] != 0:
                value = _log_ratio(state[a], state[b], event[C_AMOUNT], value)
            elif state[a] > 0 and state[b] > 0:
                value = float(event[C_AMOUNT]) * float(state[b]) / float(state[a])
        elif operation == O_ZSCORE:
            count, total, squares = float(state[a]), float(state[b]), float(state[features[index, F_C]])
            variance = count * squares - total * total
            if state[a] >= features[index, F_D] and variance > 0.0:
                mine = _log_amount(event[C_AMOUNT]) if features[index, F_E] != 0 else _units(event[C_AMOUNT])
                value = (float(mine) * count - total) / math.sqrt(variance)
        elif operation == O_RATE:
            value = float(state[a] + features[index, F_C]) / float(state[b] + features[index, F_D])
        elif operation == O_SINCE_LAST:
            if state[LAST] != NONE:
                value = float(max(0, time - state[LAST]) // 1000)
        elif operation == O_AGE:
            if state[FIRST] != NONE:
                value = float(max(0, as_of - state[FIRST])) / float(DAY_MS)
        elif operation == O_CHANGED:
            if event[b] != MISSING[b] and state[a + 1] != 0:
                value = 0.0 if (event[b] & MEMBER_MASK) + 1 == state[a + 1] else 1.0
        elif operation in (O_DISTANCE, O_SPEED):
            located = event[C_LATITUDE] != MISSING[C_LATITUDE] and event[C_LONGITUDE] != MISSING[C_LONGITUDE]
            if state[a] != 0 and located:
                value = _distance_km(state[a + 1], state[a + 2], event[C_LATITUDE], event[C_LONGITUDE])
                if operation == O_SPEED:
                    value = value * 3600.0 / float(max(60, max(0, time - (state[a] - 1)) // 1000))
        elif operation == O_DISTINCT:
            value = _distinct(state, sets[a], as_of, b)
        elif operation == O_NEW:
            value = _new(state, sets[a], event, value)
        elif operation == O_SHARE:
            value = _share(state, sets[a], event, as_of, value)
        elif operation == O_DECAYED:
            at = decays[a, D_AT]
            value = float(decayed(state[at], as_of // decays[a, D_QUANTUM] - state[at + 1])) / float(DECAY_SCALE)
        elif operation == O_KNOWN:
            value = 1.0 if known else 0.0
        elif operation == O_RUN:
            value = _run(state, windows[a], b, features[index, F_C])
        elif operation == O_LATEST:
            value = _days_ago(state, windows[a], b, 0, 1, value)
        elif operation == O_EARLIEST:
            value = _days_ago(state, windows[a], b, _visible(windows[a]) - 1, -1, value)
        elif operation == O_ENTROPY:
            value = _entropy(state, sets[a], as_of, value)
        out[index] = np.float32(value)


@compiled
def _log_ratio(logs: Int, count: Int, amount: Int, default: Number) -> Number:
    """How many octaves an amount lies above the geometric mean."""
    if count <= 0:
        return default
    return (float(_log_amount(amount)) - float(logs) / float(count)) / float(LOG_ONE // LOG_MEASURE_UNIT)


@compiled
def _distance_km(latitude_0: Int, longitude_0: Int, latitude: Int, longitude: Int) -> float:
    """Equirectangular distance between two coordinates in 10⁻⁴ degree."""
    north = latitude - latitude_0
    east = longitude - longitude_0
    if east > HALF_TURN:
        east -= 2 * HALF_TURN
    elif east < -HALF_TURN:
        east += 2 * HALF_TURN
    middle = abs(latitude + latitude_0) // 2
    degree, rest = min(middle // 10_000, 90), middle % 10_000
    cosine = (COSINES[degree] * (10_000 - rest) + COSINES[min(degree + 1, 90)] * rest) // 10_000
    x, y = float(east * cosine), float(north * 10_000)
    return math.sqrt(x * x + y * y) / 10_000.0 * KM_PER_COORDINATE


@compiled
def _distinct(state: Ints, member_set: Ints, as_of: Int, window_ms: Int) -> float:
    at, stride = member_set[S_AT], member_set[S_STRIDE]
    earliest = (as_of - window_ms) // member_set[S_HOP]
    count = 0
    for index in range(state[at]):
        if state[at + 2 + index * stride] >= earliest:
            count += 1
    return float(count)


@compiled
def _new(state: Ints, member_set: Ints, event: Ints, default: Number) -> Number:
    value = event[member_set[S_COLUMN]]
    if value == MISSING[member_set[S_COLUMN]]:
        return default
    return 1.0 if _find(state, member_set[S_AT], member_set[S_STRIDE], value & MEMBER_MASK) < 0 else 0.0


@compiled
def _share(state: Ints, member_set: Ints, event: Ints, as_of: Int, default: Number) -> Number:
    value = event[member_set[S_COLUMN]]
    if value == MISSING[member_set[S_COLUMN]]:
        return default
    at, stride, steps = member_set[S_AT], member_set[S_STRIDE], member_set[S_STEPS]
    tile = as_of // member_set[S_HOP]
    mine, total = int64(0), int64(0)
    for index in range(state[at]):
        here = at + 1 + index * stride
        weight = decayed(state[here + 2], (tile - state[here + 1]) * steps)
        total += weight
        if state[here] == value & MEMBER_MASK:
            mine = weight
    return default if total == 0 else float(mine) / float(total)


@compiled
def _entropy(state: Ints, member_set: Ints, as_of: Int, default: Number) -> Number:
    """How evenly the weight of a set is spread, in bits."""
    at, stride, steps = member_set[S_AT], member_set[S_STRIDE], member_set[S_STEPS]
    tile, total = as_of // member_set[S_HOP], int64(0)
    for index in range(state[at]):
        here = at + 1 + index * stride
        total += decayed(state[here + 2], (tile - state[here + 1]) * steps)
    if total <= 0:
        return default
    whole, bits = log2(total), 0.0
    for index in range(state[at]):
        here = at + 1 + index * stride
        weight = decayed(state[here + 2], (tile - state[here + 1]) * steps)
        if weight > 0:
            bits += float(weight) / float(total) * float(whole - log2(weight))
    return bits / float(LOG_ONE)


@compiled
def _run(state: Ints, window: Ints, count: Int, fraud: Int) -> float:
    """Frauds in the newest tiles that hold nothing else."""
    frauds = int64(0)
    for back in range(_visible(window)):
        tile = _tile_at(state, window, back)
        if state[tile + count] > 0:
            if state[tile + fraud] < state[tile + count]:
                break
            frauds += state[tile + fraud]
    return float(frauds)


@compiled
def _days_ago(state: Ints, window: Ints, measure: Int, first: Int, step: Int, default: Number) -> Number:
    """Days from the end of a tile with something of a measure to the end of the newest visible tile.

    Looked at are the visible tiles from `first` on in steps of `step`, counted from the newest back.
    """
    back = first
    for _ in range(_visible(window)):
        if state[_tile_at(state, window, back) + measure] > 0:
            return float(back * window[W_HOP]) / float(DAY_MS)
        back += step
    return default


@compiled
def _visible(window: Ints) -> Int:
    """How many tiles of a window are visible."""
    return window[W_TILES] if window[W_DELAY] == 0 else window[W_TILES] - window[W_DELAY] - 1


@compiled
def _tile_at(state: Ints, window: Ints, back: Int) -> Int:
    """Where in the state the visible tile begins that is so many before the newest."""
    at, sums, delay = window[W_AT], window[W_SUMS], window[W_DELAY]
    newest = state[at] if delay == 0 else state[at] - delay - 1
    return at + 1 + sums + (newest - back) % window[W_TILES] * sums


@compiled
def read_transaction(features: Ints, first: Int, event: Ints, out: Float32s) -> None:
    """Features of the transaction itself, which need no history."""
    time = event[C_TIME]
    for index in range(first, features.shape[0]):
        operation, a, b = features[index, F_OPERATION], features[index, F_A], features[index, F_B]
        value = math.nan
        if operation == O_FIELD:
            if a == C_AMOUNT or event[a] != MISSING[a]:
                value = float(event[a]) / float(b)
        elif operation == O_HOUR:
            value = float(time % DAY_MS) / float(HOUR_MS)
        elif operation == O_WEEKDAY:
            value = float((time // DAY_MS + THURSDAY) % 7)
        elif operation == O_DIFFERS:
            if event[a] != MISSING[a] and event[b] != MISSING[b]:
                value = 0.0 if event[a] == event[b] else 1.0
        elif operation == O_PRESENT:
            value = 0.0 if event[a] == MISSING[a] else 1.0
        out[index] = np.float32(value)
