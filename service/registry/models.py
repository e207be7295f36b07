"""Model versions: numbered uploads that never change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.domain.engine import REFERENCE_VARIANT
from service.domain.job import FINISHED
from service.domain.model import ModelVersion, Preprocessing
from service.domain.recipe import BatchProfile
from service.domain.tensor import TensorSpec
from service.errors import InUse, NotFound
from service.registry.blobs import content_key
from service.registry.database import Database
from service.registry.tables import DEPLOYMENTS, ENGINES, JOBS, MODEL_COUNTERS, MODEL_VERSIONS


@dataclass(frozen=True, slots=True)
class NewModelVersion:
    """An inspected upload whose bytes are stored already."""

    name: str
    format: str
    sha256: str
    size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None = None
    labels_key: str | None = None


class ModelRegistry:
    """Reads and writes model versions. A model's first version is deployed at once as its FP32 reference."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, upload: NewModelVersion) -> tuple[ModelVersion, bool]:
        """The version of these bytes, and whether this call made it."""
        with self._database.write(f"model:{upload.name}") as connection:
            same = (MODEL_VERSIONS.c.name == upload.name) & (MODEL_VERSIONS.c.sha256 == upload.sha256)
            row = connection.execute(sa.select(MODEL_VERSIONS).where(same)).one_or_none()
            if row is not None:
                return version_of_row(row), False
            others = connection.execute(sa.select(MODEL_VERSIONS.c.version).where(MODEL_VERSIONS.c.name == upload.name))
            first = others.first() is None
            number = _next_version(connection, upload.name)
            values = _values(upload) | {"version": number, "created_at": datetime.now(UTC)}
            connection.execute(sa.insert(MODEL_VERSIONS).values(values))
            connection.execute(sa.insert(ENGINES).values(_reference(upload, number)))
            if first:
                _deploy_reference(connection, upload.name, number)
            made = MODEL_VERSIONS.c.name == upload.name, MODEL_VERSIONS.c.version == number
            return version_of_row(connection.execute(sa.select(MODEL_VERSIONS).where(*made)).one()), True

    def find(self, name: str, version: int | None = None) -> ModelVersion:
        """One version, the newest where none is named. Raises NotFound."""
        with self._database.read() as connection:
            return version_of_row(_row(connection, name, version))

    def versions(self, name: str) -> list[ModelVersion]:
        """Every version of a model, oldest first. Raises NotFound where there is none."""
        self.find(name)
        query = sa.select(MODEL_VERSIONS).where(MODEL_VERSIONS.c.name == name).order_by(MODEL_VERSIONS.c.version)
        with self._database.read() as connection:
            return [version_of_row(row) for row in connection.execute(query)]

    def list(self) -> list[ModelVersion]:
        """The newest version of each model, by name."""
        newest = sa.select(MODEL_VERSIONS.c.name, sa.func.max(MODEL_VERSIONS.c.version).label("version"))
        group = newest.group_by(MODEL_VERSIONS.c.name).subquery()
        join = (MODEL_VERSIONS.c.name == group.c.name) & (MODEL_VERSIONS.c.version == group.c.version)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(MODEL_VERSIONS).join(group, join).order_by(MODEL_VERSIONS.c.name))
            return [version_of_row(row) for row in rows]

    def delete(self, name: str, version: int) -> None:
        """Forgets a version and its engines. Raises NotFound, and InUse while it is deployed or a job works on it."""
        with self._database.write(f"model:{name}") as connection:
            _row(connection, name, version)
            _refuse_in_use(connection, name, version)
            connection.execute(sa.delete(ENGINES).where(ENGINES.c.model == name, ENGINES.c.version == version))
            connection.execute(
                sa.delete(MODEL_VERSIONS).where(MODEL_VERSIONS.c.name == name, MODEL_VERSIONS.c.version == version)
            )


