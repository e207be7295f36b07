"""Datasets over HTTP: upload, list, read, delete. Refuses what holds no sound rows, and leaves nothing of it behind."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from service.api.dependencies import Services, ServicesDependency
from service.api.inspection import inspect
from service.api.multipart import Upload, UploadForm
from service.api.schemas import DatasetBody, DatasetsBody, already, errors
from service.api.schemas_requests import DatasetName
from service.api.upload_parts import check_sha256, form_schema, read_name, read_preprocessing
from service.api.uploads import received
from service.domain.model import Dataset, ModelVersion, checked_name
from service.domain.tensor import TensorSpec
from service.errors import AlreadyExists, InvalidDataset
from service.quantization.recipes import check_dataset_fits
from service.registry.blobs import content_key
from service.registry.datasets import NewDataset

router = APIRouter(tags=["datasets"])

_INSPECTION = "service.quantization.data.datasets:inspect_dataset"
_PARTS = {
    "preprocessing": "JSON: how the pictures of a .zip become rows.",
    "model": "A model that the rows must fit, and whose preprocessing is used where none is sent.",
    "sha256": "The file's SHA-256; the upload is refused when other bytes arrive.",
}


@router.post(
    "/datasets",
    status_code=201,
    responses=already(DatasetBody, "The name holds these rows already.") | errors(404, 409, 413, 422, 503, 507),
    openapi_extra=form_schema(_PARTS),
)
async def upload_dataset(request: Request, response: Response, services: ServicesDependency) -> DatasetBody:
    """Takes an .npz of arrays, or a .zip of pictures in one folder a class, as a dataset of that name.

    Folders that are all named by numbers are the classes of these numbers, counted from 0 as the model's outputs are.
    Other folders are numbered from 0 in alphabetical order, and a warning tells which number each one got.
    """
    async with received(request, _form(services), ("name",), services.spool) as upload:
        dataset, created = await run_sync(_register, services, upload, limiter=services.inspections)
    response.status_code = 201 if created else 200
    response.headers["location"] = f"/datasets/{dataset.name}"
    return DatasetBody.of(dataset)


@router.get("/datasets", responses=errors(503))
def list_datasets(services: ServicesDependency) -> DatasetsBody:
    """Every dataset, by name."""
    return DatasetsBody(datasets=[DatasetBody.of(dataset) for dataset in services.datasets.list()])


@router.get("/datasets/{name}", responses=errors(404, 422, 503))
def read_dataset(name: DatasetName, services: ServicesDependency) -> DatasetBody:
    """One dataset."""
    return DatasetBody.of(services.datasets.find(name))


@router.delete("/datasets/{name}", status_code=204, responses=errors(404, 409, 422, 503))
def delete_dataset(name: DatasetName, services: ServicesDependency) -> None:
    """Forgets a dataset and its rows. Refused while an unfinished job reads it."""
    doomed = services.datasets.find(name)
    services.datasets.delete(name)
    services.content.release({doomed.blob_key})


def _form(services: Services) -> UploadForm:
    limits = services.upload_limits
    parts = dict.fromkeys(("name", *_PARTS), limits.max_form_field_bytes)
    return UploadForm(parts, (".npz", ".zip"), limits.max_upload_bytes, InvalidDataset)


def _register(services: Services, upload: Upload) -> tuple[Dataset, bool]:
    name = read_name(upload, "dataset")
    check_sha256(upload)
    model = _model(services, upload)
    rows = upload.path.with_name("rows.npz")
    found = inspect(services, _INSPECTION, _arguments(services, upload, model), InvalidDataset)
    arrays = {array: TensorSpec.from_json(spec) for array, spec in found["arrays"].items()}
    if model is not None:
        check_dataset_fits(repr(name), arrays, model.inputs)
    with rows.open("rb") as file:
        key = content_key(hashlib.file_digest(file, "sha256").hexdigest())
    new = NewDataset(
        name=name,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        rows=int(found["rows"]),
        arrays=arrays,
        labels=bool(found["labels"]),
        blob_key=key,
        warnings=tuple(found["warnings"]),
    )
    with services.content.stored({key: rows}):
        dataset, created = services.datasets.add(new)
        if dataset.blob_key != key:
            raise AlreadyExists(
                f"dataset {name!r} holds the same file with another preprocessing; choose another name, "
                "or delete it first"
            )
    return dataset, created


def _model(services: Services, upload: Upload) -> ModelVersion | None:
    name = upload.text("model")
    return services.models.find(checked_name(name, "model")) if name is not None else None


def _arguments(services: Services, upload: Upload, model: ModelVersion | None) -> dict[str, Any]:
    preprocessing = read_preprocessing(upload) or (model.preprocessing if model else None)
    only_input = model.inputs[0] if model and len(model.inputs) == 1 else None
    return {
        "path": str(upload.path),
        "destination": str(upload.path.with_name("rows.npz")),
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "input": only_input.to_json() if only_input else None,
        "upload_limits": asdict(services.upload_limits),
    }
