"""Paths of the v2 protocol that lead nowhere here: each is answered 501, with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from service.errors import Unsupported

_SHARED_MEMORY = (
    "shared memory is not offered: it lets a caller read and write memory of the server's host; "
    "send tensors in the request's body, as binary data"
)
_GENERATE = "generate is not offered: models here give tensors for tensors; send the request to the model's infer path"
_REPOSITORY = "there is one repository, without a name; leave the name out of the path"
_REGIONS = tuple(f"/{kind}sharedmemory" for kind in ("system", "cuda"))
_PATHS = (
    *(("GET", f"{kind}{path}", _SHARED_MEMORY) for kind in _REGIONS for path in ("/status", "/region/{region}/status")),
    *(
        ("POST", f"{kind}{path}", _SHARED_MEMORY)
        for kind in _REGIONS
        for path in ("/region/{region}/register", "/region/{region}/unregister", "/unregister")
    ),
    *(
        ("POST", f"/models/{{model}}{version}/{path}", _GENERATE)
        for version in ("", "/versions/{version}")
        for path in ("generate", "generate_stream")
    ),
    ("POST", "/repository/{repository}/index", _REPOSITORY),
    ("POST", "/repository/{repository}/models/{model}/load", _REPOSITORY),
    ("POST", "/repository/{repository}/models/{model}/unload", _REPOSITORY),
)


def refused_router() -> APIRouter:
    """None of these is in the document: there is nothing to call."""
    routes = APIRouter(prefix="/v2", include_in_schema=False)
    for method, path, reason in _PATHS:
        routes.add_api_route(path, _refusal(reason), methods=[method])
    return routes


def _refusal(reason: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise Unsupported(reason)

    return refuse
