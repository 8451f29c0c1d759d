"""Each rule of docs/features.md by a few events and the numbers they must give, from the engine and the definition."""

from collections.abc import Sequence
from dataclasses import replace
from math import log2, sqrt

import numpy as np
import pytest

from tests.features.agreement import assert_defined, card_spec, values
from tests.features.oracle import Declaration
from tests.features.streams import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Action, Step, rows_of

MIDNIGHT_MS = 1_704_067_200_000  # Monday 2024-01-01T00:00:00Z
HOUR_WINDOW: Declaration = {"length": "1h", "hop": "5m", "sums": ["count", "amount", "units", "units_squared"]}
DAY_WINDOW: Declaration = {"length": "1d", "hop": "1h", "sums": ["count", "amount"]}
COUNT = card_spec({"count": {"total": "h1.count"}, "known": {"known": True}}, windows={"h1": HOUR_WINDOW})
MISSING = float("nan")


def test_a_transaction_does_not_see_itself() -> None:
    """The first transaction of a card counts nothing, the second counts the first."""
    assert values(COUNT, [Step(), Step()]) == {"count": [0, 1], "known": [0, 1]}


def test_the_order_of_the_log_decides_between_equal_times() -> None:
    """Three transactions of one millisecond see none, one and two before them."""
    assert values(COUNT, [Step(wait_ms=0)] * 3)["count"] == [0, 1, 2]


def test_time_never_runs_backwards() -> None:
    """A transaction two hours late is read as of the latest time the card has seen, not as of its own."""
    steps = [Step(), Step(wait_ms=2 * HOUR_MS), Step(wait_ms=0, late_ms=2 * HOUR_MS)]
    assert values(COUNT, steps)["count"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("wait_ms", "count"), [(HOUR_MS, 1), (HOUR_MS + 5 * MINUTE_MS - 1, 1), (HOUR_MS + 5 * MINUTE_MS, 0)]
)
def test_a_window_ends_with_the_tile_that_its_length_reaches_into(wait_ms: int, count: int) -> None:
    """An hour in tiles of five minutes still holds the tile an hour ago, and drops it five minutes later."""
    steps = [Step(wait_ms=0), Step(wait_ms=wait_ms)]
    assert values(COUNT, steps, start_ms=MIDNIGHT_MS)["count"] == [0, count]


def test_a_late_transaction_counts_where_its_tile_still_is() -> None:
    """Two hours late is too late for the window of an hour, for ever, and in time for the window of a day."""
    spec = card_spec(
        {"hour": {"total": "h1.count"}, "day": {"total": "d1.count"}}, windows={"h1": HOUR_WINDOW, "d1": DAY_WINDOW}
    )
    steps = [Step(), Step(wait_ms=MINUTE_MS, late_ms=2 * HOUR_MS), Step()]
    assert values(spec, steps) == {"hour": [0, 1, 1], "day": [0, 1, 2]}


def test_a_label_that_comes_early_waits_for_the_delay() -> None:
    """A fraud reported at once is invisible until the transaction's tile ended seven days ago, then for thirty days."""
    spec = label_spec({"length": "30d", "hop": "1d", "delay": "7d", "at": "transaction", "sums": ["count", "fraud"]})
    steps = [Step(wait_ms=0), Step(action=Action.LABEL, wait_ms=0), *at_days(7, 8, 37, 38)]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["fraud"] == approximately([0, MISSING, 0, 1, 1, 0])


def test_a_label_that_comes_late_shows_when_it_comes() -> None:
    """A fraud reported on day 20 is seen from then on, in the tile of its transaction: until day 38."""
    spec = label_spec({"length": "30d", "hop": "1d", "delay": "7d", "sums": ["count", "fraud"]})
    label = Step(action=Action.LABEL, wait_ms=DAY_MS, back=1)
    steps = [Step(wait_ms=0), *at_days(19), label, Step(wait_ms=0), *at_days(17, 18)]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["fraud"] == approximately([0, 0, MISSING, 1, 1, 0])


