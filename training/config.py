"""The configuration of a fit, as read from YAML: what each number is and when to change it."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.currency import CurrencyTable, parse_currency_table
from service.errors import DataInvalid
from service.features.plan import Plan, compile_plan
from service.features.spec import parse_spec
from training.calibrators import LineMethod
from training.label_delay import with_label_delay
from training.losses import LossName

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(ge=0, le=3650)]
Device = Literal["auto", "cpu", "cuda"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    """Unknown keys and wrong types are errors: a misspelt option must not train a different model silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitConfig(_Section):
    """Where the time axis is cut: warm-up | fit | gap | tune | calibrate | gap | test."""

    until: AwareDatetime | None = Field(None, description="Rows from here on are ignored; none: use all.")
    warm_up_days: Days = Field(
        30, description="Rows at the beginning that only give history. Set to the longest window."
    )
    tune_days: Days = Field(7, description="Decides when to stop. Longer where fraud is rare.")
    calibrate_days: Days = Field(7, description="Sets the line in log-odds, the score table and the thresholds.")
    test_days: Days = Field(7, description="Judges the result and nothing else.")
    gap_days: Days = Field(
        7, description="How late labels arrive; the fitted model never sees the days before a later use."
    )


class LossConfig(_Section):
    """What is minimised. docs/losses.md has the table of losses and samplers, each with what undoes it."""

    name: LossName = "focal"
    gamma: Annotated[float, Field(ge=0, le=10)] = Field(2.0, description="How hard to look away from easy examples.")
    alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["balanced", "class_weights"] | None = Field(
        0.75, description="Weight of fraud; balanced or class_weights where both classes weigh the same; none: none."
    )


class AllRowsConfig(_Section):
    """Every row in every epoch. For small data, or where there is time."""

    name: Literal["none"] = "none"


class UndersampleConfig(_Section):
    """All frauds and a share of the legitimate rows; undone exactly afterwards."""

    name: Literal["undersample"] = "undersample"
    legitimate_kept: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="The share. Less is faster and shows the network less of what is ordinary."
    )
    drawn: Literal["each_epoch", "once"] = Field(
        "each_epoch", description="Anew each epoch, so that every row is seen in the end; once where memory is short."
    )


class SmoteConfig(_Section):
    """All rows and invented frauds between the real ones (Chawla et al. 2002). Nothing undoes it exactly."""

    name: Literal["smote"] = "smote"
    frauds_per_legitimate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Real and invented frauds per legitimate row; 1 makes the classes equal."
    )
    neighbours: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="Among how many nearest frauds the other end is drawn. Fewer where kinds of fraud are small."
    )


SamplerConfig = Annotated[AllRowsConfig | UndersampleConfig | SmoteConfig, Field(discriminator="name")]


class NetworkConfig(_Section):
    """The network and its optimiser."""

    width: Annotated[int, Field(ge=1, le=1024)] = 128
    depth: Annotated[int, Field(ge=1, le=8)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    bins: Annotated[int, Field(ge=0, le=64)] = Field(0, description="Quantile bins per feature; 0 leaves them out.")
    embedding: Annotated[int, Field(ge=1, le=64)] = 4
    epochs: Annotated[int, Field(ge=1, le=1000)] = 12
    patience: Annotated[int, Field(ge=1)] = Field(
        6, description="Epochs without a better average precision before the end."
    )
    batch: Annotated[int, Field(ge=2, le=65536)] = 1024
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.003, description="The one-cycle's peak.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.995, description="Of the moving average that is kept.")
    entity_dropout: Share = Field(
        0.02, description="How often an entity's features are hidden, as when the store cannot be reached."
    )


class TeacherConfig(_Section):
    """Boosted trees that the network learns from (LightGBM); without this section it learns from labels alone."""

    share: Share = Field(0.8, description="Of the target that is the teacher's answer; the rest is the label.")
    steps: Annotated[int, Field(ge=0, le=1024)] = Field(
        48, description="Places where the trees split that become inputs of the network. 0 leaves them out."
    )
    blend: Share = Field(
        0.0, description="Of the served log-odds that is the trees' own, in the graph beside the network. 0: none."
    )
    members: Annotated[int, Field(ge=1, le=32)] = Field(3, description="Ensembles whose answers are averaged.")
    rounds: Annotated[int, Field(ge=1, le=10_000)] = Field(
        400, description="Trees in each at most; they end where trees of one half of the rows say most about the other."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.04
    leaves: Annotated[int, Field(ge=2, le=1024)] = 16
    least_rows: Annotated[int, Field(ge=1)] = Field(2, description="In a leaf.")
    least_weight: Annotated[float, Field(ge=0)] = Field(2.5, description="Of a leaf: the sum of p (1 - p) of its rows.")
    penalty: Annotated[float, Field(ge=0)] = Field(1.4, description="On the square of a leaf's value.")
    rows_shown: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="Share of the rows that a tree sees.")
    features_shown: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="Share of the features.")


