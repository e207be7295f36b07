"""The v2 protocol's model repository: what there is, and explicit load and unload. Refuses files and configurations."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from service.api.model_loading import ModelLoading
from service.api.request_body import body_chunks
from service.api.schemas import errors
from service.errors import InputTooLarge, InvalidInput, Unsupported

_MAX_BODY_BYTES = 64 * 1024
_INSTEAD = "upload a version with POST /models and choose it with PUT /models/{name}/deployment"


def repository_router(loading: ModelLoading) -> APIRouter:
    routes = APIRouter(prefix="/v2/repository", tags=["inference"])

    @routes.post(
        "/index",
        summary="Every model version that answers or should, and every other model",
        responses=errors(400, 413),
        openapi_extra=_body({"ready": {"type": "boolean"}}),
    )
    async def read_index(request: Request) -> list[dict[str, Any]]:
        ready = _flag(await _read(request, "{'ready': true}"), "ready")
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


async def repository_index(loading: ModelLoading, only_ready: bool) -> list[dict[str, Any]]:
    return [_shown(line._asdict()) for line in await loading.index(only_ready=only_ready)]


async def _read(request: Request, example: str) -> dict[str, Any]:
    """The body, which clients leave empty or send without saying that it is JSON."""
    body = b""
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InputTooLarge(f"the body has over {_MAX_BODY_BYTES} bytes; send {example}, no files: {_INSTEAD}")
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; send {example}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is {value!r:.80}; send {example}, or none")
    return value


def _flag(values: dict[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} is {value!r:.80}; send true, false, or leave it out")
    return value


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"'parameters' is {parameters!r:.80}; send an object, or leave it out")
    return parameters


def refuse_overrides(parameters: dict[str, Any]) -> None:
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise Unsupported(
                f"load with {name[:80]!r} is not offered: a model is loaded as it is deployed; {_INSTEAD}"
            )
    _refuse_unknown(parameters, set())


def check_unload(parameters: dict[str, Any]) -> None:
    # No model depends on another here, so either value is obeyed.
    _flag(parameters, "unload_dependents")
    _refuse_unknown(parameters, {"unload_dependents"})


def _refuse_unknown(parameters: dict[str, Any], known: set[str]) -> None:
    for name in parameters.keys() - known:
        raise InvalidInput(f"parameter {name[:80]!r} is unknown; leave it out")


def _shown(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if value}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