def test_a_window_at_report_counts_a_label_when_it_is_reported() -> None:
    """A dispute on day 60 moves the rate of the last 30 days, from the next transaction on."""
    spec = label_spec({"length": "30d", "hop": "1d", "at": "report", "sums": ["count", "fraud"]})
    steps = [Step(wait_ms=0), *at_days(60), Step(action=Action.LABEL, wait_ms=0, back=1), Step(wait_ms=0), *at_days(30)]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["fraud"] == approximately([0, 0, MISSING, 1, 1])


def test_a_reversed_label_takes_itself_back() -> None:
    """Fraud and its reversal add up to nothing."""
    spec = label_spec({"length": "30d", "hop": "1d", "at": "transaction", "sums": ["count", "fraud"]})
    steps = [
        Step(),
        Step(action=Action.LABEL),
        Step(),
        Step(action=Action.LABEL, back=1),
        Step(),
    ]
    assert values(spec, steps)["fraud"] == approximately([0, MISSING, 1, MISSING, 0])


def test_only_a_gap_beyond_the_horizon_forgets() -> None:
    """After exactly 90 days the card is known and has an age; one millisecond more and it is new. Its rev goes on."""
    spec = card_spec({"known": {"known": True}, "age": {"age": True, "default": -1}})
    kept = [Step(), Step(wait_ms=90 * DAY_MS), Step(wait_ms=90 * DAY_MS + 1), Step(wait_ms=0)]
    assert values(spec, kept) == {"known": [0, 1, 0, 1], "age": [-1, 90, -1, 0]}
    assert assert_defined(spec, rows_of(kept)).revs[:, 0].tolist() == [0, 1, 2, 3]


def test_the_z_score_is_in_capped_units_of_the_own_history() -> None:
    """After 10, 20 and 30 units 40 are 20 / sqrt(200 / 3) deviations above; a trillion counts as 100,000 units."""
    spec = card_spec({"z": {"zscore": "h1", "minimum": 3, "default": -9}}, windows={"h1": HOUR_WINDOW})
    steps = [Step(amount=amount) for amount in (1_000, 2_099, 3_000, 4_000)]
    assert values(spec, steps)["z"] == [-9, -9, -9, pytest.approx(20 / sqrt(200 / 3))]
    steps[-1] = Step(amount=10**12)
    assert values(spec, steps)["z"][-1] == pytest.approx((100_000 - 20) / sqrt(200 / 3))


def test_equal_amounts_have_no_z_score() -> None:
    """Without any variance the z-score is its default."""
    spec = card_spec({"z": {"zscore": "h1", "minimum": 2, "default": 0}}, windows={"h1": HOUR_WINDOW})
    assert values(spec, [Step(amount=2_500)] * 4)["z"] == [0, 0, 0, 0]


def test_sums_means_and_ratios_are_of_the_window() -> None:
    """After 10.00 and 30.00, the total is 40.00, the mean 20.00, and 60.00 is three times the mean."""
    spec = card_spec(
        {
            "total": {"total": "h1.amount"},
            "mean": {"mean": "h1.amount", "default": -1},
            "ratio": {"ratio": "h1"},
        },
        windows={"h1": HOUR_WINDOW},
    )
    seen = values(spec, [Step(amount=1_000), Step(amount=3_000), Step(amount=6_000)])
    assert seen["total"] == [0, 1_000, 4_000]
    assert seen["mean"] == [-1, 1_000, 2_000]
    assert seen["ratio"] == approximately([MISSING, 3, 3])


def test_a_rate_leans_on_its_prior() -> None:
    """With a prior of 1 in 1,000 and one fraud in two transactions the rate is 2 in 1,002."""
    window: Declaration = {"length": "30d", "hop": "1d", "sums": ["count", "fraud"]}
    spec = card_spec({"rate": {"rate": "f30", "of": "fraud", "prior": [1, 1_000]}}, windows={"f30": window})
    steps = [Step(), Step(), Step(action=Action.LABEL), Step()]
    assert values(spec, steps)["rate"] == approximately([1 / 1_000, 1 / 1_001, MISSING, 2 / 1_002])


