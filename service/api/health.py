"""The endpoints for those who run the service: alive, ready, and its metrics."""

from collections.abc import Callable

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from service.api.schemas import Health
from service.telemetry import Telemetry


def health_router(telemetry: Telemetry, is_ready: Callable[[], bool]) -> APIRouter:
    """Endpoints that work before the service is ready, so what they need is given to them."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="Is the process alive?")
    async def read_live() -> Health:
        """Always, while the process answers at all. Restart it only if this fails."""
        return Health(status="live")

    @router.get("/health/ready", summary="May traffic come here?")
    async def read_ready() -> Health:
        """Once the kernel is compiled and the model gave the golden rows; 503 before."""
        if not is_ready():
            raise HTTPException(503)
        return Health(status="ready")

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def read_metrics() -> Response:
        """Everything that is counted, in the Prometheus text format."""
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
