"""POST /quantize: checks what was asked against the model and the data, then enqueues one durable job.

Refuses recipes and datasets that could never lead to a proven engine, before any work is done.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from service.api.dependencies import Services, ServicesDependency
from service.api.request_body import BoundedJsonRoute
from service.api.schemas import JobBody, already, errors
from service.api.schemas_requests import QuantizeBody
from service.domain.model import Dataset, ModelVersion
from service.domain.recipe import QuantizeRequest, digest_of
from service.jobs.queue import Key
from service.quantization.recipes import candidate_runtimes, check_dataset_fits, check_recipe

router = APIRouter(tags=["quantization"], route_class=BoundedJsonRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="1 to 255 visible ASCII characters; the same key answers the same job.",
    ),
]


@router.post(
    "/quantize",
    status_code=202,
    responses=already(JobBody, "The job that this request made earlier.") | errors(400, 404, 409, 413, 422, 429, 503),
)
def quantize(
    body: QuantizeBody, response: Response, services: ServicesDependency, idempotency_key: IdempotencyKey = None
) -> JobBody:
    """Enqueues a build; the same request again, over the same bytes, answers the job that already exists."""
    key = earlier = None
    if idempotency_key is not None:
        key = Key(idempotency_key, digest_of(body.model_dump(mode="json", exclude_defaults=True)))
        earlier = services.jobs.find_keyed(key)
    job, created = (earlier, False) if earlier else services.jobs.submit(_request(services, body), key)
    response.status_code = 202 if created else 200
    response.headers["location"] = f"/jobs/{job.id}"
    return JobBody.of(job)


def _request(services: Services, body: QuantizeBody) -> QuantizeRequest:
    version = services.models.find(body.model, body.version)
    calibration = _dataset(services, body.calibration, "calibration", version)
    validation = _dataset(services, body.validation, "validation", version)
    recipe, budget = body.recipe.to_domain(), body.budget.to_domain()
    check_recipe(recipe, budget, calibration, validation)
    return QuantizeRequest(
        model=version.name,
        version=version.version,
        model_sha256=version.sha256,
        recipe=recipe,
        calibration=calibration.name if calibration else None,
        calibration_sha256=_rows_digest(calibration) if calibration else None,
        validation=validation.name if validation else None,
        validation_sha256=_rows_digest(validation) if validation else None,
        budget=budget,
        deploy=body.deploy,
        tries=candidate_runtimes(recipe) if recipe.runtime == "auto" else (),
    )


def _dataset(services: Services, name: str | None, role: str, version: ModelVersion) -> Dataset | None:
    if name is None:
        return None
    dataset = services.datasets.find(name)
    check_dataset_fits(f"{name!r} {role}", dataset.arrays, version.inputs)
    return dataset


def _rows_digest(dataset: Dataset) -> str:
    """The SHA-256 of the rows as stored: one archive of pictures gives other rows under another preprocessing."""
    return dataset.blob_key.removeprefix("content/").replace("/", "")
