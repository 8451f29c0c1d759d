"""Sparkov's simulated card payments, as they were published on Kaggle.

Source: kaggle.com/datasets/kartik2112/fraud-detection, fraudTrain.csv (1,296,675 rows) and fraudTest.csv (555,719
rows), made with github.com/namebrandon/Sparkov_Data_Generation. Licence: CC0 1.0, says the page.

Columns: a row number without a name, trans_date_trans_time, cc_num, merchant, category, amt, first, last, gender,
street, city, state, zip, lat, long, city_pop, job, dob, trans_num, unix_time, merch_lat, merch_long, is_fraud.

What is assumed:

- trans_date_trans_time is UTC; no zone is named. unix_time is left alone: it lies years before.
- cc_num, an invented card number, becomes a token and is not kept. So does the merchant's name, for its spaces;
  "fraud_" stands before all of them and says nothing. Each person has one card, so there is no customer_id.
- The category is a name of the simulator's. `CATEGORIES` gives each a plausible ISO 18245 code; what ends in _net was
  bought online and what ends in _pos at a counter, and of the others the channel is not known.
- merch_lat and merch_long are where the payment was made. The simulator draws them anew for each payment, within a
  degree of the customer's home, so that a merchant has no fixed place.
- Amounts are US dollars.
- When a fraud became known is not said.
"""

import polars as pl

from service.vocabulary import Channel
from training.datasets.published import TOKEN, Published, Reading, minor_units, number, text, token, word

CATEGORIES = {
    "entertainment": "7832",  # cinemas
    "food_dining": "5812",  # restaurants
    "gas_transport": "5541",  # service stations
    "grocery_net": "5411",  # supermarkets
    "grocery_pos": "5411",
    "health_fitness": "7997",  # sports clubs
    "home": "5200",  # home supply stores
    "kids_pets": "5945",  # toy shops
    "misc_net": "5999",  # miscellaneous retail
    "misc_pos": "5999",
    "personal_care": "7230",  # hairdressers
    "shopping_net": "5311",  # department stores
    "shopping_pos": "5311",
    "travel": "4722",  # travel agencies
}
_CHANNELS = {"net": Channel.ECOMMERCE.value, "pos": Channel.POS.value}

DATA_SET = Published(
    name="Sparkov",
    files=("fraudTrain.csv", "fraudTest.csv"),
    columns={
        "transaction_id": Reading(text("trans_num", TOKEN), "a token"),
        "timestamp": Reading(
            pl.col("trans_date_trans_time").str.to_datetime(
                "%Y-%m-%d %H:%M:%S", time_unit="ms", time_zone="UTC", strict=False
            ),
            "a time like 2019-01-31 12:00:00",
        ),
        "card_id": Reading(token(text("cc_num", r"^[0-9]{8,19}$"), kind="c", data_set="sparkov"), "8 to 19 digits"),
        "merchant_id": Reading(
            token(pl.col("merchant").str.strip_prefix("fraud_"), kind="m", data_set="sparkov"), "a merchant's name"
        ),
        "amount": Reading(minor_units(number("amt")), "an amount like 12.34"),
        "currency": Reading(pl.lit("USD")),
        "merchant_category_code": Reading(word("category", CATEGORIES), "one of " + ", ".join(CATEGORIES)),
        "channel": Reading(
            pl.col("category")
            .str.extract("_(net|pos)$")
            .replace_strict(_CHANNELS, default=None, return_dtype=pl.String)
        ),
        "latitude": Reading(number("merch_lat"), "degrees"),
        "longitude": Reading(number("merch_long"), "degrees"),
        "is_fraud": Reading(word("is_fraud", {"0": False, "1": True}), "0 or 1"),
    },
)