@pytest.mark.parametrize(
    ("amounts", "unusual"),
    [
        ((1_000, 1_000, 3_001), 1),
        ((1_000, 1_000, 3_000), 0),
        ((1_000, 9_000), 0),  # one attempt does not say what is usual
        ((0, 0, 5_000), 0),  # nor do attempts at nothing
    ],
)
def test_an_attempt_far_above_the_mean_is_unusual(amounts: Sequence[int], unusual: int) -> None:
    """More than three times the mean is unusual, once two attempts say what that is."""
    spec = unusual_spec({"length": "1d", "hop": "1h", "sums": ["count", "amount", "unusual"]}, above=3, minimum=2)
    seen = values(spec, [*(Step(amount=amount) for amount in amounts), Step()])["unusual"]
    assert seen == [0] * len(amounts) + [unusual]


def test_what_was_unusual_stays_so_where_it_is_counted() -> None:
    """What an attempt was when it came is not asked again: not when it is taken back, nor when others are like it."""
    spec = unusual_spec({"length": "1d", "hop": "1h", "sums": ["count", "amount", "unusual"]}, above=3, minimum=1)
    large = Step(amount=9_000)
    steps = [Step(), large, Step(action=Action.VOID, wait_ms=0), large, large, Step()]
    assert values(spec, steps)["unusual"] == approximately([0, 0, MISSING, 1, 2, 2])


def test_the_amount_of_a_fraud_counts_as_long_as_its_label() -> None:
    """Frauds of 10.00 and 30.00 are 20.00 on average; without the second it is 10.00, and without both nothing."""
    window: Declaration = {"length": "30d", "hop": "1d", "sums": ["fraud", "fraud_amount"]}
    mean: Declaration = {"mean": "f30.fraud_amount", "per": "fraud", "default": -1}
    spec = card_spec({"mean": mean}, windows={"f30": window})
    steps = [
        Step(amount=1_000),
        Step(action=Action.LABEL),
        Step(amount=3_000),
        Step(action=Action.LABEL),
        Step(),
        Step(action=Action.LABEL, back=1),
        Step(),
        Step(action=Action.LABEL, back=3),
        Step(),
    ]
    expected = [-1, MISSING, 1_000, MISSING, 2_000, MISSING, 1_000, MISSING, -1]
    assert values(spec, steps)["mean"] == approximately(expected)


@pytest.mark.parametrize("shift", range(48))
def test_a_logarithm_is_that_of_the_amount(shift: int) -> None:
    """From nothing to the largest amount it is at most 1/64 below the true one, and exact at powers of two less one."""
    window: Declaration = {"length": "30d", "hop": "1d", "sums": ["log"]}
    spec = card_spec({"log": {"total": "w.log"}}, windows={"w": window})
    amounts = sorted({(1 << shift) - 1, 1 << shift, 5 << shift >> 2, (1 << shift + 1) - 2})
    sums = values(spec, [*(Step(amount=amount) for amount in amounts), Step()])["log"]
    for amount, before, after in zip(amounts, sums[:-1], sums[1:], strict=True):
        exact = 64 * log2(1 + amount)
        assert exact - 1.01 < after - before <= exact + 0.01
        assert after - before == exact or (amount + 1) & amount


def test_the_logarithmic_ratio_is_in_octaves_above_the_geometric_mean() -> None:
    """After 1.27 and 5.11, whose geometric mean is about 2.55, 10.23 is two octaves above it, and 2.55 none."""
    window: Declaration = {"length": "1h", "hop": "5m", "sums": ["count", "log"]}
    spec = card_spec({"octaves": {"ratio": "h1", "of": "log", "default": -9}}, windows={"h1": window})
    assert values(spec, [Step(amount=127), Step(amount=511), Step(amount=1_023)])["octaves"] == [-9, 2, 2]
    assert values(spec, [Step(amount=127), Step(amount=511), Step(amount=255)])["octaves"] == [-9, 2, 0]


