"""Where a service takes its first thresholds from."""

import json
from pathlib import Path

import pytest

from service.app import open_thresholds
from service.bundle import Bundle
from service.errors import SettingsInvalid
from service.settings import Settings
from service.threshold_store import Source
from tests.small_bundle import THRESHOLDS_DOCUMENT


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.load(small_bundle)


def opened(bundle: Bundle, tmp_path: Path, content: str | None) -> Source:
    """The source of what is in force, with a thresholds file of this content or without one."""
    file = None if content is None else tmp_path / "thresholds.json"
    if file is not None and content is not None:
        file.write_text(content)
    return open_thresholds(Settings(thresholds_file=file, state_dir=tmp_path), bundle).current.source


def test_the_bundles_thresholds_stand_until_a_file_is_named(bundle: Bundle, tmp_path: Path) -> None:
    """Without a file the bundle's, with one the file's."""
    assert opened(bundle, tmp_path, None) is Source.BUNDLE
    assert opened(bundle, tmp_path, json.dumps(THRESHOLDS_DOCUMENT)) is Source.FILE


@pytest.mark.parametrize(
    "content",
    ["not json", "{}", json.dumps(THRESHOLDS_DOCUMENT).replace('"segments"', '"currency": "EUR", "segments"', 1)],
    ids=["no JSON", "empty", "a key twice"],
)
def test_a_file_with_a_fault_stops_the_start(bundle: Bundle, tmp_path: Path, content: str) -> None:
    """It is read as strictly as what is published: a key that stands twice is a fault, not a choice."""
    with pytest.raises(SettingsInvalid, match="TOUCHSTONE_THRESHOLDS_FILE"):
        opened(bundle, tmp_path, content)
