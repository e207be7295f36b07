"""Deployments: which variants of a model answer, whether they are loaded, and what they were before the last change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.domain.batching import Batching
from service.domain.deployment import Deployment
from service.domain.engine import REFERENCE_VARIANT, EngineArtifact, Fingerprint, may_answer, never_ran, on_host
from service.errors import Conflict, NotFound, Unproven
from service.registry.database import Database
from service.registry.engines import find_artifact
from service.registry.tables import DEPLOYMENTS, JOBS, MODEL_VERSIONS


class DeploymentRegistry:
    """Reads and changes deployments. Every change checks that the variants exist and may serve."""

    def __init__(self, database: Database, host: Fingerprint | None = None) -> None:
        """With `host`, an engine must be proven on that host to be made stable or canary."""
        self._database = database
        self._host = host

    def find(self, model: str) -> Deployment:
        """Raises NotFound where the model is not deployed."""
        with self._database.read() as connection:
            row = _row(connection, model)
        if row is None:
            raise not_deployed(model)
        return deployment_of_row(row)

    def all(self) -> list[Deployment]:
        with self._database.read() as connection:
            return [deployment_of_row(row) for row in connection.execute(sa.select(DEPLOYMENTS))]

    def put(self, wanted: Deployment) -> Deployment:
        """Makes `wanted` the deployment; its revision is set here. An equal one changes nothing.

        Raises NotFound for an unknown model, version or variant, Unproven for a stable or canary that no
        validation passed and for any role of an engine that never ran, and Conflict for a canary or shadow that is the
        stable variant itself.
        """
        with self._database.write(f"model:{wanted.model}") as connection:
            _check(connection, wanted, self._host)
            return _replace(connection, wanted)

    def put_once(self, job: str, model: str, wanted: Callable[[Deployment | None], Deployment]) -> dict[str, Any]:
        """Deploys for a job what `wanted` makes of the present deployment. Gives the body of what was deployed.

        A second call for the same job changes nothing, whatever was deployed since. Raises as `put`, and what `wanted`
        raises; then the job has deployed nothing.
        """
        with self._database.write(f"model:{model}") as connection:
            done: dict[str, Any] | None = connection.execute(
                sa.select(JOBS.c.deployed).where(JOBS.c.id == job)
            ).scalar()
            if done is not None:
                return done
            row = _row(connection, model)
            change = wanted(None if row is None else deployment_of_row(row))
            _check(connection, change, self._host)
            made = _replace(connection, change).to_json()
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job).values(deployed=made))
            return made

    def promote(self, model: str) -> Deployment:
        """Makes the canary the stable variant. Raises NotFound, Conflict without a canary, and Unproven."""
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise not_deployed(model)
            if row.canary is None:
                raise Conflict(f"model {model!r} has no canary to promote; PUT /models/{model}/deployment sets one")
            now = deployment_of_row(row)
            shadow = None if now.shadow == now.canary else now.shadow
            assert now.canary is not None
            promoted = replace(now, stable=now.canary, canary=None, canary_weight=0, shadow=shadow, loaded=True)
            _check(connection, promoted, self._host)
            return _replace(connection, promoted)

    def rollback(self, model: str) -> Deployment:
        """Goes back to the deployment before the last change. Raises NotFound, and Conflict without one."""
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise not_deployed(model)
            if row.previous is None:
                raise Conflict(f"model {model!r} has no earlier deployment to roll back to")
            earlier = _earlier(row)
            # What answered before may be restored anywhere: on a host without its proof the reference answers.
            _check(connection, earlier, None)
            return _replace(connection, earlier)

    def take_back(self, failed: Deployment) -> Deployment:
        """As if `failed` had never been asked for: what a rollback returned to before, it returns to again.

        Raises NotFound, and Conflict where another deployment was asked for since, or none came before.
        """
        model = failed.model
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise not_deployed(model)
            # Revisions begin anew after a withdrawal; one that only loads changes nothing to go back to.
            same = row.revision == failed.revision and _fields(deployment_of_row(row)) == _fields(failed)
            if not same or row.previous is None or row.previous.get("revision") != failed.revision:
                raise Conflict(f"revision {failed.revision} of model {model!r} cannot be taken back")
            earlier = _earlier(row)
            _check(connection, earlier, None)
            taken_back = _replace(connection, earlier)
            values = {"previous": row.previous.get("previous")}
            connection.execute(sa.update(DEPLOYMENTS).where(DEPLOYMENTS.c.model == model).values(values))
            return taken_back

    def load(self, model: str) -> Deployment:
        """Has the model loaded as it is deployed; where it is not, as the FP32 reference of its newest version.

        Raises NotFound for an unknown model.
        """
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is not None:
                return _set_loaded(connection, row, True)
            newest = sa.select(sa.func.max(MODEL_VERSIONS.c.version)).where(MODEL_VERSIONS.c.name == model)
            version = connection.execute(newest).scalar()
            if version is None:
                raise NotFound(f"failed to load {model[:80]!r}, there is no such model; upload it with POST /models")
            return _replace(connection, Deployment(model, version, REFERENCE_VARIANT))

    def unload(self, model: str) -> Deployment:
        """Has the model answer nothing and hold no memory until it is loaded again. Raises NotFound."""
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise NotFound(f"failed to unload {model[:80]!r}, it is not deployed; GET /models lists what there is")
            return _set_loaded(connection, row, False)

    def set_batching(self, model: str, batching: Batching) -> tuple[Deployment, Batching]:
        """How the model's requests wait and share batches from now on, whichever variants answer; and how before.

        Raises NotFound.
        """
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise not_deployed(model)
            return _set_batching(connection, row, batching), deployment_of_row(row).batching

    def take_back_batching(self, model: str, failed: Batching, before: Batching) -> None:
        """Goes back to `before` where `failed` is still what is set: what another set since, stays. Raises NotFound."""
        with self._database.write(f"model:{model}") as connection:
            row = _row(connection, model)
            if row is None:
                raise not_deployed(model)
            if deployment_of_row(row).batching == failed:
                _set_batching(connection, row, before)

    def withdraw(self, model: str) -> None:
        """Ends the model's serving. Raises NotFound where it is not deployed."""
        with self._database.write(f"model:{model}") as connection:
            if _row(connection, model) is None:
                raise not_deployed(model)
            connection.execute(sa.delete(DEPLOYMENTS).where(DEPLOYMENTS.c.model == model))


