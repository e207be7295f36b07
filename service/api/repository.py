"""The v2 protocol's view of the model repository. Refuses loading and unloading: deployments decide what is served."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request

from service.api.request_body import body_chunks
from service.api.schemas import errors
from service.errors import InputTooLarge, InvalidInput, Unsupported
from service.router.model_state import READY
from service.router.router import Router

_MAX_BODY_BYTES = 64 * 1024


def repository_router(router: Router) -> APIRouter:
    routes = APIRouter(prefix="/v2/repository", tags=["inference"])

    @routes.post("/index", summary="Every model version that answers or should", responses=errors(400, 413))
    async def read_index(request: Request) -> list[dict[str, Any]]:
        return repository_index(router, _wants_ready_only(await _read(request)))

    @routes.post("/models/{model}/load", summary="Not offered", include_in_schema=False)
    @routes.post("/models/{model}/unload", summary="Not offered", include_in_schema=False)
    async def refuse_load(model: str) -> None:
        raise load_refused(model)

    return routes


def repository_index(router: Router, only_ready: bool) -> list[dict[str, Any]]:
    lines = [line for line in router.statuses() if line.state == READY or not only_ready]
    return [
        {"name": line.name, "version": str(line.version), "state": line.state}
        | ({"reason": line.reason} if line.reason else {})
        for line in lines
    ]


def load_refused(model: str) -> Unsupported:
    return Unsupported(
        "explicit model load / unload is not allowed: models are served as deployed; "
        f"change that with PUT /models/{model[:80]}/deployment"
    )


async def _read(request: Request) -> bytes:
    """The body, which clients leave empty or send without saying that it is JSON."""
    body = b""
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InputTooLarge(f"the body has over {_MAX_BODY_BYTES} bytes; send {{}} or {{'ready': true}}")
    return body


def _wants_ready_only(body: bytes) -> bool:
    if not body.strip():
        return False
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; send {{}} or {{'ready': true}}") from error
    ready = value.get("ready", False) if isinstance(value, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInput(f"'ready' is {ready!r:.80}; send true, false, or no body")
    return ready