def _row(connection: sa.Connection, name: str, version: int | None) -> sa.Row[Any]:
    query = sa.select(MODEL_VERSIONS).where(MODEL_VERSIONS.c.name == name)
    if version is not None:
        query = query.where(MODEL_VERSIONS.c.version == version)
    row = connection.execute(query.order_by(MODEL_VERSIONS.c.version.desc()).limit(1)).one_or_none()
    if row is None:
        which = f"model {name!r}" if version is None else f"version {version} of model {name!r}"
        raise NotFound(f"{which} does not exist; GET /models lists what does")
    return row


def blob_in_use(database: Database, key: str) -> bool:
    """Whether a model version, its labels or an engine still needs the blob of this key."""
    versions = sa.select(MODEL_VERSIONS.c.name).where(MODEL_VERSIONS.c.labels_key == key).limit(1)
    engines = sa.select(ENGINES.c.model).where(ENGINES.c.blob_key == key).limit(1)
    with database.read() as connection:
        return any(connection.execute(query).first() is not None for query in (versions, engines))


def _next_version(connection: sa.Connection, name: str) -> int:
    last = connection.execute(
        sa.select(MODEL_COUNTERS.c.last_version).where(MODEL_COUNTERS.c.name == name)
    ).scalar_one_or_none()
    if last is None:
        connection.execute(sa.insert(MODEL_COUNTERS).values(name=name, last_version=1))
        return 1
    connection.execute(sa.update(MODEL_COUNTERS).where(MODEL_COUNTERS.c.name == name).values(last_version=last + 1))
    return int(last) + 1


def _values(upload: NewModelVersion) -> dict[str, Any]:
    return {
        "name": upload.name,
        "format": upload.format,
        "sha256": upload.sha256,
        "size_bytes": upload.size_bytes,
        "opset": upload.opset,
        "inputs": [spec.to_json() for spec in upload.inputs],
        "outputs": [spec.to_json() for spec in upload.outputs],
        "preprocessing": upload.preprocessing.to_json() if upload.preprocessing else None,
        "labels_key": upload.labels_key,
    }


def _reference(upload: NewModelVersion, number: int) -> dict[str, Any]:
    return {
        "model": upload.name,
        "version": number,
        "variant": REFERENCE_VARIANT,
        "runtime": "onnxruntime",
        "precision": "fp32",
        "recipe_digest": "reference",
        "sha256": upload.sha256,
        "size_bytes": upload.size_bytes,
        "blob_key": content_key(upload.sha256),
        "batch_max": BatchProfile().max,
        "certificate": None,
        "fingerprint": None,
        "job": None,
        "created_at": datetime.now(UTC),
    }


def _deploy_reference(connection: sa.Connection, name: str, number: int) -> None:
    row = {"revision": number, "version": number, "stable": REFERENCE_VARIANT, "canary_weight": 0}
    connection.execute(sa.insert(DEPLOYMENTS).values(model=name, updated_at=datetime.now(UTC), **row))


def _refuse_in_use(connection: sa.Connection, name: str, version: int) -> None:
    deployed = connection.execute(
        sa.select(DEPLOYMENTS.c.version).where(DEPLOYMENTS.c.model == name, DEPLOYMENTS.c.version == version)
    ).first()
    if deployed is not None:
        raise InUse(
            f"version {version} of model {name!r} is deployed; deploy another version, "
            f"or withdraw it with DELETE /models/{name}/deployment"
        )
    job = connection.execute(
        sa.select(JOBS.c.id).where(JOBS.c.model == name, JOBS.c.version == version, JOBS.c.state.not_in(FINISHED))
    ).scalar()
    if job is not None:
        raise InUse(f"job {job} works on version {version} of model {name!r}; wait for it, or cancel it")


def version_of_row(row: sa.Row[Any]) -> ModelVersion:
    """The domain's model version of a database row."""
    return ModelVersion(
        name=row.name,
        version=row.version,
        format=row.format,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        opset=row.opset,
        inputs=tuple(TensorSpec.from_json(spec) for spec in row.inputs),
        outputs=tuple(TensorSpec.from_json(spec) for spec in row.outputs),
        created_at=row.created_at,
        preprocessing=Preprocessing.from_json(row.preprocessing) if row.preprocessing else None,
        labels_key=row.labels_key,
    )