def _row(connection: sa.Connection, model: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(DEPLOYMENTS).where(DEPLOYMENTS.c.model == model)).one_or_none()


def not_deployed(model: str) -> NotFound:
    """The error of a model without a deployment."""
    return NotFound(f"model {model!r} is not deployed; upload it with POST /models, or PUT /models/{model}/deployment")


def _check(connection: sa.Connection, wanted: Deployment, host: Fingerprint | None) -> None:
    version = sa.select(MODEL_VERSIONS.c.version).where(
        MODEL_VERSIONS.c.name == wanted.model, MODEL_VERSIONS.c.version == wanted.version
    )
    if connection.execute(version).first() is None:
        raise NotFound(
            f"version {wanted.version} of model {wanted.model!r} does not exist; GET /models lists what does"
        )
    for role, variant in (("canary", wanted.canary), ("shadow", wanted.shadow)):
        if variant == wanted.stable:
            raise Conflict(f"the {role} {variant!r} is the stable variant already; name another, or leave it out")
    for role, variant in (("stable", wanted.stable), ("canary", wanted.canary), ("shadow", wanted.shadow)):
        if variant is None:
            continue
        stored = find_artifact(connection, wanted.model, wanted.version, variant)
        if never_ran(stored):
            raise Unproven(_never_ran(stored, role))
        artifact = on_host(stored, host)
        if role == "shadow" or may_answer(artifact) or artifact.certificate is None:
            continue
        if artifact is not stored:
            raise Unproven(
                f"variant {variant!r} cannot be {role}: {artifact.certificate.reason}, or make it the shadow"
            )
        raise Unproven(
            f"variant {variant!r} is {artifact.certificate.verdict}, and {role} needs a passed validation; make it the "
            "shadow, or quantize again with another recipe or budget"
        )


