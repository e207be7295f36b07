"""Deployments over HTTP. A change is answered once this server serves it; one that cannot be loaded is taken back."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from anyio.to_thread import run_sync
from fastapi import APIRouter

from service.api.dependencies import Services, ServicesDependency
from service.api.request_body import BoundedJsonRoute
from service.api.schemas import errors
from service.api.schemas_requests import DeploymentBody, ModelName
from service.domain.deployment import Deployment
from service.errors import EngineFailed, NotFound, NotReady, OctavoError, Stopping

router = APIRouter(tags=["deployments"], route_class=BoundedJsonRoute)
# Callers that leave are not noticed meanwhile, so they ask again. A process that hangs is given up a little sooner.
WAIT_SECONDS = 40.0
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


@router.get("/models/{name}/deployment", responses=errors(404, 422, 500, 503))
async def read_deployment(name: ModelName, services: ServicesDependency, wait: bool = False) -> DeploymentBody:
    """Which variants answer for a model. With `wait` it is told once this server serves it, or 503 after 40 seconds.

    A job deploys from another process, so what it deployed is on record before it answers.
    """
    deployment = await run_sync(services.deployments.find, name)
    if wait:
        services.wake()
        await _wait(services, deployment)
    return DeploymentBody.of(deployment)


@router.put("/models/{name}/deployment", responses=errors(400, 404, 409, 413, 422, 500, 503))
async def put_deployment(name: ModelName, body: DeploymentBody, services: ServicesDependency) -> DeploymentBody:
    """Changes which variants answer. The new engines are loaded and warm before the old ones drain."""
    return await _settled(services, await run_sync(services.deployments.put, body.to_domain(name)))


@router.delete("/models/{name}/deployment", status_code=204, responses=errors(404, 422, 503))
async def withdraw(name: ModelName, services: ServicesDependency) -> None:
    """Ends the model's serving; its versions and engines stay."""
    await run_sync(services.deployments.withdraw, name)
    services.wake()


@router.post("/models/{name}/deployment/promote", responses=errors(404, 409, 422, 500, 503))
async def promote(name: ModelName, services: ServicesDependency) -> DeploymentBody:
    """Makes the canary the stable variant."""
    return await _settled(services, await run_sync(services.deployments.promote, name))


@router.post("/models/{name}/deployment/rollback", responses=errors(404, 409, 422, 500, 503))
async def roll_back(name: ModelName, services: ServicesDependency) -> DeploymentBody:
    """Goes back to the deployment before the last change."""
    return await _settled(services, await run_sync(services.deployments.rollback, name))


async def _settled(services: Services, deployment: Deployment) -> DeploymentBody:
    services.wake()
    try:
        await services.settle(deployment.model, deployment.revision)
    except NotReady:
        # Still on its way, which does not say that it cannot be loaded.
        raise
    except NotFound as error:
        # Withdrawn meanwhile; where it was not, it is one of its files that is missing.
        if not await run_sync(_take_back, services, deployment):
            raise
        services.wake()
        raise EngineFailed(str(error)) from error
    except OctavoError:
        await run_sync(_take_back, services, deployment)
        services.wake()
        raise
    return DeploymentBody.of(deployment)


async def _wait(services: Services, deployment: Deployment) -> None:
    """As `settle`, which may take as long as a load. Raises also NotReady after WAIT_SECONDS, or Stopping."""
    settling = asyncio.ensure_future(services.settle(deployment.model, deployment.revision))
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while not (await asyncio.wait({settling}, timeout=min(_LOOK_SECONDS, WAIT_SECONDS)))[0]:
            if services.stopping():
                raise Stopping("the server stops; ask again once it is back")
            if time.monotonic() > deadline:
                raise NotReady(
                    f"revision {deployment.revision} of model {deployment.model!r} is not served after "
                    f"{WAIT_SECONDS:g} s; ask again"
                )
        await settling
    finally:
        settling.cancel()


def _take_back(services: Services, failed: Deployment) -> bool:
    """What cannot be loaded must not stay on record: every server would try it again and again. Tells if it did."""
    with suppress(OctavoError):
        if services.deployments.find(failed.model).revision == failed.revision:
            earlier = services.deployments.take_back(failed)
            _log.warning("deployment taken back", extra={"model": failed.model, "revision": earlier.revision})
            return True
    return False
