"""The label delay of a spec: which windows it moves, and what it does to features."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from service.errors import DataInvalid, SpecInvalid
from service.features.spec import DAY_MS, Window, parse_spec
from training.config import FitConfig, read_config
from training.datasets.canonical import canonical
from training.examples import declare_reports, replay_offline
from training.label_delay import with_label_delay

CONFIGS = Path("training/configs")
START = datetime(2025, 1, 1, tzinfo=UTC)


def config() -> FitConfig:
    """The Handbook's."""
    return read_config(CONFIGS / "handbook.yaml")


def terminal_windows(config: FitConfig) -> dict[str, Window]:
    """The terminal's windows, by name."""
    (terminal,) = (entity for entity in config.read_plan().spec.entities if entity.name == "terminal")
    return {window.name: window for window in terminal.windows}


def test_only_windows_that_wait_for_labels_wait_longer_or_shorter() -> None:
    """Of the terminal's windows those with a delay have the new one; nothing else of the spec changes."""
    before, after = terminal_windows(config()), terminal_windows(config().with_label_delay(3))
    waiting = {name for name, window in before.items() if window.delay_ms}
    assert waiting
    for name, window in after.items():
        assert window.delay_ms == (3 * DAY_MS if name in waiting else 0)
        assert (window.length_ms, window.hop_ms, window.sums) == (
            before[name].length_ms, before[name].hop_ms, before[name].sums,
        )  # fmt: skip


def test_labels_known_at_once_need_no_waiting() -> None:
    """With a delay of 0 no window waits, and the spec is still one."""
    document = with_label_delay(yaml.safe_load((CONFIGS / "features.yaml").read_bytes()), 0)
    assert all(not window.delay_ms for entity in parse_spec(document).entities for window in entity.windows)


def test_the_delay_of_the_file_stays_unless_another_is_asked_for() -> None:
    """Byte for byte: a bundle holds the file as its author wrote it."""
    assert config().read_features() == (CONFIGS / "handbook_features.yaml").read_bytes()


def test_what_a_delay_cannot_be_is_said() -> None:
    """Seconds are refused here; a part of a window's tile by the spec's own checks."""
    document = yaml.safe_load((CONFIGS / "handbook_features.yaml").read_bytes())
    with pytest.raises(DataInvalid, match="whole minutes"):
        with_label_delay(document, 0.0001)
    with pytest.raises(SpecInvalid, match="multiple of hop"):
        parse_spec(with_label_delay(document, 0.5))


@pytest.mark.parametrize(("days", "seen"), [(7.0, 0.0), (3.0, 2.0), (0.0, 3.0)])
def test_a_fraud_counts_once_it_is_known(days: float, seen: float) -> None:
    """Three frauds 2, 5 and 6 days ago at a terminal: how many of them it shows depends on the delay alone."""
    ago = (60, 6, 5, 2, 0)
    frame = pl.DataFrame({
        "transaction_id": [f"t{number}" for number in range(5)],
        "timestamp": [START + timedelta(days=60 - days_ago) for days_ago in ago],
        "card_id": ["c0", "c1", "c2", "c3", "c4"],
        "merchant_id": ["m"] * 5,
        "terminal_id": ["x"] * 5,
        "amount": [1000] * 5,
        "currency": ["EUR"] * 5,
        "is_fraud": [False, True, True, True, False],
    })  # fmt: skip
    told = config().with_label_delay(days)
    plan = told.read_plan()
    table = declare_reports(canonical(frame.cast({"timestamp": pl.Datetime("ms", "UTC")}), source="test"), days)
    numeric = replay_offline(table, plan, told.read_currencies()).numeric
    assert numeric[-1, plan.numeric.index("terminal_frauds_7d")] == np.float32(seen)
