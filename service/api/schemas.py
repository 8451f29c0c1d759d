"""What the service answers, field by field: the shapes that OpenAPI shows and the tests hold answers against."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.problems import Problem

DecisionWord = Literal["approve", "challenge", "review", "decline"]
Degraded = Literal[
    "card",
    "merchant",
    "terminal",
    "device",
    "customer",
    "email",
    "ip",
    "currency",
    "duplicate",
    "idempotency",
    "model",
    "overload",
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Reason(_Answer):
    """One thing that moved the probability."""

    code: Annotated[str, Field(examples=["card_velocity"], description="Stable; the bundle's manifest lists them all")]
    contribution: Annotated[float, Field(description="What it adds to the log-odds of fraud")]
    value: Annotated[float | None, Field(description="Of the feature that stands for this reason; null if missing")]
    description: str


class ThresholdsUsed(_Answer):
    """Which thresholds decided."""

    version: Annotated[int, Field(ge=0)]
    segment: Annotated[str, Field(description="The segment's name, default, or fallback when there was no probability")]


class ModelUsed(_Answer):
    """Which model scored."""

    name: str
    version: str
    sha256: Sha256


class ScoreResponse(_Answer):
    """A decision, and what it rests on. A retry gets it again, byte for byte."""

    transaction_id: str
    decision_id: str
    decision: DecisionWord
    probability: Annotated[
        float | None,
        Field(ge=0, le=1, description="Calibrated probability of fraud; null if the transaction could not be scored"),
    ]
    score: Annotated[
        int | None,
        Field(ge=0, le=999, description="One in 10^(score/100) legitimate transactions scores at least this high"),
    ]
    reasons: Annotated[list[Reason], Field(max_length=4, description="Strongest first; none for approve")]
    thresholds: ThresholdsUsed
    model: ModelUsed
    degraded: Annotated[list[Degraded], Field(description="What the decision had to do without")]
    scored_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    latency_ms: Annotated[float, Field(ge=0)]


class ScoredItem(_Answer):
    """An item of a batch that was decided on."""

    status: Literal[200]
    replayed: Annotated[bool, Field(description="What the header Idempotent-Replayed says of a lone request")]
    body: ScoreResponse


class RefusedItem(_Answer):
    """An item of a batch that was not."""

    status: Annotated[int, Field(ge=400, le=599)]
    problem: Problem


class SeenByModel(_Answer):
    """What the model saw of a transaction, and why it answered as it did."""

    numeric: Annotated[dict[str, float | None], Field(description="Feature values; null is missing")]
    categorical: Annotated[dict[str, int], Field(description="Codes as the model takes them; -1 is missing")]
    reasons: Annotated[list[Reason], Field(description="Given for every decision, approvals too")]


class ReportedOutcome(_Answer):
    """An outcome that was reported for a transaction."""

    type: str
    fraud: bool | None
    occurred_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    reported_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    arrived_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class StoredDecisionResponse(_Answer):
    """A decision that is still held, with the features it was made from and what became of it."""

    response: ScoreResponse
    seen: Annotated[
        SeenByModel | None,
        Field(description="null once the store needed its room, or a model with other features is served"),
    ]
    revs: Annotated[dict[str, int | None], Field(description="By entity: entries accepted before this one")]
    outcomes: Annotated[list[ReportedOutcome], Field(description="In the order in which they arrived")]


class OutcomeResult(_Answer):
    """An outcome that was taken."""

    transaction_id: str
    changed: Annotated[
        bool, Field(description="Whether it changed a history; false for one that was known or tells nothing of fraud")
    ]


class OutcomeItem(_Answer):
    """An item of an array of outcomes that was taken."""

    status: Literal[200]
    body: OutcomeResult


class ModelInputs(_Answer):
    """The model's inputs in their order."""

    numeric: list[str]
    categorical: list[str]


class LossUsed(_Answer):
    """The loss of the fit; the graph undoes what it does to the probability."""

    name: str
    gamma: float
    alpha: float | None
    beta: float


class CalibrationError(_Answer):
    """How far stated probabilities were from observed frequencies on later data."""

    rows: int
    frauds: int
    raw: Annotated[float, Field(description="Expected calibration error of the network's own output")]
    served: Annotated[float, Field(description="The same of the probability that is served")]


class ModelResponse(_Answer):
    """A model in use."""

    name: str
    version: str
    sha256: Sha256
    bundle_sha256: Sha256
    spec_sha256: Sha256
    base_currency: str
    provider: Annotated[str, Field(description="What runs it: cpu, cuda or tensorrt")]
    inputs: ModelInputs
    loss: LossUsed
    expected_calibration_error: CalibrationError
    metrics: dict[str, float]
    score_extrapolated_from: Annotated[int, Field(description="Scores above this are extrapolated")]


class Health(_Answer):
    """How the process is."""

    status: Literal["live", "ready"]
