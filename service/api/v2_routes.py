"""All routes of the v2 protocol, ready to be added to an application."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.api.inference import InferenceEndpoint
from service.api.log_routes import log_settings_router
from service.api.repository import repository_router
from service.api.schemas import errors
from service.api.trace_routes import trace_router
from service.api.v2_metadata import metadata_router
from service.api.v2_refused import refused_router
from service.api.v2_statistics import statistics_router
from service.errors import NotFound
from service.protocol.model_loading import ModelLoading
from service.protocol.whole_server import WholeServer
from service.router.router import Router

_INFER_PATHS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")


def v2_routes(
    router: Router,
    endpoint: InferenceEndpoint,
    loading: ModelLoading,
    server: WholeServer,
    ready: Callable[[], bool],
) -> list[BaseRoute]:
    """`ready` is whether the deployments were read and every model's first load has ended.

    The infer routes are among them, for the document and for an application without the gate in front of it.
    """
    parts = (
        statistics_router(router, server),
        metadata_router(router, ready),
        repository_router(loading),
        trace_router(server),
        log_settings_router(server),
        _infer_router(endpoint),
        refused_router(),
    )
    return [route for part in parts for route in part.routes]


def _infer_router(endpoint: InferenceEndpoint) -> APIRouter:
    routes = APIRouter(tags=["inference"])

    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        """One inference request: JSON, or a JSON head with the tensors' bytes behind it."""
        if endpoint.target(request.scope["path"]) is None:
            raise NotFound(f"Request for unknown model: {model[:80]!r} version {str(version)[:40]!r} is not found")
        return _EndpointResponse(endpoint)

    for path in _INFER_PATHS:
        routes.add_api_route(
            path,
            infer,
            methods=["POST"],
            response_class=Response,
            summary="Infer",
            responses=errors(400, 404, 413, 429, 500, 503),
            openapi_extra=_REQUEST_BODY,
        )
    return routes


class _EndpointResponse(Response):
    """Hands the connection over to the endpoint, which reads the body and answers by itself."""

    def __init__(self, endpoint: InferenceEndpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}
