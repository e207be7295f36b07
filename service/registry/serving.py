"""What should be served now: every deployment with its version, its artifacts and its labels, in three queries."""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa

from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact
from service.errors import NotFound
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import deployment_of_row
from service.registry.engines import artifact_of_row
from service.registry.models import version_of_row
from service.registry.tables import DEPLOYMENTS, ENGINES, MODEL_VERSIONS

_log = logging.getLogger(__name__)


class ServingRegistry:
    """Reads the wished state that routers follow. Labels never change, so each file of them is read once."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._labels: dict[str, tuple[str, ...]] = {}

    def wanted(self) -> dict[str, ServedModel]:
        """Model name -> what its deployment asks for. Raises Unavailable or StoreUnavailable."""
        with self._database.read() as connection:
            deployments = [deployment_of_row(row) for row in connection.execute(sa.select(DEPLOYMENTS))]
            rows = connection.execute(_of_deployed(MODEL_VERSIONS, "name"))
            versions = {row.name: version_of_row(row) for row in rows}
            artifacts: dict[str, dict[str, EngineArtifact]] = {}
            for row in connection.execute(_of_deployed(ENGINES, "model")):
                artifacts.setdefault(row.model, {})[row.variant] = artifact_of_row(row)
        # A change may have come between the queries: what does not fit together yet will in the next call.
        return {
            wanted.model: ServedModel(
                versions[wanted.model],
                wanted,
                {variant: artifacts[wanted.model][variant] for variant in wanted.variants},
                self._labels_of(versions[wanted.model].labels_key),
            )
            for wanted in deployments
            if wanted.model in versions and artifacts.get(wanted.model, {}).keys() >= set(wanted.variants)
        }

    def _labels_of(self, key: str | None) -> tuple[str, ...]:
        if key is None:
            return ()
        if key not in self._labels:
            try:
                self._labels[key] = tuple(self._blobs.read_bytes(key).decode().splitlines())
            except NotFound as error:
                # One model without its labels must not keep all others from being read.
                _log.error("a model is served without its labels", extra={"reason": str(error)})
                self._labels[key] = ()
        return self._labels[key]


def _of_deployed(table: sa.Table, name_column: str) -> sa.Select[Any]:
    here = (table.c[name_column] == DEPLOYMENTS.c.model) & (table.c.version == DEPLOYMENTS.c.version)
    return sa.select(table).join(DEPLOYMENTS, here)
