"""TabFormer's synthetic card payments (Padhi et al. 2021), as IBM published them.

Source: github.com/IBM/TabFormer, data/credit_card/transactions.tgz, which holds card_transaction.v1.csv (24 million
rows of 2,000 people from 1991 to 2020); also kaggle.com/datasets/ealtman2019/credit-card-transactions. Licence:
Apache 2.0, that of the repository.

Columns: User, Card, Year, Month, Day, Time, Amount, Use Chip, Merchant Name, Merchant City, Merchant State, Zip, MCC,
Errors?, Is Fraud?.

What is assumed:

- Times, to the minute, are UTC; no zone is named. The file goes person by person, so that transactions of one minute
  stand in that order.
- A card is a person's n-th, so card_id names both; the person is the customer. Merchant Name is a number that stands
  for a name.
- Amounts are US dollars. Those below zero are refunds, not authorisations: they are left out.
- Use Chip: chip and swipe are at a counter; of online payments nothing is said about the entry.
- Merchant State: two capital letters are a state of the US; anything else is the English name of a country. A name
  that we do not know leaves merchant_country empty, and so do online payments, which have no place.
- Errors?: "Bad CVV" and "Bad Zipcode" are failed checks. That a check was passed is never said, so it is left empty.
  The other errors (PIN, balance, expiry, ...) have no field. Refused payments stay: they were attempts.
- When a fraud became known is not said.

The service takes no event times before 2000, so that a replay has to begin there (`--history-from`).
"""

import polars as pl

from service.vocabulary import Channel, CheckResult, EntryMode
from training.datasets.countries import country_codes
from training.datasets.published import ROW, Published, Reading, minor_units, text, word

_ONLINE = "Online Transaction"
_CHANNELS = {
    "Chip Transaction": Channel.POS.value,
    "Swipe Transaction": Channel.POS.value,
    _ONLINE: Channel.ECOMMERCE.value,
}
_ENTRY_MODES = {"Chip Transaction": EntryMode.CHIP.value, "Swipe Transaction": EntryMode.MAGSTRIPE.value}
_NUMBER = r"^[0-9]{1,9}$"


def _failed(error: str) -> pl.Expr:
    """Whether a check is among the errors, of which there may be several."""
    return pl.when(pl.col("Errors?").str.contains(error, literal=True)).then(pl.lit(CheckResult.FAIL.value))


def _country() -> pl.Expr:
    state = pl.col("Merchant State")
    abroad = state.str.strip_prefix("The ").replace_strict(country_codes(), default=None, return_dtype=pl.String)
    return pl.when(state.str.contains("^[A-Z]{2}$")).then(pl.lit("US")).otherwise(abroad)


DATA_SET = Published(
    name="TabFormer",
    files=("card_transaction.v1.csv",),
    columns={
        "transaction_id": Reading(pl.format("t{}", ROW)),
        "timestamp": Reading(
            pl.format("{}-{}-{} {}", "Year", "Month", "Day", "Time").str.to_datetime(
                "%Y-%m-%d %H:%M", time_unit="ms", time_zone="UTC", strict=False
            ),
            "the parts of a time, like 2002, 9, 1 and 06:21",
        ),
        "card_id": Reading(pl.format("c{}-{}", text("User", _NUMBER), text("Card", _NUMBER)), "two numbers"),
        "customer_id": Reading(pl.format("u{}", text("User", _NUMBER)), "a number"),
        "merchant_id": Reading(pl.format("m{}", text("Merchant Name", r"^-?[0-9]{1,19}$")), "a whole number"),
        "amount": Reading(
            minor_units(
                text("Amount", r"^\$-?[0-9]+(\.[0-9]+)?$").str.strip_prefix("$").cast(pl.Float64, strict=False)
            ),
            "an amount like $12.34",
        ),
        "currency": Reading(pl.lit("USD")),
        "merchant_category_code": Reading(text("MCC", "^[0-9]{1,4}$").str.zfill(4), "1 to 4 digits"),
        "merchant_country": Reading(_country()),
        "channel": Reading(word("Use Chip", _CHANNELS), "one of " + ", ".join(_CHANNELS)),
        "entry_mode": Reading(word("Use Chip", _ENTRY_MODES)),
        "cvc_check": Reading(_failed("Bad CVV")),
        "avs_check": Reading(_failed("Bad Zipcode")),
        "is_fraud": Reading(word("Is Fraud?", {"No": False, "Yes": True}), "Yes or No"),
    },
    kept=pl.col("amount") >= 0,
)
