"""PaySim's simulated mobile money (Lopez-Rojas et al. 2016), as it was published on Kaggle.

Source: kaggle.com/datasets/ealaxi/paysim1, PS_20174392719_1491204439457_log.csv (6,362,620 rows, 8,213 frauds).
Licence: CC BY-SA 4.0, says the page.

Columns: step, type, amount, nameOrig, oldbalanceOrg, newbalanceOrig, nameDest, oldbalanceDest, newbalanceDest, isFraud,
isFlaggedFraud.

What is assumed:

- A step is an hour, and all of it happens at its beginning, in the order of the file. Step 1 is put at
  2017-01-01T00:00Z: no date is named, so that weekdays say nothing.
- These are accounts and not cards: the sender stands for the card, the receiver for the merchant. Nearly every sender
  is seen once, so that only receivers have a history.
- `TYPES` gives each type an ISO 18245 code; no channel of ours fits a telephone.
- The currency is not named. Euros stand in for it so that there is a rate: compare amounts with each other only.
- The balances are not read: a fraud that was found was cancelled, so that they give the answer away. isFlaggedFraud is
  another system's decision and is not read either.
- When a fraud became known is not said.
"""

from datetime import UTC, datetime

import polars as pl

from training.datasets.published import ROW, Published, Reading, instant, minor_units, number, text, word

START = datetime(2017, 1, 1, tzinfo=UTC)
TYPES = {
    "CASH_IN": "6540",  # loading a stored value
    "CASH_OUT": "6010",  # cash paid out at a counter
    "DEBIT": "6012",  # a bank's services
    "PAYMENT": "5999",  # miscellaneous retail
    "TRANSFER": "4829",  # money transfers
}
_ACCOUNT = "^[CM][0-9]{1,18}$"

DATA_SET = Published(
    name="PaySim",
    files=("PS_20174392719_1491204439457_log.csv",),
    columns={
        "transaction_id": Reading(pl.format("p{}", ROW)),
        "timestamp": Reading(
            instant(START, (text("step", "^[1-9][0-9]{0,4}$").cast(pl.Int64) - 1) * 3600), "an hour, counted from 1"
        ),
        "card_id": Reading(text("nameOrig", _ACCOUNT), "C or M and digits"),
        "merchant_id": Reading(text("nameDest", _ACCOUNT), "C or M and digits"),
        "amount": Reading(minor_units(number("amount")), "an amount like 12.34"),
        "currency": Reading(pl.lit("EUR")),
        "merchant_category_code": Reading(word("type", TYPES), "one of " + ", ".join(TYPES)),
        "is_fraud": Reading(word("isFraud", {"0": False, "1": True}), "0 or 1"),
    },
)
