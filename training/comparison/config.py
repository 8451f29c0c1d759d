"""The configuration of a contest: who takes part, on which rows, and how long each may look for its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import DataInvalid
from training.config import Days, FitConfig, LossConfig, Name, NetworkConfig, SamplerConfig, TeacherConfig, read_config

Prevalence = Annotated[float, Field(gt=0, lt=0.5)] | Literal["natural"]
"""Share of fraud among the fit rows; `natural` leaves it as it is."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]  # CatBoost and LightGBM take 32 bits with a sign


class _Section(BaseModel):
    """Unknown keys and wrong types are errors: a misspelt option must not run a different contest silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedFoldsConfig(_Section):
    """The Fraud Detection Handbook's weeks: four to test on, the three before them to choose on."""

    name: Literal["published"]


class WeeklyFoldsConfig(_Section):
    """The last periods of any data: the latest to test on, those before them to choose on."""

    name: Literal["weeks"]
    count: Annotated[int, Field(ge=1, le=100)] = Field(3, description="Test periods, and as many to choose on.")
    test_days: Annotated[float, Field(gt=0, le=365)] = Field(7, description="Longer where fraud is rare.")
    gap_days: Days = Field(7, description="How late labels arrive: between fit and test, and between both sets.")


FoldsConfig = Annotated[PublishedFoldsConfig | WeeklyFoldsConfig, Field(discriminator="name")]


class NetworkContender(_Section):
    """Our network with one loss over one sampler."""

    kind: Literal["network"]
    name: Name
    loss: LossConfig
    sampler: SamplerConfig | None = Field(None, description="None: that of the base configuration.")
    teacher: TeacherConfig | None = Field(
        None, description="None: it learns from labels alone, whatever the base does."
    )
    network: dict[str, int | float] = Field({}, description="What differs from the base configuration's network.")
    tuned: bool = Field(True, description="No: its settings are as configured, and the report says so.")


class BoostedContender(_Section):
    """Boosted trees by one of the three libraries."""

    kind: Literal["lightgbm", "xgboost", "catboost"]
    name: Name


class ClassicalContender(_Section):
    """A forest or a logistic regression over the network's encoding."""

    kind: Literal["forest", "logistic"]
    name: Name


ContenderConfig = Annotated[NetworkContender | BoostedContender | ClassicalContender, Field(discriminator="kind")]


class SearchConfig(_Section):
    """How settings are looked for: the same number of trials for everyone who is tuned."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = Field(
        20, description="The first are the defaults, the next nine random, the rest by TPE."
    )
    seed: Seed = Field(0, description="Of the proposals, the fits on validation folds and the frauds left out there.")
    most_rounds: Annotated[int, Field(ge=20, le=100_000)] = Field(
        1000, description="Where boosting ends in any case; nobody should reach it."
    )


class ContestConfig(_Section):
    """One contest, whole."""

    base: Path = Field(description="The fit configuration that all networks start from, relative to this file.")
    folds: FoldsConfig
    fit_days: Annotated[list[Annotated[float, Field(gt=0, le=3650)]], Field(min_length=1)]
    prevalences: Annotated[list[Prevalence], Field(min_length=1)] = ["natural"]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    search: SearchConfig = SearchConfig()
    baselines: list[Name] = Field(
        [], description="Contenders that all others are compared with, beside the boosted trees best on validation."
    )
    contenders: Annotated[list[ContenderConfig], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        names = [contender.name for contender in self.contenders]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two contenders are called {repeated[0]}")
        unknown = [name for name in self.baselines if name not in names]
        if unknown:
            raise ValueError(f"the baseline {unknown[0]} is no contender; there are {', '.join(names)}")
        return self


def read_contest(path: Path) -> tuple[ContestConfig, FitConfig]:
    """Read a contest and the fit configuration that it starts from.

    Raises:
        DataInvalid: a file is not there or says something impossible; every fault is named.
    """
    try:
        config = ContestConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        base = read_config(path.parent / config.base)
        for contender in config.contenders:
            if isinstance(contender, NetworkContender):
                changed(base.network, contender.network)
    except (OSError, yaml.YAMLError) as error:
        raise DataInvalid(f"{path}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataInvalid(f"{path}: {faults}") from error
    return config, base


def changed(network: NetworkConfig, overrides: Mapping[str, int | float]) -> NetworkConfig:
    """The same network with some of its settings replaced.

    Raises:
        ValidationError: there is no such setting, or it cannot have that value.
    """
    return NetworkConfig.model_validate({**network.model_dump(), **overrides})
