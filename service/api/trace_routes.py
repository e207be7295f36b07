"""The v2 protocol's trace settings over HTTP, for all models and for single ones."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.schemas import errors
from service.api.settings_body import read_settings_body, settings_schema
from service.protocol.whole_server import WholeServer

_TEXT = {"type": ["string", "null"]}
_PROPERTIES = {
    "trace_level": {"type": ["array", "null"], "items": {"enum": ["OFF", "TIMESTAMPS"]}, "minItems": 1, "maxItems": 1},
    "trace_rate": _TEXT,
    "trace_count": _TEXT,
    "log_frequency": _TEXT,
    "trace_mode": _TEXT,
}


def trace_router(server: WholeServer) -> APIRouter:
    routes = APIRouter(prefix="/v2", tags=["operations"])
    schema = settings_schema(_PROPERTIES)

    @routes.get("/trace/setting", summary="Which requests this server traces")
    async def read_settings() -> dict[str, Any]:
        return server.trace()

    @routes.post(
        "/trace/setting",
        summary="Change which requests this server traces, until it ends",
        responses=errors(400, 413, 501),
        openapi_extra=schema,
    )
    async def change_settings(request: Request) -> dict[str, Any]:
        """What is left out stays as it is; null goes back to what holds at the start."""
        return await server.change_trace(await read_settings_body(request))

    @routes.get("/models/{model}/trace/setting", summary="Which requests of a model are traced", responses=errors(404))
    async def read_model_settings(model: str) -> dict[str, Any]:
        return server.trace(model)

    @routes.post(
        "/models/{model}/trace/setting",
        summary="Change which requests of a model are traced",
        responses=errors(400, 404, 413, 501),
        openapi_extra=schema,
    )
    async def change_model_settings(model: str, request: Request) -> dict[str, Any]:
        """What is left out stays as it is; null goes back to what holds for all models."""
        return await server.change_trace(await read_settings_body(request), model)

    return routes
