"""The settings of one process: read once, at its start, from flags, environment and file."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from service.errors import SettingsInvalid
from service.model import Provider

PREFIX = "TOUCHSTONE_"
MEMORY = "memory://"
STORE_URL_PATTERN = r"^(memory://|(redis|rediss|unix|redis\+cluster|rediss\+cluster)://.+)$"
SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "models" / "touchstone"


class Settings(BaseModel):
    """Everything an operator can set. The docstring of a field says what it is, then when to change it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Set 0.0.0.0 in a container or on a machine whose network you trust; without
    TOUCHSTONE_API_KEYS_FILE whoever reaches it may send requests."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port to listen on. Change it when another process has it."""

    api_keys_file: Path | None = None
    """Clients that may send requests, with the SHA-256 of each one's key, as JSON: {"clients": [{"name": "checkout",
    "sha256": "64 hexadecimal digits"}]}; requests carry Authorization: Bearer KEY. Without it requests are not
    authenticated: set it unless only those who may send requests can reach the port."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port, each on one core with an event loop of its own. Raise it, up to the number of
    cores, when one process is busy; more than one need a store that is shared, so not memory://."""

    fast_lane: Literal["auto", "off"] = "auto"
    """Whether POST /score is answered below ASGI: auto does so where the server's internals are the ones it was written
    for. Set off to send it through ASGI like everything else, to find out whether a fault lies there."""

    store_url: Annotated[str, Field(pattern=STORE_URL_PATTERN, repr=False)] = MEMORY
    """Where histories and decisions are kept: memory:// (this process; gone when it stops), redis://, rediss:// or
    unix:// (one Redis or Valkey, from 7.0 on), redis+cluster:// or rediss+cluster:// (a cluster of them). User,
    password and TLS files are part of the URL: redis://user:password@host:6379/0. Set it as soon as there is more than
    one process, or a history worth keeping."""

    store_timeout_ms: Annotated[int, Field(ge=1, le=1_000)] = 15
    """How long one trip to the store may take; a decision makes two. Past it the decision is made without what is
    missing, and says so. Raise it for a store that is far away, and stay below half of your deadline."""

    decision_ttl_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    """How long a shared store remembers a decision, for retries and for outcomes that do not carry the transaction's
    keys. Raise it to cover the longest time in which your clients retry: count 600 bytes for each decision."""

    max_stream_decisions: Annotated[int, Field(ge=1_000)] = 200_000
    """Decisions with their features that a shared store holds for GET /decisions and for `python -m training collect`;
    past it the oldest are removed. Raise it if fraud_decisions_overflow_total grows: count 1.4 KB for each."""

    max_stream_archive: Annotated[int, Field(ge=1_000)] = 200_000
    """Messages of archived history, of about 12 entries each, that a shared store holds for `python -m training
    collect`; past it the oldest are removed. Raise it if fraud_archive_overflow_total grows: count 500 bytes each."""

    model_dir: Path = SHIPPED_MODELS
    """A bundle directory, or a directory of bundle versions, of which the highest is served. Set it to serve a model
    you trained."""

    prepare_model_dir: Path | None = None
    """A bundle whose feature spec differs from the served one's: its histories are kept as well from now on, so that it
    can be served later (docs/operations.md). Set it before a change of features; it doubles the work in the store."""

    thresholds_file: Path | None = None
    """Thresholds to start with instead of the bundle's. Set it to begin with your own limits; thresholds published
    later through PUT /thresholds take precedence over it for good."""

    state_dir: Path = Path("touchstone-state")
    """Where published thresholds are kept. Point it at a volume that outlives the container; without write access
    the service runs and refuses to publish."""

    provider: Provider = Provider.AUTO
    """What runs the model: auto, cpu, cuda or tensorrt. auto takes CUDA where it works, else the CPU; name one to be
    sure that it is used, or that the start fails."""

    inference_threads: Annotated[int | None, Field(ge=1, le=64)] = None
    """CPU threads of one model call. Not set, it is measured at start whether more than one is worth it (for the
    shipped model it is not), and one where there are several workers. `python -m service bench-model` shows figures."""

    memory_max_entities: Annotated[int, Field(ge=1_000)] = 500_000
    """Cards, merchants, terminals and devices that memory:// remembers; past it the longest unused is forgotten. Raise
    it when fraud_store_evictions_total grows and there is memory left: count 2 KB for each."""

    memory_max_decisions: Annotated[int, Field(ge=1_000)] = 100_000
    """Decisions that memory:// remembers for retries, GET /decisions and outcomes; past it the oldest is forgotten.
    Raise it to cover the longest time in which your clients retry: count 2 KB for each."""

    parity_share: Annotated[float, Field(ge=0, le=1)] = 0.004
    """Share of entities whose live features are computed again from their archived history, as training would. Give all
    processes the same; raise it when fraud_feature_parity_mismatch_total is not 0, to find out where."""

    allow_card_number_tokens: bool = False
    """Accept card, customer, device and e-mail tokens that look like card numbers. Set it only if your tokens keep the
    format of card numbers; never send real ones."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is logged. Raise it to warning when info is too much to keep."""

    @model_validator(mode="after")
    def _workers_share_a_store(self) -> Self:
        if self.workers > 1 and self.store_url == MEMORY:
            raise ValueError(
                f"TOUCHSTONE_WORKERS: {self.workers} of them cannot share memory://; each would have histories and "
                "decisions of its own. Set TOUCHSTONE_STORE_URL to a store that is shared, or take 1 worker"
            )
        return self