def test_the_logarithmic_z_score_is_in_deviations_of_the_logarithm() -> None:
    """After 2^7, 2^8 and 2^9 less one, 2^10 less one is 2 / sqrt(2 / 3) deviations above their mean."""
    window: Declaration = {"length": "1h", "hop": "5m", "sums": ["count", "log", "log_squared"]}
    spec = card_spec({"z": {"zscore": "h1", "of": "log", "minimum": 3, "default": -9}}, windows={"h1": window})
    seen = values(spec, [Step(amount=(1 << bits) - 1) for bits in (7, 8, 9, 10)])
    assert seen["z"] == approximately([-9, -9, -9, 2 / sqrt(2 / 3)])


def test_a_run_of_frauds_ends_with_the_first_tile_that_holds_something_else() -> None:
    """Frauds on days 3, 4 and 6 and nothing on day 5 are a run of three; the honest day 2 ends it before day 1."""
    window: Declaration = {"length": "28d", "hop": "1d", "delay": "7d", "sums": ["count", "fraud"]}
    spec = card_spec({"run": {"run": "f28"}}, windows={"f28": window})
    fraud = Step(action=Action.LABEL, wait_ms=0)
    one, two, three, four, six, *later = at_days(1, 2, 3, 4, 6, 14, 15)
    steps = [one, fraud, two, three, fraud, four, fraud, six, fraud, *later]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["run"][-2:] == [3, 3]
    steps = [one, fraud, two, three, fraud, four, fraud, six, *later]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["run"][-2:] == [0, 0]  # day 6 is visible on day 14


def test_a_run_of_frauds_is_of_what_was_not_taken_back() -> None:
    """Of two frauds of a day both run on when one of the attempts is taken back, and none when both are."""
    window: Declaration = {"length": "28d", "hop": "1d", "sums": ["count", "fraud"]}
    spec = card_spec({"run": {"run": "f28"}}, windows={"f28": window})
    fraud, void = Step(action=Action.LABEL), Step(action=Action.VOID)
    frauds = [Step(), fraud, Step(), fraud]
    tomorrow = Step(wait_ms=DAY_MS)
    assert values(spec, [*frauds, void, tomorrow])["run"][-1] == 2
    assert values(spec, [*frauds, void, replace(void, back=1), tomorrow])["run"][-1] == 0


def test_the_first_and_the_latest_fraud_are_so_many_days_before_what_is_known() -> None:
    """Seen from the newest day that is visible, frauds on days 1 and 3 are 0 to 28 days back, and then forgotten."""
    window: Declaration = {"length": "28d", "hop": "1d", "delay": "7d", "sums": ["fraud"]}
    spec = card_spec(
        {"latest": {"latest": "f28.fraud", "default": 60}, "earliest": {"earliest": "f28.fraud", "default": 60}},
        windows={"f28": window},
    )
    fraud = Step(action=Action.LABEL, wait_ms=0)
    one, three, *later = at_days(1, 3, 8, 9, 10, 11, 20, 37, 39)
    seen = values(spec, [one, fraud, three, fraud, *later], start_ms=MIDNIGHT_MS)
    assert seen["latest"][-7:] == [60, 0, 1, 0, 9, 26, 60]
    assert seen["earliest"][-7:] == [60, 0, 1, 2, 11, 26, 60]


def test_entropy_is_the_bits_that_say_where_the_weight_is() -> None:
    """Of one category 0 bits, of two alike 1, of four alike 2, of three quarters and one about 0.811."""
    spec = card_spec(
        {"bits": {"entropy": "categories", "default": -1}},
        sets={
            "categories": {
                "of": "merchant_category_code",
                "capacity": 4,
                "hop": "12h",
                "tally": {"sum": "count", "half_life": "32d"},
            }
        },
    )
    alike = [Step(category=category, wait_ms=0) for category in (1, 2, 3, 4, 0)]
    assert values(spec, alike, start_ms=MIDNIGHT_MS)["bits"] == approximately([-1, 0, 1, log2(3), 2], rel=1e-4)
    uneven = [Step(category=category, wait_ms=0) for category in (1, 2, 1, 1, 0)]
    assert values(spec, uneven, start_ms=MIDNIGHT_MS)["bits"][-1] == pytest.approx(2 - 0.75 * log2(3), rel=1e-4)


