"""Bodies of answers, as the HTTP contract and the OpenAPI document show them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.domain.engine import EngineArtifact
from service.domain.job import Job
from service.domain.model import Dataset, ModelVersion
from service.domain.tensor import TensorSpec

JobState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]


class Body(BaseModel):
    """An answer's body; frozen, and built from domain values only."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class ErrorBody(Body):
    """What every error answers."""

    error: str = Field(description="What happened, the value, and the next step.")
    code: str = Field(description="Stable name of the kind of error, in snake_case.")


_STATUSES = {
    400: "The request is wrong; the message says how.",
    404: "No such model, version, dataset, job or variant.",
    409: "The right request in the wrong state.",
    413: "The request is too large.",
    422: "A value is wrong; the message names it.",
    429: "As much waits as may, or a timeout cannot be met; try again after the seconds in Retry-After.",
    500: "The engine could not be loaded, or could not answer.",
    501: "Known to the protocol, not offered here.",
    503: "Try again later.",
    507: "No storage is left.",
}


Responses = dict[int | str, dict[str, Any]]


def errors(*statuses: int) -> Responses:
    """The `responses` of a route that answers errors of these statuses."""
    return {status: {"model": ErrorBody, "description": _STATUSES[status]} for status in statuses}


def already(body: type[Body], description: str) -> Responses:
    """The `responses` of a route that answers 200 when what was asked for stood already."""
    return {200: {"model": body, "description": description}}


def content(media_type: str, description: str) -> Responses:
    """The `responses` of a route whose good answer is not JSON of a model."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}, "description": description}}


class TensorBody(Body):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 marks a dimension that varies.")

    @staticmethod
    def of(spec: TensorSpec) -> TensorBody:
        return TensorBody(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


class PreprocessingBody(Body):
    task: str
    width: int
    height: int
    layout: str
    color: str
    resize: str
    scale: float
    mean: list[float]
    std: list[float]


class ModelBody(Body):
    """One model version."""

    name: str
    version: int
    format: str
    sha256: str
    size_bytes: int
    opset: int
    inputs: list[TensorBody]
    outputs: list[TensorBody]
    created_at: datetime
    preprocessing: PreprocessingBody | None
    labels: bool = Field(description="Whether the version has names for its classes.")

    @staticmethod
    def of(version: ModelVersion) -> ModelBody:
        return ModelBody(
            name=version.name,
            version=version.version,
            format=version.format,
            sha256=version.sha256,
            size_bytes=version.size_bytes,
            opset=version.opset,
            inputs=[TensorBody.of(spec) for spec in version.inputs],
            outputs=[TensorBody.of(spec) for spec in version.outputs],
            created_at=version.created_at,
            preprocessing=_preprocessing(version),
            labels=version.labels_key is not None,
        )


class ModelsBody(Body):
    models: list[ModelBody] = Field(description="The newest version of each model, by name.")


class VersionsBody(Body):
    name: str
    versions: list[ModelBody] = Field(description="Every version, oldest first.")


class GpuBody(Body):
    name: str
    compute_capability: str
    driver: str


class FingerprintBody(Body):
    device: str
    flags: list[str]
    driver: str
    libraries: dict[str, str]
    gpu: GpuBody | None = None
    built_for: list[str] = Field([], description="Compute capabilities that the engine was compiled for.")


class CertificateBody(Body):
    verdict: str = Field(description="passed, rejected or unproven.")
    metric: str
    loss: float | None
    max_loss: float
    reason: str
    fingerprint: FingerprintBody
    created_at: str
    model_sha256: str | None = None
    plan_sha256: str | None = None
    independent: bool | None = Field(
        default=None, description="Whether calibration has seen none of the rows that it rests on."
    )
    speedup: float | None = Field(
        default=None, description="Times the FP32 reference's speed, p50 of a call at the recipe's `batch.opt`."
    )
    min_speedup: float | None = None


class EngineBody(Body):
    """One variant of a model version."""

    version: int
    variant: str
    runtime: str
    precision: str
    fingerprint: FingerprintBody | None
    size_bytes: int
    sha256: str
    batch_max: int
    certificate: CertificateBody | None
    job: str | None
    created_at: datetime

    @staticmethod
    def of(artifact: EngineArtifact) -> EngineBody:
        return EngineBody.model_validate(artifact)


class EnginesBody(Body):
    engines: list[EngineBody]


class DatasetBody(Body):
    name: str
    rows: int
    arrays: dict[str, TensorBody]
    labels: bool
    sha256: str
    size_bytes: int
    warnings: list[str]
    created_at: datetime

    @staticmethod
    def of(dataset: Dataset) -> DatasetBody:
        return DatasetBody.model_validate(dataset)


class DatasetsBody(Body):
    datasets: list[DatasetBody]


class StageBody(Body):
    name: str
    state: str = Field(description="pending, running, done, failed or skipped.")
    seconds: float | None


class JobBody(Body):
    id: str
    kind: str
    model: str
    version: int
    state: JobState
    stage: str | None
    progress: float = Field(description="0 to 1 over all stages.")
    attempt: int
    stages: list[StageBody]
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    request: dict[str, Any] = Field(description="What was asked for, with the digests of the model and the data.")

    @staticmethod
    def of(job: Job) -> JobBody:
        return JobBody.model_validate(job)


class JobsBody(Body):
    jobs: list[JobBody] = Field(description="Newest first.")
    next: str | None = Field(description="Path of the next page; null on the last one.")


def _preprocessing(version: ModelVersion) -> PreprocessingBody | None:
    return PreprocessingBody.model_validate(version.preprocessing) if version.preprocessing else None