def read_settings(flags: Mapping[str, str], environ: Mapping[str, str], config: Path | None) -> Settings:
    """Flags win over the environment, which wins over the file, which wins over the defaults.

    Args:
        flags: by field name.
        environ: variables; those of ours start with TOUCHSTONE_, and an empty one counts as not set.
        config: a YAML mapping by field name.

    Raises:
        SettingsInvalid: a name is unknown (with the closest one that is not), or a value is out of range.
    """
    values = {**_from_file(config), **_from_environment(environ), **flags}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsInvalid("\n".join(_explained(error, values))) from None  # the cause would show secrets


def environment_variable(name: str) -> str:
    """The variable of a field: TOUCHSTONE_PORT for port."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The flag of a field: --store-url for store_url."""
    return "--" + name.replace("_", "-")


def require_flag(text: str) -> None:
    """Check that a flag exists.

    Raises:
        SettingsInvalid: it does not; names the closest that does.
    """
    _require_known(text.partition("=")[0], [flag(name) for name in Settings.model_fields], where="command line: ")


def default_text(field: FieldInfo) -> str:
    """A field's default as one would type it; the shipped bundle's place is named from the project's root."""
    if field.default is None:
        return "not set"
    if field.default == SHIPPED_MODELS:
        return "models/touchstone"
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def settings_markdown() -> str:
    """The page docs/configuration.md."""
    rows = [
        f"| `{environment_variable(name)}` | `{default_text(field)}` | {' '.join((field.description or '').split())} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([_PAGE_HEAD, *rows, ""])


_PAGE_HEAD = """\
# Configuration

Written by `python -m service settings`; a test holds it to the code.

A setting comes from a flag of `python -m service` (`--port 9000`), else from the environment (`TOUCHSTONE_PORT=9000`),
else from the YAML file named by `--config` (`port: 9000`), else it has its default. An unknown flag, variable or key
stops the start with the closest name that exists. In Kubernetes set `enableServiceLinks: false`: a Service called
`touchstone` would otherwise set `TOUCHSTONE_PORT` in every pod.

What changes with the business is in the [thresholds](thresholds.md), what changes with the model in its bundle.

| Variable | Default | What it is, and when to change it |
|---|---|---|"""


def _from_file(config: Path | None) -> dict[str, object]:
    if config is None:
        return {}
    try:
        document: object = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsInvalid(f"{config}: cannot be read as YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsInvalid(f"{config}: expected a mapping of setting to value")
    for name in document:
        _require_known(str(name), list(Settings.model_fields), where=f"{config}: ")
    return document


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = [environment_variable(name) for name in Settings.model_fields]
    ours = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    for name in ours:
        _require_known(name, known, where="environment: ")
    return {name.removeprefix(PREFIX).lower(): value for name, value in ours.items() if value}


def _require_known(name: str, known: list[str], *, where: str) -> None:
    if name not in known:
        close = get_close_matches(name, known, n=1, cutoff=0.0)
        raise SettingsInvalid(f"{where}{name} is not a setting; the closest is {close[0]}")


def _explained(error: ValidationError, values: Mapping[str, object]) -> list[str]:
    """One line per fault: variable, what was expected, and the value unless it may hold a password."""
    lines = []
    for fault in error.errors(include_url=False):
        if not fault["loc"]:  # between several settings
            lines.append(fault["msg"].removeprefix("Value error, "))
            continue
        name = str(fault["loc"][0])
        shown = f" (got {str(values[name])!r})" if Settings.model_fields[name].repr else ""
        lines.append(f"{environment_variable(name)}: {fault['msg']}{shown}")
    return lines