def test_a_full_set_forgets_the_value_it_has_not_seen_for_longest() -> None:
    """Of merchants 1, 2, 1, 3 a set of two holds 1 and 3; 2 is new again and then pushes out 1."""
    spec = card_spec(
        {"new": {"new": "merchants"}, "distinct": {"distinct": "merchants", "window": "1d"}},
        sets={"merchants": {"of": "merchant_id", "capacity": 2, "hop": "1m"}},
    )
    steps = [Step(merchant=merchant) for merchant in (1, 2, 1, 3, 2, 3, 1)]
    assert values(spec, steps) == {"new": [1, 1, 0, 1, 1, 0, 1], "distinct": [0, 1, 2, 2, 2, 2, 2]}


def test_distinct_counts_what_was_seen_within_its_window() -> None:
    """A merchant seen an hour ago counts in the last hour, and no more one tile later."""
    spec = card_spec(
        {"distinct": {"distinct": "merchants", "window": "1h"}},
        sets={"merchants": {"of": "merchant_id", "capacity": 8, "hop": "5m"}},
    )
    steps = [Step(wait_ms=0), Step(wait_ms=HOUR_MS, merchant=2), Step(wait_ms=5 * MINUTE_MS, merchant=3)]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["distinct"] == [0, 1, 1]


def test_a_share_is_the_part_of_the_spend_at_the_same_value() -> None:
    """After 10.00 at one category and 30.00 at another, the second has three quarters, an unseen one nothing."""
    spec = card_spec(
        {"share": {"share": "categories", "default": -1}},
        sets={
            "categories": {
                "of": "merchant_category_code",
                "capacity": 4,
                "hop": "12h",
                "tally": {"sum": "amount", "half_life": "32d"},
            }
        },
    )
    steps = [
        Step(category=1, amount=1_000),
        Step(category=2, amount=3_000),
        Step(category=2, amount=0),
        Step(category=3, amount=0),
        Step(category=0),
    ]
    assert values(spec, steps, start_ms=MIDNIGHT_MS)["share"] == [-1, 0, 0.75, 0, -1]


def test_a_decayed_counter_halves_in_its_half_life() -> None:
    """One attempt counts 1 at once, 1/2 an hour later, and 1/4 + 1 two hours later with another attempt in between."""
    spec = card_spec({"burst": {"decayed": "burst"}}, decays={"burst": {"half_life": "1h", "sum": "count"}})
    steps = [Step(), Step(wait_ms=0), Step(wait_ms=HOUR_MS), Step(wait_ms=HOUR_MS)]
    assert values(spec, steps)["burst"] == [0, 1, 1, 1]


def test_only_new_attempts_count_as_attempts() -> None:
    """A retry of the same payment adds nothing, an increment adds its amount, and neither moves the last time."""
    spec = card_spec(
        {"count": {"total": "h1.count"}, "amount": {"total": "h1.amount"}, "since": {"since_last": True}},
        windows={"h1": HOUR_WINDOW},
    )
    steps = [Step(), Step(action=Action.RETRY), Step(action=Action.INCREMENT, amount=500), Step()]
    seen = values(spec, steps)
    assert seen["count"] == [0, 1, 1, 1]
    assert seen["amount"] == [0, 1_000, 1_000, 1_500]
    assert seen["since"] == approximately([MISSING, 60, 120, 180])


def test_an_issuer_decline_has_its_own_measure() -> None:
    """A declined attempt stays an attempt and counts once among the declines."""
    window: Declaration = {"length": "1h", "hop": "5m", "at": "report", "sums": ["count", "issuer_declined"]}
    spec = card_spec(
        {"count": {"total": "h1.count"}, "declined": {"total": "h1.issuer_declined"}}, windows={"h1": window}
    )
    seen = values(spec, [Step(), Step(action=Action.DECLINE), Step()])
    assert seen["count"] == approximately([0, MISSING, 1])
    assert seen["declined"] == approximately([0, MISSING, 1])