def _never_ran(artifact: EngineArtifact, role: str) -> str:
    reason = artifact.certificate.reason if artifact.certificate is not None else ""
    return (
        f"variant {artifact.variant!r} is unproven and cannot be {role}: it was built and has not run ({reason}); "
        "start octavo serve and octavo work on a host that can run it, which validates it by itself, and try again"
    )


def _replace(connection: sa.Connection, wanted: Deployment) -> Deployment:
    row = _row(connection, wanted.model)
    fields = _fields(wanted)
    if row is None:
        values = fields | {"loaded": wanted.loaded, "revision": 1, "previous": None}
        connection.execute(sa.insert(DEPLOYMENTS).values(model=wanted.model, updated_at=datetime.now(UTC), **values))
        return replace(wanted, revision=1)
    now = deployment_of_row(row)
    if _fields(now) == fields:
        return _set_loaded(connection, row, wanted.loaded)
    # With what came before it, and the revision that follows it, for a deployment that is taken back.
    before = None if row.previous is None else row.previous | {"previous": None}
    previous = _fields(now) | {"loaded": now.loaded, "previous": before, "revision": row.revision + 1}
    values = fields | {"loaded": wanted.loaded, "previous": previous}
    values |= {"revision": row.revision + 1, "updated_at": datetime.now(UTC)}
    connection.execute(sa.update(DEPLOYMENTS).where(DEPLOYMENTS.c.model == wanted.model).values(values))
    return replace(wanted, revision=row.revision + 1, batching=now.batching)


def _set_loaded(connection: sa.Connection, row: sa.Row[Any], loaded: bool) -> Deployment:
    """No change of what is deployed, so nothing that a rollback would return to."""
    now = deployment_of_row(row)
    if now.loaded == loaded:
        return now
    values = {"loaded": loaded, "revision": row.revision + 1, "updated_at": datetime.now(UTC)}
    connection.execute(sa.update(DEPLOYMENTS).where(DEPLOYMENTS.c.model == now.model).values(values))
    return replace(now, loaded=loaded, revision=row.revision + 1)


def _set_batching(connection: sa.Connection, row: sa.Row[Any], batching: Batching) -> Deployment:
    now = deployment_of_row(row)
    if now.batching == batching:
        return now
    values = {"batching": batching.to_json(), "revision": row.revision + 1, "updated_at": datetime.now(UTC)}
    connection.execute(sa.update(DEPLOYMENTS).where(DEPLOYMENTS.c.model == now.model).values(values))
    return replace(now, batching=batching, revision=row.revision + 1)


def _earlier(row: sa.Row[Any]) -> Deployment:
    kept = {name: value for name, value in row.previous.items() if name not in ("previous", "revision")}
    return Deployment(model=row.model, **kept)


def _fields(deployment: Deployment) -> dict[str, Any]:
    return {
        "version": deployment.version,
        "stable": deployment.stable,
        "canary": deployment.canary,
        "canary_weight": deployment.canary_weight,
        "shadow": deployment.shadow,
    }


def deployment_of_row(row: sa.Row[Any]) -> Deployment:
    """The domain's deployment of a database row."""
    return Deployment(
        model=row.model,
        version=row.version,
        stable=row.stable,
        canary=row.canary,
        canary_weight=row.canary_weight,
        shadow=row.shadow,
        revision=row.revision,
        loaded=row.loaded,
        batching=Batching.from_json(row.batching or {}),
    )
