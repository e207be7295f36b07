"""Engine artifacts: one row a variant of a model version."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from service.domain.engine import (
    GPU_RUNTIMES,
    Certificate,
    EngineArtifact,
    Fingerprint,
    may_answer,
    never_ran,
    proves_less,
)
from service.errors import NotFound
from service.registry.database import Database
from service.registry.tables import ENGINES


class EngineRegistry:
    """Reads and publishes engine artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, model: str, version: int | None = None) -> list[EngineArtifact]:
        """Every variant of a model, by version and name."""
        query = sa.select(ENGINES).where(ENGINES.c.model == model).order_by(ENGINES.c.version, ENGINES.c.variant)
        if version is not None:
            query = query.where(ENGINES.c.version == version)
        with self._database.read() as connection:
            return [artifact_of_row(row) for row in connection.execute(query)]

    def find(self, model: str, version: int, variant: str) -> EngineArtifact:
        """Raises NotFound naming the variants that exist."""
        with self._database.read() as connection:
            return find_artifact(connection, model, version, variant)

    def never_ran(self) -> tuple[EngineArtifact, ...]:
        """Every engine that was built where it could not run, and that no host has validated since."""
        query = sa.select(ENGINES).where(ENGINES.c.runtime.in_(GPU_RUNTIMES))
        with self._database.read() as connection:
            stored = [artifact_of_row(row) for row in connection.execute(query)]
        return tuple(artifact for artifact in stored if never_ran(artifact))

    def publish(self, artifact: EngineArtifact) -> EngineArtifact:
        """Stores the artifact and gives back what was stored: where another recipe of the same version holds the
        variant's name, the name gets the recipe's digest behind it. The same recipe again replaces its artifact, but
        that of a proven engine stays where the new one never ran, or has the same bytes and a weaker proof.
        """
        with self._database.write(f"model:{artifact.model}") as connection:
            named = replace(artifact, variant=_free_name(connection, artifact))
            proven = _proven(connection, named)
            if proven is not None and (never_ran(named) or proves_less(named, proven)):
                return proven
            key = (
                ENGINES.c.model == named.model,
                ENGINES.c.version == named.version,
                ENGINES.c.variant == named.variant,
            )
            connection.execute(sa.delete(ENGINES).where(*key))
            connection.execute(sa.insert(ENGINES).values(_values(named)))
            return named


def find_artifact(connection: sa.Connection, model: str, version: int, variant: str) -> EngineArtifact:
    """The artifact, read within the caller's transaction. Raises NotFound naming the variants that exist."""
    here = sa.select(ENGINES).where(ENGINES.c.model == model, ENGINES.c.version == version)
    rows = {row.variant: row for row in connection.execute(here)}
    if variant not in rows:
        known = ", ".join(sorted(rows)) or "none"
        raise NotFound(
            f"version {version} of model {model!r} lacks variant {variant!r}, has: {known}; POST /quantize builds one"
        )
    return artifact_of_row(rows[variant])


def _proven(connection: sa.Connection, artifact: EngineArtifact) -> EngineArtifact | None:
    """The stored engine of the artifact's name, where a validation passed it."""
    query = sa.select(ENGINES).where(
        ENGINES.c.model == artifact.model,
        ENGINES.c.version == artifact.version,
        ENGINES.c.variant == artifact.variant,
    )
    row = connection.execute(query).one_or_none()
    found = None if row is None else artifact_of_row(row)
    return found if found is not None and may_answer(found) else None


def _free_name(connection: sa.Connection, artifact: EngineArtifact) -> str:
    here = sa.select(ENGINES.c.variant, ENGINES.c.recipe_digest).where(
        ENGINES.c.model == artifact.model, ENGINES.c.version == artifact.version
    )
    holders = {row.variant: row.recipe_digest for row in connection.execute(here)}
    own = f"{artifact.variant}-{artifact.recipe_digest[:8]}"
    # Names that merely begin alike are of other runtimes: fp16-onnxruntime-cuda is no fp16-onnxruntime.
    if own in holders:
        return own
    return artifact.variant if holders.get(artifact.variant, artifact.recipe_digest) == artifact.recipe_digest else own


def _values(artifact: EngineArtifact) -> dict[str, Any]:
    certificate, fingerprint = artifact.certificate, artifact.fingerprint
    return asdict(artifact) | {
        "certificate": certificate.to_json() if certificate else None,
        "fingerprint": fingerprint.to_json() if fingerprint else None,
    }


def artifact_of_row(row: sa.Row[Any]) -> EngineArtifact:
    """The domain's artifact of a database row."""
    values = dict(row._mapping)
    values["certificate"] = Certificate.from_json(values["certificate"]) if values["certificate"] else None
    values["fingerprint"] = Fingerprint.from_json(values["fingerprint"]) if values["fingerprint"] else None
    return EngineArtifact(**values)