def test_a_void_takes_back_what_the_attempt_added() -> None:
    """After a void the windows and counters are as if the attempt had never been; what was last seen stays."""
    spec = card_spec(
        {
            "count": {"total": "h1.count"},
            "amount": {"total": "h1.amount"},
            "burst": {"decayed": "burst"},
            "since": {"since_last": True},
        },
        windows={"h1": HOUR_WINDOW},
        decays={"burst": {"half_life": "1h", "sum": "amount"}},
    )
    seen = values(spec, [Step(), Step(action=Action.VOID), Step()])
    assert seen["count"] == approximately([0, MISSING, 0])
    assert seen["amount"] == approximately([0, MISSING, 0])
    assert seen["burst"] == approximately([0, MISSING, 0])
    assert seen["since"] == approximately([MISSING, MISSING, 120])


def test_a_young_store_cannot_tell_a_new_card_from_an_old_one() -> None:
    """Until the store is as old as the longest window a first transaction is unknown; from then on it is new."""
    spec = card_spec({"known": {"known": True}, "count": {"total": "d1.count"}}, windows={"d1": DAY_WINDOW})
    steps = [Step(wait_ms=0, card=1), Step(wait_ms=DAY_MS - 1, card=2), Step(wait_ms=1, card=3), Step(card=2)]
    folded = assert_defined(spec, rows_of(steps))
    assert folded.numeric[:, 0].tolist() == approximately([MISSING, MISSING, 0, 1])


def test_the_delay_of_a_window_belongs_to_its_age() -> None:
    """A window of one day seen two days late makes a store young for three days, and so does a distinct window."""
    delayed = card_spec(
        {"known": {"known": True}},
        windows={"w": {"length": "1d", "hop": "1h", "delay": "2d", "sums": ["count"]}},
    )
    distinct = card_spec(
        {"known": {"known": True}, "merchants": {"distinct": "merchants", "window": "3d"}},
        sets={"merchants": {"of": "merchant_id", "capacity": 4, "hop": "1h"}},
    )
    steps = [Step(wait_ms=0), Step(wait_ms=3 * DAY_MS - 1, card=2), Step(wait_ms=1, card=3)]
    for spec in (delayed, distinct):
        assert assert_defined(spec, rows_of(steps)).numeric[:, 0].tolist() == approximately([MISSING, MISSING, 0])


def test_an_entity_that_is_not_named_has_no_features() -> None:
    """Without a terminal every feature of the terminal is missing, and nothing enters a log."""
    spec: Declaration = {
        "version": 1,
        "horizon": "90d",
        "entities": {
            "terminal": {
                "key": "terminal_id",
                "log": {"compact_at": 4, "keep": 2, "ring": 8},
                "features": {"known": {"known": True}},
            }
        },
        "transaction": {"features": {}, "categories": []},
    }
    folded = assert_defined(spec, rows_of([Step(terminal=0), Step(terminal=1), Step(terminal=0), Step(terminal=1)]))
    assert folded.numeric[:, 0].tolist() == approximately([MISSING, 0, MISSING, 1])
    assert folded.revs[:, 0].tolist() == [-1, 0, -1, 1]


def test_the_calendar_is_in_utc() -> None:
    """Half an hour before midnight on Thursday, 29 February 2024 in UTC is 23.5 on day 3 of the week."""
    spec = card_spec({"known": {"known": True}}, transaction={"hour": {"hour": True}, "weekday": {"weekday": True}})
    seen = values(spec, [Step(wait_ms=0), Step(wait_ms=30 * MINUTE_MS)], start_ms=1_709_249_400_000)
    assert seen["hour"] == [23.5, 0]
    assert seen["weekday"] == [3, 4]


