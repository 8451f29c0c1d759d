"""The Université Libre de Bruxelles' card payments of two days (Dal Pozzolo et al. 2015).

Source: kaggle.com/datasets/mlg-ulb/creditcardfraud, creditcard.csv (284,807 rows, 492 frauds). Licence: Open Database
Licence with the Database Contents Licence, says the page.

Columns: Time, V1 to V28, Amount, Class.

What can be done with it: very little here. The set names no card, no merchant and no place, so that there are no
histories, and histories are what our features are made of. V1 to V28 are principal components of columns that were
never told; a service could not compute them for the next payment, so they are not read. What is left is the amount and
the time of day: enough to try the pipeline, not to find fraud. Figures that others publish on this set use V1 to V28
and cannot be compared with ours.

What is assumed:

- Time counts seconds from the first payment, which is put at 2013-09-01T00:00Z: "September 2013" is all that is said,
  so that the hour is a guess and the weekday says nothing. It may be written as 1e+05.
- Each row is its own card and its own merchant, of which nothing was seen before.
- Amounts are euros: the holders are European, the currency is not named.
- When a fraud became known is not said.
"""

from datetime import UTC, datetime

import polars as pl

from training.datasets.published import ROW, Published, Reading, instant, minor_units, number, word

START = datetime(2013, 9, 1, tzinfo=UTC)

DATA_SET = Published(
    name="ULB",
    files=("creditcard.csv",),
    columns={
        "transaction_id": Reading(pl.format("b{}", ROW)),
        "timestamp": Reading(instant(START, number("Time")), "seconds"),
        "card_id": Reading(pl.format("c{}", ROW)),
        "merchant_id": Reading(pl.format("m{}", ROW)),
        "amount": Reading(minor_units(number("Amount")), "an amount like 12.34"),
        "currency": Reading(pl.lit("EUR")),
        "is_fraud": Reading(word("Class", {"0": False, "1": True}), "0 or 1"),
    },
)
