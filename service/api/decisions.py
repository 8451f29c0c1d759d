"""The endpoint that shows a decision again, with all it was made from."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path

from service.api.running import Parts
from service.api.schemas import Reason, ScoreResponse, StoredDecisionResponse
from service.errors import NotFound
from service.transaction import TOKEN_PATTERN

router = APIRouter(tags=["decisions"])


@router.get("/decisions/{transaction_id}", summary="Explain a decision")
async def read_decision(
    transaction_id: Annotated[str, Path(pattern=TOKEN_PATTERN)], parts: Parts
) -> StoredDecisionResponse:
    """The answer as it was given, the reasons for it (approvals have them here too) and the features behind it."""
    stored = await parts.scorer.find_decision(transaction_id)
    if stored is None:
        raise NotFound("no decision is held for this transaction")
    return StoredDecisionResponse(
        response=ScoreResponse.model_validate(stored.response),
        reasons=[Reason(**asdict(reason)) for reason in stored.reasons],
        numeric=dict(stored.numeric),
        categorical=dict(stored.categorical),
        revs=dict(stored.revs),
    )
