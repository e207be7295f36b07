"""How a model's requests wait and share batches, over HTTP. Takes effect at once; what cannot hold is taken back."""

from __future__ import annotations

from contextlib import suppress

from anyio.to_thread import run_sync
from fastapi import APIRouter

from service.api.dependencies import ServicesDependency
from service.api.request_body import BoundedJsonRoute
from service.api.schemas import errors
from service.api.schemas_batching import BatchingBody
from service.api.schemas_requests import ModelName
from service.errors import NotFound, NotReady, OctavoError

router = APIRouter(tags=["deployments"], route_class=BoundedJsonRoute)


@router.get("/models/{name}/batching", responses=errors(404, 422, 503))
def read_batching(name: ModelName, services: ServicesDependency) -> BatchingBody:
    """What is set for the model; null is what the server's settings say."""
    return BatchingBody.of(services.deployments.find(name).batching)


@router.put("/models/{name}/batching", responses=errors(400, 404, 413, 422, 500, 503))
async def put_batching(name: ModelName, body: BatchingBody, services: ServicesDependency) -> BatchingBody:
    """Sets all of it; what is left out is back at its default. Nothing is loaded anew, and no request fails."""
    wished = body.to_domain()
    changed, before = await run_sync(services.deployments.set_batching, name, wished)
    services.wake()
    try:
        await services.settle(name, changed.revision)
    except (NotFound, NotReady):
        raise
    except OctavoError:
        with suppress(OctavoError):
            await run_sync(services.deployments.take_back_batching, name, wished, before)
        services.wake()
        raise
    return BatchingBody.of(changed.batching)
