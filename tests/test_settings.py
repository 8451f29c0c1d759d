"""Settings: where they come from, which wins, and what is said about one that is wrong."""

from pathlib import Path

import pytest

from service.errors import SettingsInvalid
from service.model import Provider
from service.settings import Settings, environment_variable, flag, read_settings, require_flag, settings_markdown

ROOT = Path(__file__).resolve().parent.parent


def test_the_defaults_need_nothing() -> None:
    """Without any setting the service listens on this machine only, keeps everything in memory and serves our model."""
    settings = read_settings({}, {}, None)
    assert settings == Settings()
    assert (settings.host, settings.port, settings.store_url) == ("127.0.0.1", 8000, "memory://")
    assert settings.model_dir == ROOT / "models" / "touchstone"


def test_a_flag_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    """The nearer to the person who starts the process, the stronger."""
    config = tmp_path / "config.yaml"
    config.write_text("port: 1\nhost: file\nlog_level: error\n")
    environ = {"TOUCHSTONE_PORT": "2", "TOUCHSTONE_HOST": "environment", "HOME": "/"}
    settings = read_settings({"port": "3"}, environ, config)
    assert (settings.port, settings.host, settings.log_level) == (3, "environment", "error")


def test_text_becomes_the_field_s_type(tmp_path: Path) -> None:
    """Variables are text; numbers, paths, truth values and providers come out as what they are."""
    environ = {
        "TOUCHSTONE_MEMORY_MAX_ENTITIES": "1000",
        "TOUCHSTONE_ALLOW_CARD_NUMBER_TOKENS": "true",
        "TOUCHSTONE_STATE_DIR": str(tmp_path),
        "TOUCHSTONE_PROVIDER": "cuda",
    }
    settings = read_settings({}, environ, None)
    assert settings.memory_max_entities == 1000
    assert settings.allow_card_number_tokens is True
    assert settings.state_dir == tmp_path
    assert settings.provider is Provider.CUDA


def test_an_empty_variable_is_not_set() -> None:
    """Compose files pass variables on that nobody set."""
    assert read_settings({}, {"TOUCHSTONE_THRESHOLDS_FILE": "", "TOUCHSTONE_PORT": ""}, None) == Settings()


@pytest.mark.parametrize(
    ("environ", "closest"),
    [({"TOUCHSTONE_PROT": "1"}, "TOUCHSTONE_PORT"), ({"TOUCHSTONE_MODELDIR": "x"}, "TOUCHSTONE_MODEL_DIR")],
)
def test_an_unknown_variable_stops_the_start_and_names_the_closest(environ: dict[str, str], closest: str) -> None:
    """A mistake in a name is never a silent default."""
    with pytest.raises(SettingsInvalid, match=f"{next(iter(environ))} is not a setting; the closest is {closest}"):
        read_settings({}, environ, None)


def test_an_unknown_key_or_flag_stops_the_start_too(tmp_path: Path) -> None:
    """Files and flags are held to the same names."""
    config = tmp_path / "config.yaml"
    config.write_text("prot: 1\n")
    with pytest.raises(SettingsInvalid, match="prot is not a setting; the closest is port"):
        read_settings({}, {}, config)
    with pytest.raises(SettingsInvalid, match="--prot is not a setting; the closest is --port"):
        require_flag("--prot=1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"),
        ("port", "65536"),
        ("port", "http"),
        ("provider", "gpu"),
        ("memory_max_entities", "10"),
        ("allow_card_number_tokens", "perhaps"),
        ("log_level", "trace"),
        ("inference_threads", "0"),
        ("workers", "0"),
        ("workers", "65"),
        ("fast_lane", "on"),
    ],
)
def test_a_wrong_value_is_named_and_shown(name: str, value: str) -> None:
    """The message has the variable, what was expected and what was there."""
    with pytest.raises(SettingsInvalid, match=rf"{environment_variable(name)}: .*\(got '{value}'\)"):
        read_settings({name: value}, {}, None)


def test_several_workers_need_a_store_that_they_share() -> None:
    """memory:// is refused for more than one, with what to do; any other store is not."""
    environ = {"TOUCHSTONE_WORKERS": "2"}
    with pytest.raises(SettingsInvalid, match=r"^TOUCHSTONE_WORKERS: 2 .*memory://.*Set TOUCHSTONE_STORE_URL"):
        read_settings({}, environ, None)
    assert read_settings({"store_url": "redis://h"}, environ, None).workers == 2
    assert read_settings({"workers": "1"}, environ, None).store_url == "memory://"


def test_a_wrong_store_url_is_not_shown() -> None:
    """It may hold a password."""
    with pytest.raises(SettingsInvalid, match="TOUCHSTONE_STORE_URL") as caught:
        read_settings({}, {"TOUCHSTONE_STORE_URL": "rediss+sentinel://user:secret@host"}, None)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("content", ["- port", "port: [", "8000", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, content: str) -> None:
    """So is one that is not there."""
    config = tmp_path / "config.yaml"
    config.write_text(content)
    with pytest.raises(SettingsInvalid, match=r"config\.yaml"):
        read_settings({}, {}, config)
    with pytest.raises(SettingsInvalid, match="none"):
        read_settings({}, {}, tmp_path / "none")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    """A configuration of comments only is one."""
    config = tmp_path / "config.yaml"
    config.write_text("# nothing yet\n")
    assert read_settings({}, {}, config) == Settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_when_to_change_it(name: str) -> None:
    """The explanation is a sentence about the setting and one about when to touch it."""
    description = Settings.model_fields[name].description
    assert description is not None
    assert description.count(".") >= 2
    assert flag(name).removeprefix("--").replace("-", "_") == name


def test_the_page_about_settings_is_up_to_date() -> None:
    """docs/configuration.md is what `python -m service settings` prints."""
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_markdown()
