"""The v2 protocol's log settings over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.schemas import errors
from service.api.settings_body import read_settings_body, settings_schema
from service.logs import LEVELS
from service.protocol.log_settings import PROPERTIES, log_settings
from service.protocol.whole_server import WholeServer


def log_settings_router(server: WholeServer) -> APIRouter:
    routes = APIRouter(prefix="/v2", tags=["operations"])

    @routes.get("/logging", summary="Which levels this server logs")
    async def read_logging() -> dict[str, Any]:
        return log_settings(LEVELS.now)

    @routes.post(
        "/logging",
        summary="Change which levels this server logs, until it ends",
        responses=errors(400, 413, 501),
        openapi_extra=settings_schema(PROPERTIES),
    )
    async def change_logging(request: Request) -> dict[str, Any]:
        """What is left out stays as it is; `log_verbose_level` above 0 logs DEBUG too."""
        return await server.change_logging(await read_settings_body(request))

    return routes
