"""Datasets: calibration and validation rows under a name that means one content for ever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.domain.job import FINISHED
from service.domain.model import Dataset
from service.domain.tensor import TensorSpec
from service.errors import AlreadyExists, InUse, NotFound
from service.registry.database import Database
from service.registry.tables import DATASETS, JOBS


@dataclass(frozen=True, slots=True)
class NewDataset:
    """An inspected upload. `sha256` is of the bytes as uploaded; `blob_key` holds the arrays as .npz."""

    name: str
    sha256: str
    size_bytes: int
    rows: int
    arrays: dict[str, TensorSpec]
    labels: bool
    blob_key: str
    warnings: tuple[str, ...] = ()


class DatasetRegistry:
    """Reads and writes datasets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, upload: NewDataset) -> tuple[Dataset, bool]:
        """The dataset, and whether this call made it. Raises AlreadyExists where the name holds other bytes."""
        with self._database.write(f"dataset:{upload.name}") as connection:
            row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == upload.name)).one_or_none()
            if row is not None and row.sha256 != upload.sha256:
                raise AlreadyExists(
                    f"dataset {upload.name!r} exists with other bytes (sha256 {row.sha256}); choose another name, "
                    f"or delete it first"
                )
            if row is not None:
                return _dataset(row), False
            connection.execute(sa.insert(DATASETS).values(_values(upload)))
            made = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == upload.name)).one()
            return _dataset(made), True

    def find(self, name: str) -> Dataset:
        """Raises NotFound."""
        with self._database.read() as connection:
            return _dataset(_row(connection, name))

    def list(self) -> list[Dataset]:
        with self._database.read() as connection:
            return [_dataset(row) for row in connection.execute(sa.select(DATASETS).order_by(DATASETS.c.name))]

    def uses_blob(self, key: str) -> bool:
        """Whether a dataset still needs the blob of this key."""
        query = sa.select(DATASETS.c.name).where(DATASETS.c.blob_key == key).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def delete(self, name: str) -> None:
        """Raises NotFound, and InUse while an unfinished job reads it."""
        with self._database.write(f"dataset:{name}") as connection:
            _row(connection, name)
            running = connection.execute(sa.select(JOBS.c.id, JOBS.c.request).where(JOBS.c.state.not_in(FINISHED)))
            for job in running:
                if name in (job.request.get("calibration"), job.request.get("validation")):
                    raise InUse(f"job {job.id} uses dataset {name!r}; wait for it, or cancel it")
            connection.execute(sa.delete(DATASETS).where(DATASETS.c.name == name))


def _row(connection: sa.Connection, name: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(DATASETS).where(DATASETS.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"dataset {name!r} does not exist; GET /datasets lists what does, POST /datasets adds one")
    return row


def _values(upload: NewDataset) -> dict[str, Any]:
    return {
        "name": upload.name,
        "sha256": upload.sha256,
        "size_bytes": upload.size_bytes,
        "rows": upload.rows,
        "arrays": {name: spec.to_json() for name, spec in upload.arrays.items()},
        "labels": upload.labels,
        "blob_key": upload.blob_key,
        "warnings": list(upload.warnings),
        "created_at": datetime.now(UTC),
    }


def _dataset(row: sa.Row[Any]) -> Dataset:
    return Dataset(
        name=row.name,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        rows=row.rows,
        arrays={name: TensorSpec.from_json(spec) for name, spec in row.arrays.items()},
        labels=row.labels,
        blob_key=row.blob_key,
        warnings=tuple(row.warnings),
        created_at=row.created_at,
    )
