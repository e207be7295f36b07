"""Models over HTTP: upload, list, read, delete. Refuses what is no sound ONNX file, and leaves nothing of it behind."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from service.api.dependencies import Services, ServicesDependency
from service.api.inspection import inspect
from service.api.multipart import Upload, UploadForm
from service.api.schemas import EngineBody, EnginesBody, ModelBody, ModelsBody, VersionsBody, already, errors
from service.api.schemas_requests import ModelName, PathVersion, QueryVersion
from service.api.upload_parts import check_sha256, form_schema, read_labels, read_name, read_preprocessing
from service.api.uploads import received
from service.domain.engine import on_host
from service.domain.model import ModelVersion, Preprocessing
from service.domain.tensor import TensorSpec
from service.errors import AlreadyExists, InvalidModel, InvalidPreprocessing, InvalidRequest, NotFound, OctavoError
from service.registry.blobs import content_key
from service.registry.models import NewModelVersion

router = APIRouter(tags=["models"])
_log = logging.getLogger(__name__)

_INSPECTION = "service.quantization.graphs.inspection:inspect_model"
_PARTS = {
    "labels": "A text file of the classes' names, one a line.",
    "preprocessing": "JSON: how a picture becomes the model's input.",
    "sha256": "The file's SHA-256; the upload is refused when other bytes arrive.",
}


@router.post(
    "/models",
    status_code=201,
    responses=already(ModelBody, "These bytes are a version of that model already.") | errors(409, 413, 422, 503, 507),
    openapi_extra=form_schema(_PARTS),
)
async def upload_model(request: Request, response: Response, services: ServicesDependency) -> ModelBody:
    """Takes an ONNX file as a new version of the named model; the first version of a model is served at once."""
    async with received(request, _form(services), ("name",), services.spool) as upload:
        version, created = await run_sync(_register, services, upload, limiter=services.inspections)
    if created:
        await _serve_if_deployed(services, version)
    response.status_code = 201 if created else 200
    response.headers["location"] = f"/models/{version.name}/versions/{version.version}"
    return ModelBody.of(version)


@router.get("/models", responses=errors(503))
def list_models(services: ServicesDependency) -> ModelsBody:
    """The newest version of each model."""
    return ModelsBody(models=[ModelBody.of(version) for version in services.models.list()])


@router.get("/models/{name}", responses=errors(404, 422, 503))
def read_model(name: ModelName, services: ServicesDependency) -> VersionsBody:
    """Every version of a model."""
    return VersionsBody(name=name, versions=[ModelBody.of(version) for version in services.models.versions(name)])


@router.get("/models/{name}/versions/{version}", responses=errors(404, 422, 503))
def read_version(name: ModelName, version: PathVersion, services: ServicesDependency) -> ModelBody:
    """One version of a model."""
    return ModelBody.of(services.models.find(name, version))


@router.delete("/models/{name}/versions/{version}", status_code=204, responses=errors(404, 409, 422, 503))
def delete_version(name: ModelName, version: PathVersion, services: ServicesDependency) -> None:
    """Forgets a version with its engines. Refused while it is deployed, or a job works on it."""
    doomed = services.models.find(name, version)
    engines = services.engines.list(name, version)
    services.models.delete(name, version)
    keys = {content_key(doomed.sha256), *(engine.blob_key for engine in engines)}
    services.content.release(keys | ({doomed.labels_key} if doomed.labels_key else set()))


@router.get("/models/{name}/engines", responses=errors(404, 422, 503))
def list_engines(name: ModelName, services: ServicesDependency, version: QueryVersion = None) -> EnginesBody:
    """The variants built of a model: of one version, or of all. What was proven on another host is unproven here."""
    services.models.find(name, version)
    engines = [on_host(artifact, services.host) for artifact in services.engines.list(name, version)]
    return EnginesBody(engines=[EngineBody.of(artifact) for artifact in engines])


def _form(services: Services) -> UploadForm:
    limits = services.upload_limits
    small = limits.max_form_field_bytes
    parts = {"name": small, "labels": limits.max_labels_bytes, "preprocessing": small, "sha256": small}
    return UploadForm(parts, (".onnx",), limits.max_upload_bytes, InvalidModel)


async def _serve_if_deployed(services: Services, version: ModelVersion) -> None:
    """A model's first version answers inference by the time its upload is answered."""
    services.wake()
    try:
        deployment = await run_sync(services.deployments.find, version.name)
        if deployment.version == version.version:
            await services.settle(version.name, deployment.revision)
    except OctavoError as error:
        # The version is stored all the same, and the reconciler keeps trying; its readiness tells the caller.
        _log.warning("new version not served yet", extra={"model": version.name, "error": str(error)})