class CalibrationConfig(_Section):
    """What stands between the closed form and the served probability. docs/calibration.md compares the choices."""

    method: LineMethod | Literal["auto"] = Field(
        "auto", description="auto: by cross-validation in the calibration slice. none where that slice has few frauds."
    )


class CostConfig(_Section):
    """What decisions cost, in minor units of the base currency; thresholds are where two decisions cost the same."""

    challenge_minor: Annotated[float, Field(gt=0)] = Field(20, description="Friction of one 3-D Secure challenge.")
    review_minor: Annotated[float, Field(gt=0)] = Field(300, description="An analyst's time for one review.")
    false_decline_minor: Annotated[float, Field(gt=0)] = Field(2500, description="A good customer turned away.")
    challenge_catches: Share = Field(0.7, description="Share of fraud a challenge stops.")
    review_catches: Share = Field(0.9, description="Share of fraud a review stops.")
    max_challenge_rate: Share = Field(0.03, description="Challenged or severer, of all transactions.")
    max_review_rate: Share = Field(0.01, description="Reviewed or declined: what the analysts can work through.")
    max_decline_rate: Share = Field(0.002, description="Declined outright.")
    fallback_approve_below_minor: Annotated[int, Field(ge=0)] = Field(
        5000, description="Not scored: approved below this."
    )


class ReasonConfig(_Section):
    """One reason given for a decision: a group of features that are explained together."""

    code: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    description: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    features: Annotated[list[str], Field(min_length=1)]
    value: str = Field(description="The feature whose value is shown beside the reason.")


class FitConfig(_Section):
    """One model, whole."""

    name: Name
    version: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        1,
        description="Of torch. Sums depend on it: same threads, same bytes. A small network gains nothing by more.",
    )
    device: Device = Field(
        "auto", description="Where the network is fitted; auto takes a GPU if there is one. Bytes repeat per device."
    )
    features: Path = Field(description="The feature spec, relative to this file.")
    currencies: Path = Field(description="The rate table, relative to this file.")
    label_delay_days: Days = Field(7, description="Assumed where the data does not say when a label became known.")
    window_delay_days: Days | None = Field(
        None, description="What the windows of the spec that wait for labels wait; none: what the spec says."
    )
    split: SplitConfig = SplitConfig()
    loss: LossConfig = LossConfig()
    sampler: SamplerConfig = UndersampleConfig()
    network: NetworkConfig = NetworkConfig()
    teacher: TeacherConfig | None = None
    calibration: CalibrationConfig = CalibrationConfig()
    costs: CostConfig = CostConfig()
    reasons: list[ReasonConfig] = []

    def with_label_delay(self, days: float) -> "FitConfig":
        """The same with labels that become known after so long, and windows that wait for them so long."""
        return self.model_copy(update={"label_delay_days": days, "window_delay_days": days})

    def read_features(self) -> bytes:
        """The feature spec as YAML, its windows waiting as long as is configured here.

        Raises:
            DataInvalid: the delay is not one that a spec can have.
        """
        content = self.features.read_bytes()
        if self.window_delay_days is None:
            return content
        document = with_label_delay(yaml.safe_load(content), self.window_delay_days)
        return yaml.safe_dump(document, sort_keys=False).encode()

    def read_plan(self) -> Plan:
        """The feature spec, compiled.

        Raises:
            DataInvalid: the delay is not one that a spec can have.
            SpecInvalid: with every fault of the spec.
        """
        return compile_plan(parse_spec(yaml.safe_load(self.read_features())))

    def read_currencies(self) -> CurrencyTable:
        """The rate table.

        Raises:
            BundleInvalid: it is not one.
        """
        return parse_currency_table(yaml.safe_load(self.currencies.read_bytes()))


def read_config(path: Path) -> FitConfig:
    """Read a configuration; paths in it are relative to it.

    Raises:
        DataInvalid: the file is not there or says something impossible; every fault is named.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = FitConfig.model_validate(document)
    except (OSError, yaml.YAMLError) as error:
        raise DataInvalid(f"{path}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataInvalid(f"{path}: {faults}") from error
    home = path.parent
    return config.model_copy(update={"features": home / config.features, "currencies": home / config.currencies})
