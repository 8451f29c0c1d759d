"""The endpoint that shows a decision again, with all it was made from and what became of it."""

from typing import Annotated

from fastapi import APIRouter, Path
from msgspec.structs import asdict

from service.api.running import Parts
from service.api.schemas import Reason, ReportedOutcome, ScoreResponse, SeenByModel, StoredDecisionResponse
from service.dossier import Report
from service.errors import NotFound
from service.scorer import Seen
from service.transaction import TOKEN_PATTERN, write_instant

router = APIRouter(tags=["decisions"])


@router.get("/decisions/{transaction_id}", summary="Explain a decision")
async def read_decision(
    transaction_id: Annotated[str, Path(pattern=TOKEN_PATTERN)], parts: Parts
) -> StoredDecisionResponse:
    """The answer as it was given, the features behind it, the reasons (approvals have them here too) and outcomes."""
    stored = await parts.scorer.find_decision(transaction_id)
    if stored is None:
        raise NotFound("no decision is held for this transaction")
    return StoredDecisionResponse(
        response=ScoreResponse.model_validate(stored.response),
        seen=None if stored.seen is None else _seen(stored.seen),
        revs=dict(stored.revs),
        outcomes=[_reported(report) for report in await parts.reporter.find_reports(transaction_id)],
    )


def _seen(seen: Seen) -> SeenByModel:
    return SeenByModel(
        numeric=dict(seen.numeric),
        categorical=dict(seen.categorical),
        reasons=[Reason(**asdict(reason)) for reason in seen.reasons],
    )


def _reported(report: Report) -> ReportedOutcome:
    return ReportedOutcome(
        type=report.type,
        fraud=report.fraud,
        occurred_at=write_instant(report.occurred_at_ms),
        reported_at=write_instant(report.reported_at_ms),
        arrived_at=write_instant(report.arrived_at_ms),
    )