def test_a_field_that_is_missing_makes_its_features_missing() -> None:
    """Fields are taken as they are, coordinates in degrees; a comparison needs both of its fields, presence neither."""
    spec = card_spec(
        {"known": {"known": True}},
        transaction={
            "amount": {"field": "amount"},
            "latitude": {"field": "latitude"},
            "abroad": {"differs": ["card_country", "merchant_country"]},
            "device": {"present": "device_id"},
        },
    )
    seen = values(
        spec,
        [
            Step(amount=0, place=1, country=1, card_country=2, device=1),
            Step(amount=10**12, country=1, card_country=1),
            Step(amount=1, country=1),
        ],
    )
    assert seen["amount"] == [0, np.float32(10**12), 1]
    assert seen["latitude"] == approximately([48.8566, MISSING, MISSING])
    assert seen["abroad"] == approximately([1, 0, MISSING])
    assert seen["device"] == [1, 0, 0]


def test_a_change_is_against_the_last_attempt_that_named_the_field() -> None:
    """Countries 1, missing, 1, 2: missing compares with nothing and is not remembered."""
    spec = card_spec({"changed": {"changed": "merchant_country"}})
    steps = [Step(country=country) for country in (1, 0, 1, 2, 2)]
    assert values(spec, steps)["changed"] == approximately([MISSING, MISSING, 0, 1, 0])


def test_a_late_attempt_does_not_become_the_last() -> None:
    """The last country, time and place are those of the greatest time; a late attempt passes by."""
    spec = card_spec({"changed": {"changed": "merchant_country"}, "since": {"since_last": True}})
    steps = [Step(country=1), Step(country=2, wait_ms=0, late_ms=30 * SECOND_MS), Step(country=1)]
    seen = values(spec, steps)
    assert seen["changed"] == approximately([MISSING, 1, 0])
    assert seen["since"] == approximately([MISSING, 0, 60])


def test_age_is_from_the_first_attempt() -> None:
    """Thirty-six hours after the first attempt the card is a day and a half old."""
    spec = card_spec({"age": {"age": True}})
    assert values(spec, [Step(), Step(wait_ms=36 * HOUR_MS)])["age"] == approximately([MISSING, 1.5])


def test_speed_is_distance_over_at_least_a_minute() -> None:
    """From Paris to a place in the same street is 0.41 km: at once that is 24.8 km/h, an hour later 0.41."""
    spec = card_spec({"km": {"distance": True}, "kmh": {"speed": True, "default": -1}})
    steps = [Step(place=1), Step(place=0, wait_ms=0), Step(place=2, wait_ms=0), Step(place=1, wait_ms=HOUR_MS)]
    seen = values(spec, steps)
    assert seen["km"] == approximately([MISSING, MISSING, 0.4113, 0.4113], rel=1e-3)
    assert seen["kmh"] == approximately([-1, -1, 60 * 0.4113, 0.4113], rel=1e-3)


def test_the_date_line_is_no_distance() -> None:
    """From 179.9999 degrees west to 180 degrees east, at 18 degrees north, is ten metres."""
    spec = card_spec({"km": {"distance": True}})
    assert values(spec, [Step(place=4), Step(place=5)])["km"][1] < 0.03


def label_spec(window: Declaration) -> Declaration:
    """A card's frauds in one window."""
    return card_spec({"fraud": {"total": "f.fraud"}}, windows={"f": window})


def unusual_spec(window: Declaration, *, above: float, minimum: int) -> Declaration:
    """How many attempts of a card were unusual in one window, which also says what is usual."""
    unusual: Declaration = {"window": "w", "above": above, "minimum": minimum}
    return card_spec({"unusual": {"total": "w.unusual"}}, windows={"w": window}, unusual=unusual)


def at_days(*days: int) -> list[Step]:
    """An attempt at the beginning of each of these days, counted from the step before."""
    return [Step(wait_ms=(day - before) * DAY_MS) for before, day in zip((0, *days), days, strict=False)]


def approximately(expected: list[float], *, rel: float = 1e-6) -> object:
    """Equal within float32, NaN equal to NaN."""
    return pytest.approx(expected, rel=rel, abs=0, nan_ok=True)
