"""The IEEE-CIS fraud detection competition's online payments, recorded by Vesta.

Source: kaggle.com/c/ieee-fraud-detection, train_transaction.csv (590,540 rows) and, if it lies beside it,
train_identity.csv (144,233 rows, joined by TransactionID). The competition's test files have no labels. Licence: the
competition's rules, which must be accepted there; read them before you pass anything on.

Columns read: TransactionID, isFraud, TransactionDT, TransactionAmt, ProductCD, card1 to card6 and addr1; of the
identity DeviceInfo, id_30, id_31 and id_33. The others (C, D, M, V, ...) are the host's own features, whose meaning is
masked and which a service could not compute: they are not read.

What is assumed:

- TransactionDT counts seconds from 2017-12-01T00:00Z. The host never said from when; this is the usual guess, and makes
  the data end half a year later. Hours and weekdays rest on it.
- card_id is a guess: no column names the card. What is equal in card1 to card6 (bank, scheme, country, ...) and addr1
  (billing region) is taken for one card. Two cards may share all that, and a card whose holder moved becomes two.
- merchant_id is the product code: there are five, and no merchants. Its histories are those of a line of business.
- device_id is a guess as well: DeviceInfo with operating system, browser and screen names a make of device; many people
  share one. An e-mail domain names no person at all, so email_hash stays empty.
- All are online payments in US dollars. Some amounts have a third decimal (converted from another currency, it seems):
  they are rounded to cents.
- When a fraud became known is not said. The label also covers payments that were linked to a reported one, and was
  drawn after some 120 days: seven days of delay are kind.
"""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from service.vocabulary import Channel
from training.datasets.published import Published, Reading, instant, minor_units, number, scan_csv, text, token, word

START = datetime(2017, 12, 1, tzinfo=UTC)
IDENTITY = "train_identity.csv"
_CARD = ("card1", "card2", "card3", "card4", "card5", "card6", "addr1")
_DEVICE = ("DeviceInfo", "id_30", "id_31", "id_33")


def _with_identity(file: Path) -> pl.LazyFrame:
    """The transactions with what was recorded of the device, for those of which something was."""
    transactions, identity = scan_csv(file), file.with_name(IDENTITY)
    if not identity.is_file():
        return transactions.with_columns(pl.lit(None, pl.String).alias(name) for name in _DEVICE)
    devices = pl.scan_csv(identity, infer_schema=False, glob=False).select("TransactionID", *_DEVICE)
    return transactions.join(devices, on="TransactionID", how="left", maintain_order="left")


def _together(names: tuple[str, ...]) -> pl.Expr:
    """Several columns as one text, null where the first is; an absent value is one, too."""
    joined = pl.concat_str([pl.col(name).fill_null("") for name in names], separator="|")
    return pl.when(pl.col(names[0]).is_not_null()).then(joined)


DATA_SET = Published(
    name="IEEE-CIS",
    files=("train_transaction.csv",),
    columns={
        "transaction_id": Reading(pl.format("i{}", text("TransactionID", "^[0-9]{1,12}$")), "a number"),
        "timestamp": Reading(instant(START, number("TransactionDT")), "seconds"),
        "card_id": Reading(token(_together(_CARD), kind="c", data_set="ieee-cis"), "card1 at least"),
        "merchant_id": Reading(pl.format("p{}", text("ProductCD", "^[A-Z]$")), "a capital letter"),
        "amount": Reading(minor_units(number("TransactionAmt")), "an amount like 12.34"),
        "currency": Reading(pl.lit("USD")),
        "device_id": Reading(token(_together(_DEVICE), kind="d", data_set="ieee-cis")),
        "channel": Reading(pl.lit(Channel.ECOMMERCE.value)),
        "is_fraud": Reading(word("isFraud", {"0": False, "1": True}), "0 or 1"),
    },
    scan=_with_identity,
)