class _Graph(NamedTuple):
    """What a model's file says of itself."""

    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _register(services: Services, upload: Upload) -> tuple[ModelVersion, bool]:
    name = read_name(upload, "model")
    check_sha256(upload)
    preprocessing, labels = read_preprocessing(upload), read_labels(upload, services.upload_limits.max_labels)
    graph = _known_graph(services, name, upload.sha256) or _inspected_graph(services, upload)
    if preprocessing is not None:
        _check_pictures_fit(preprocessing, graph.inputs)
    files: dict[str, Path | bytes] = {content_key(upload.sha256): upload.path}
    labels_key = None
    if labels is not None:
        _check_label_count(labels, graph.outputs)
        data = "\n".join(labels).encode()
        labels_key = content_key(hashlib.sha256(data).hexdigest())
        files[labels_key] = data
    new = NewModelVersion(name, "onnx", upload.sha256, upload.size_bytes, *graph, preprocessing, labels_key)
    with services.content.stored(files):
        version, created = services.models.add(new)
        _refuse_other_metadata(version, new)
    return version, created


def _known_graph(services: Services, name: str, sha256: str) -> _Graph | None:
    try:
        versions = services.models.versions(name)
    except NotFound:
        return None
    same = (version for version in versions if version.sha256 == sha256)
    return next((_Graph(version.opset, version.inputs, version.outputs) for version in same), None)


def _inspected_graph(services: Services, upload: Upload) -> _Graph:
    found = inspect(services, _INSPECTION, {"path": str(upload.path)}, InvalidModel)
    inputs, outputs = (tuple(TensorSpec.from_json(spec) for spec in found[side]) for side in ("inputs", "outputs"))
    return _Graph(int(found["opset"]), inputs, outputs)


def _check_pictures_fit(preprocessing: Preprocessing, inputs: tuple[TensorSpec, ...]) -> None:
    channels = 1 if preprocessing.color == "GRAY" else 3
    plane = (preprocessing.height, preprocessing.width)
    picture = (channels, *plane) if preprocessing.layout == "NCHW" else (*plane, channels)
    row = TensorSpec(inputs[0].name, inputs[0].datatype, inputs[0].shape[1:])
    if len(inputs) != 1 or not row.accepts(picture):
        takes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        raise InvalidPreprocessing(
            f"preprocessing makes pictures of shape {list(picture)} but the model takes {takes}; "
            "set width, height, layout and color to what its one input takes"
        )


def _check_label_count(labels: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Class scores are the last output, [rows, classes]; where that is not known, nothing is checked."""
    shape = outputs[-1].shape
    if len(shape) == 2 and shape[1] not in (-1, len(labels)):
        raise InvalidRequest(
            f"labels has {len(labels)} lines but output {outputs[-1].name!r} has {shape[1]} classes; "
            "send one label for each class"
        )


def _refuse_other_metadata(version: ModelVersion, new: NewModelVersion) -> None:
    kept = {"preprocessing": version.preprocessing, "labels": version.labels_key}
    for part, wanted in (("preprocessing", new.preprocessing), ("labels", new.labels_key)):
        if wanted is not None and wanted != kept[part]:
            raise AlreadyExists(
                f"these bytes are version {version.version} of model {version.name!r} with other {part}, and a version "
                "never changes; upload them under another name, or leave that part out"
            )
