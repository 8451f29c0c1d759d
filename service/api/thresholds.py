"""The endpoints that read the thresholds in force and publish new ones."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.errors import VersionNeeded
from service.threshold_store import Source, ThresholdStore, Version
from service.thresholds_document import ThresholdsDocument, load_json


class _StrictRequest(Request):
    """Reads its JSON body by the same rules as a thresholds file."""

    async def json(self) -> JsonValue:
        return load_json(await self.body())


class _StrictRoute(APIRoute):
    """Hands requests on as strict ones."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


router = APIRouter(tags=["thresholds"], route_class=_StrictRoute)


class _DocumentSchema:
    """Describes a field as a thresholds document, and leaves checking it to the store, which finds every fault."""

    @staticmethod
    def __get_pydantic_json_schema__(_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(ThresholdsDocument.__pydantic_core_schema__)


class Publication(BaseModel):
    """New thresholds, replacing those in force whole, with who wants them and why."""

    model_config = ConfigDict(strict=True, extra="forbid", str_strip_whitespace=True)

    document: Annotated[object, _DocumentSchema]
    comment: str = Field(
        min_length=1, max_length=1000, description="Why", examples=["Fewer reviews of large baskets before Christmas"]
    )
    author: str = Field(min_length=1, max_length=100, description="Who", examples=["a.analyst"])


class ThresholdsInForce(BaseModel):
    """The version that decides now. Version 0 was not published: it came with a file or the bundle."""

    version: int = Field(ge=0, examples=[3])
    source: Source
    author: str | None
    comment: str | None
    published_at: datetime | None = Field(description="UTC")
    document: ThresholdsDocument


def _store(request: Request) -> ThresholdStore:
    store: ThresholdStore = request.app.state.touchstone.thresholds
    return store


def _now(request: Request) -> datetime:
    now_ms: int = request.app.state.touchstone.now_ms()
    return datetime.fromtimestamp(now_ms / 1000, UTC)


_Store = Annotated[ThresholdStore, Depends(_store)]
_Now = Annotated[datetime, Depends(_now)]
_IfNoneMatch = Annotated[str | None, Header(description="The ETag you have: 304 while it is still in force")]
_IfMatch = Annotated[
    str | None,
    Header(description="The ETag of the version you changed, or * for whichever is in force", examples=["*"]),
]


@router.get(
    "/thresholds",
    summary="Read the thresholds in force",
    response_model=ThresholdsInForce,
    response_model_exclude_unset=True,
    responses={304: {"description": "Still the version you have"}},
)
def read_thresholds(store: _Store, response: Response, if_none_match: _IfNoneMatch = None) -> object:
    """The thresholds in force, with their version in `ETag`: send it back as `If-Match` to change them."""
    version = store.current
    if if_none_match is not None and _names(if_none_match, version, weakly=True):
        return Response(status_code=304, headers=_headers(version))
    response.headers.update(_headers(version))
    return _in_force(version)


@router.put(
    "/thresholds",
    summary="Publish new thresholds",
    response_model=ThresholdsInForce,
    response_model_exclude_unset=True,
    responses={
        412: {"description": "Somebody published since you read: read again, make your change to that"},
        422: {"description": "Every fault of the document, each with its path"},
        428: {"description": "If-Match is missing"},
        503: {"description": "The state directory cannot be written; nothing was published"},
    },
)
def publish_thresholds(
    publication: Publication, store: _Store, now: _Now, response: Response, if_match: _IfMatch = None
) -> object:
    """Replace the thresholds whole. They are kept on disk before they decide, and outlast restarts and new bundles."""
    if if_match is None:
        raise VersionNeeded("send the ETag of the thresholds you changed as If-Match")
    read = store.current
    version = store.publish(
        publication.document,
        comment=publication.comment,
        author=publication.author,
        if_match=[read.etag] if _names(if_match, read) else [],
        now=now,
    )
    response.headers.update(_headers(version))
    return _in_force(version)


def _names(condition: str, version: Version, *, weakly: bool = False) -> bool:
    """Whether If-Match or If-None-Match (RFC 9110, 13.1) names the version; only the latter compares weakly."""
    tags = {tag.strip() for tag in condition.split(",")}
    return "*" in tags or version.etag in tags or (weakly and f"W/{version.etag}" in tags)


def _headers(version: Version) -> dict[str, str]:
    return {"ETag": version.etag, "Cache-Control": "no-cache"}


def _in_force(version: Version) -> ThresholdsInForce:
    return ThresholdsInForce(
        version=version.number,
        source=version.source,
        author=version.author,
        comment=version.comment,
        published_at=version.published_at,
        document=version.thresholds.document,
    )
