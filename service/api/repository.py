"""The model repository over HTTP: what there is, and explicit load and unload."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from service.api.request_body import body_chunks
from service.api.schemas import errors
from service.errors import InputTooLarge, InvalidInput
from service.protocol.model_loading import ModelLoading
from service.protocol.repository import INSTEAD, check_unload, flag, refuse_overrides, repository_index

_MAX_BODY_BYTES = 64 * 1024


def repository_router(loading: ModelLoading) -> APIRouter:
    routes = APIRouter(prefix="/v2/repository", tags=["inference"])

    @routes.post(
        "/index",
        summary="Every model version that answers or should, and every other model",
        responses=errors(400, 413),
        openapi_extra=_body({"ready": {"type": "boolean"}}),
    )
    async def read_index(request: Request) -> list[dict[str, Any]]:
        ready = flag(await _read(request, "{'ready': true}"), "ready")
        return await repository_index(loading, ready)

    @routes.post(
        "/models/{model}/load",
        summary="Load a model as it is deployed",
        response_class=Response,
        responses=errors(400, 404, 413, 500, 501, 503),
        openapi_extra=_body({"parameters": {"type": "object"}}),
    )
    async def load(model: str, request: Request) -> Response:
        """Answers once the model answers. One that is not deployed is deployed as its newest version's reference."""
        refuse_overrides(_parameters(await _read(request, "{}")))
        await loading.load(model)
        return Response()

    @routes.post(
        "/models/{model}/unload",
        summary="Unload a model, which stays deployed",
        response_class=Response,
        responses=errors(400, 404, 413, 503),
        openapi_extra=_body({"parameters": {"type": "object"}}),
    )
    async def unload(model: str, request: Request) -> Response:
        """Answers once the requests in flight are answered and the memory is given back."""
        check_unload(_parameters(await _read(request, "{}")))
        await loading.unload(model)
        return Response()

    return routes


async def _read(request: Request, example: str) -> dict[str, Any]:
    """The body, which clients leave empty or send without saying that it is JSON."""
    body = b""
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InputTooLarge(f"the body has over {_MAX_BODY_BYTES} bytes; send {example}, no files: {INSTEAD}")
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; send {example}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is {value!r:.80}; send {example}, or none")
    return value


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"'parameters' is {parameters!r:.80}; send an object, or leave it out")
    return parameters


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
