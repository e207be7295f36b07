"""Health, metadata and configuration over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from service.api.schemas import errors
from service.errors import InvalidInput, Stopping
from service.protocol.metadata import model_config, model_metadata, server_metadata, version_number
from service.router.router import Router


def metadata_router(router: Router, ready: Callable[[], bool]) -> APIRouter:
    """`ready` is whether the deployments were read and every model's first load has ended."""
    routes = APIRouter(prefix="/v2", tags=["inference"])

    @routes.get("", summary="Server metadata")
    async def read_server() -> dict[str, Any]:
        return server_metadata()

    @routes.get("/health/live", summary="Whether the server runs", response_class=Response)
    async def read_live() -> Response:
        return Response()

    @routes.get(
        "/health/ready",
        summary="Whether the server answers inference",
        response_class=Response,
        responses=errors(400, 503),
    )
    async def read_ready() -> Response:
        if router.stopping:
            raise Stopping("Server is stopping; send requests elsewhere")
        if not ready():
            raise InvalidInput("Server not ready: deployed models are still loading; ask again")
        return Response()

    async def read_model(model: str, version: str | None = None) -> dict[str, Any]:
        return model_metadata(router.routes(model, version_number(model, version)))

    async def read_model_ready(model: str, version: str | None = None) -> Response:
        """An empty body where the model answers as deployed, else JSON with the reason why another engine does."""
        router.routes(model, version_number(model, version))
        reason = router.notice(model)
        return JSONResponse({"name": model, "ready": True, "reason": reason}) if reason else Response()

    async def read_config(model: str, version: str | None = None) -> dict[str, Any]:
        return model_config(router.routes(model, version_number(model, version)))

    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        add = routes.add_api_route
        add(path, read_model, summary="Model metadata", responses=errors(404, 503))
        add(f"{path}/ready", read_model_ready, response_class=Response, responses=errors(404, 503))
        add(f"{path}/config", read_config, summary="Model configuration", responses=errors(404, 503))
    return routes
