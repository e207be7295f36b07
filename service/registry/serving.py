"""What should be served now: every deployment with its version, its artifacts and its labels, in three queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import EngineArtifact, Fingerprint, may_answer
from service.domain.fallback import as_here, fallback_chain
from service.domain.model import ModelVersion
from service.errors import NotFound
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import deployment_of_row
from service.registry.engines import artifact_of_row
from service.registry.models import version_of_row
from service.registry.tables import DEPLOYMENTS, ENGINES, MODEL_VERSIONS

_log = logging.getLogger(__name__)


class ServingRegistry:
    """Reads the wished state that routers follow. Labels never change, so each file of them is read once.

    With `host`, the best engine that is proven on it stands in for a stable one that is not; `missing` says what a
    runtime lacks here, "" for nothing.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        host: Fingerprint | None = None,
        missing: Callable[[str], str] = lambda runtime: "",
    ) -> None:
        self._host = host
        self._missing = missing
        self._database = database
        self._blobs = blobs
        self._labels: dict[str, tuple[str, ...]] = {}
        # What the database held when it was read last, and that number of its changes.
        self._read: Mapping[str, ServedModel | None] = {}
        self._read_at: int | None = None
        self._incomplete: set[str] = set()

    def wanted(self) -> Mapping[str, ServedModel | None]:
        """Model name -> what its deployment asks for; None where an engine or the version of it is not on record.

        The same as before while nothing has changed, which costs next to nothing. Raises Unavailable or
        StoreUnavailable.
        """
        # Before it is read: what is committed meanwhile is read the next time.
        changes = self._database.changes()
        if changes is None or changes != self._read_at:
            self._read = self._read_wanted()
            self._read_at = changes
        return self._read

    def _read_wanted(self) -> Mapping[str, ServedModel | None]:
        # Of one moment: a change between the queries would give a deployment the version or engines of another.
        with self._database.snapshot() as connection:
            deployments = [deployment_of_row(row) for row in connection.execute(sa.select(DEPLOYMENTS))]
            rows = connection.execute(_of_deployed(MODEL_VERSIONS, "name"))
            versions = {row.name: version_of_row(row) for row in rows}
            artifacts: dict[str, dict[str, EngineArtifact]] = {}
            for row in connection.execute(_of_deployed(ENGINES, "model")):
                artifacts.setdefault(row.model, {})[row.variant] = artifact_of_row(row)
        found = {
            wanted.model: self._served(versions.get(wanted.model), wanted, artifacts.get(wanted.model, {}))
            for wanted in deployments
        }
        self._tell_incomplete({model for model, served in found.items() if served is None})
        return found

    def _tell_incomplete(self, models: set[str]) -> None:
        for model in sorted(models - self._incomplete):
            _log.error("a deployed model lacks an engine on record and goes on as it is", extra={"model": model})
        self._incomplete = models

    def _served(
        self, version: ModelVersion | None, wanted: Deployment, artifacts: Mapping[str, EngineArtifact]
    ) -> ServedModel | None:
        if version is None or not artifacts.keys() >= set(wanted.variants):
            return None
        here = {variant: as_here(artifact, self._host, self._missing) for variant, artifact in artifacts.items()}
        unproven = tuple(
            here[variant] for variant in (wanted.stable, wanted.canary) if variant and not may_answer(here[variant])
        )
        chain = [artifacts[artifact.variant] for artifact in fallback_chain(here.values())]
        if chain:
            served = _with_fallback(wanted, {artifact.variant for artifact in unproven}, chain[0].variant)
        else:
            served, unproven = wanted, ()
        chosen = {variant: artifacts[variant] for variant in served.variants}
        fallbacks = tuple(artifact for artifact in chain if artifact.variant != served.stable)
        labels = self._labels_of(version.labels_key)
        return ServedModel(version, served, chosen, labels, unproven, fallbacks)

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


def _with_fallback(wanted: Deployment, unproven: set[str], fallback: str) -> Deployment:
    """The deployment with the fallback for an unproven stable, and without an unproven canary."""
    stable = fallback if wanted.stable in unproven else wanted.stable
    if stable == wanted.stable and wanted.canary not in unproven:
        return wanted
    canary = None if wanted.canary in unproven or wanted.canary == stable else wanted.canary
    shadow = None if wanted.shadow == stable else wanted.shadow
    weight = wanted.canary_weight if canary else 0
    return replace(wanted, stable=stable, canary=canary, canary_weight=weight, shadow=shadow)


def _of_deployed(table: sa.Table, name_column: str) -> sa.Select[Any]:
    here = (table.c[name_column] == DEPLOYMENTS.c.model) & (table.c.version == DEPLOYMENTS.c.version)
    return sa.select(table).join(DEPLOYMENTS, here)
