"""The v2 protocol's statistics extension: counts and nanoseconds of each served model since the server started."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.api.schemas import errors
from service.protocol.metadata import version_number
from service.protocol.whole_server import WholeServer
from service.router.router import Router


def statistics_router(router: Router, server: WholeServer) -> APIRouter:
    routes = APIRouter(prefix="/v2", tags=["inference"])

    # Before the path with {model}: "stats" is no model's name here.
    @routes.get("/models/stats", summary="Statistics of all models")
    async def read_all_statistics() -> dict[str, Any]:
        return {"model_stats": await server.statistics(router.models())}

    async def read_statistics(model: str, version: str | None = None) -> dict[str, Any]:
        return {"model_stats": await server.statistics([router.routes(model, version_number(model, version))])}

    for path in ("/models/{model}/stats", "/models/{model}/versions/{version}/stats"):
        routes.add_api_route(path, read_statistics, summary="Model statistics", responses=errors(404, 503))
    return routes
