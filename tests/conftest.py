"""What tests of several parts share: a small bundle, a service that serves it, and repeatable examples."""

import itertools
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from service.logs import configure_logging
from service.settings import Settings
from tests.serving import Service, serving
from tests.small_bundle import write_small_bundle

ARRIVAL_MS = 1_795_253_400_000  # 2026-11-21T09:30:00Z, when every request of these tests arrives

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=["auto", "off"], ids=["lane", "asgi"])
def service(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One server for all tests of endpoints, with the lane, then without: each test uses ids of its own (`new_id`)."""
    state_dir = tmp_path_factory.mktemp("state")
    settings = Settings(model_dir=small_bundle, state_dir=state_dir, fast_lane=request.param)
    with serving(settings, lambda: ARRIVAL_MS) as started:
        yield started


@pytest.fixture(scope="session")
def new_id() -> Callable[[str], str]:
    """Ids that no other test has."""
    numbers = itertools.count(1)
    return lambda kind: f"{kind}-{next(numbers)}"


@pytest.fixture
def log_stream() -> Iterator[StringIO]:
    """Where the log lines of errors go while a test runs; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = StringIO()
    configure_logging("error", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
