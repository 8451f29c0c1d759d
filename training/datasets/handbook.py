"""The Fraud Detection Handbook's simulated data (Le Borgne et al. 2022), read as canonical transactions."""

from pathlib import Path

import polars as pl

from service.errors import DataInvalid
from training.datasets.canonical import canonical

_COLUMNS = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
_MS_PER_DAY = 86_400_000


def load(path: Path, *, label_delay_days: float | None = 7) -> pl.DataFrame:
    """Read the Handbook's table.

    The terminal is the only merchant it knows, so it stands for both. Amounts become euro cents. The Handbook's
    protocol learns of a fraud `label_delay_days` after the transaction; so do we.

    Args:
        path: a Parquet or CSV file, or a folder of them (the published pickles are not read: they can run code).
        label_delay_days: time from a fraud to its report; none: leave that open, as the files themselves do.

    Raises:
        DataInvalid: the file is not of this data set, or a row is impossible.
    """
    table = _read(path)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise DataInvalid(f"{path}: the Handbook's column {missing[0]} is missing; is this another format?")
    fraud = pl.col("TX_FRAUD").cast(pl.Int64) == 1
    time = pl.col("TX_DATETIME").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    terminal = pl.concat_str(pl.lit("t"), pl.col("TERMINAL_ID").cast(pl.String))
    try:
        transactions = table.select(
            transaction_id=pl.concat_str(pl.lit("h"), pl.col("TRANSACTION_ID").cast(pl.String)),
            timestamp=time,
            card_id=pl.concat_str(pl.lit("c"), pl.col("CUSTOMER_ID").cast(pl.String)),
            merchant_id=terminal,
            terminal_id=terminal,
            amount=(pl.col("TX_AMOUNT").cast(pl.Float64) * 100).round().cast(pl.Int64),
            currency=pl.lit("EUR"),
            is_fraud=fraud,
            typology=_typology(table, fraud),
        )
    except pl.exceptions.PolarsError as error:
        raise DataInvalid(f"{path}: {error}") from error
    if label_delay_days is not None:
        reported = pl.col("timestamp") + pl.duration(milliseconds=round(label_delay_days * _MS_PER_DAY))
        transactions = transactions.with_columns(reported_at=pl.when("is_fraud").then(reported))
    return canonical(transactions, source=str(path))


def _typology(table: pl.DataFrame, fraud: pl.Expr) -> pl.Expr:
    if "TX_FRAUD_SCENARIO" not in table.columns:
        return pl.lit(None, pl.String)
    scenario = pl.concat_str(pl.lit("scenario_"), pl.col("TX_FRAUD_SCENARIO").cast(pl.Int64).cast(pl.String))
    return pl.when(fraud).then(scenario)


def _read(path: Path) -> pl.DataFrame:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [_read_file(file) for file in files if file.suffix in {".parquet", ".csv"}]
    if not tables:
        raise DataInvalid(f"{path}: expected a .parquet or .csv file, or a folder with some")
    return pl.concat(tables)


def _read_file(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, try_parse_dates=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataInvalid(f"{file}: {error}") from error
