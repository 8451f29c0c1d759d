"""The endpoint that says which model decides, and what is known about it."""

from fastapi import APIRouter

from service.api.running import Parts
from service.api.schemas import CalibrationError, LossUsed, ModelInputs, ModelResponse

router = APIRouter(tags=["models"])


@router.get("/models", summary="Name the model in use")
async def read_models(parts: Parts) -> list[ModelResponse]:
    """The model in use, with the evidence that its probabilities are probabilities."""
    manifest = parts.bundle.manifest
    certificate = manifest.certificate
    return [
        ModelResponse(
            name=manifest.name,
            version=manifest.version,
            sha256=parts.bundle.model_sha256,
            bundle_sha256=parts.bundle.sha256,
            spec_sha256=manifest.spec_sha256,
            base_currency=manifest.base_currency,
            provider=parts.model.provider.value,
            inputs=ModelInputs(numeric=list(manifest.numeric), categorical=list(manifest.categorical)),
            loss=LossUsed(**manifest.loss.model_dump()),
            expected_calibration_error=CalibrationError(
                rows=certificate.rows,
                frauds=certificate.frauds,
                raw=certificate.raw.expected_calibration_error,
                served=certificate.served.expected_calibration_error,
            ),
            metrics=dict(manifest.metrics),
            score_extrapolated_from=manifest.score_extrapolated_from,
        )
    ]
