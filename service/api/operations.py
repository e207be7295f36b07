"""What operators read: metrics in Prometheus' text, and a count of every answer outside inference."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.dependencies import ServicesDependency
from service.api.schemas import content
from service.metrics import HTTP_REQUESTS

router = APIRouter(tags=["operations"])

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@router.get("/metrics", response_class=Response, responses=content("text/plain", "Prometheus' text format."))
async def read_metrics(services: ServicesDependency) -> Response:
    """Every metric of this server, and the jobs of the whole installation, in Prometheus' text."""
    text = await services.metrics() + await services.job_scrapes.text(services.jobs)
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


class CountRequests:
    """Counts every answer but those to inference requests, which the router counts itself at less cost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_inference(scope["path"]):
            return await self._app(scope, receive, send)

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                # The template, never the path itself: callers choose paths, and each label value costs memory.
                path = getattr(scope.get("route"), "path", "unmatched")
                HTTP_REQUESTS.labels(method, path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted_send)


def _is_inference(path: str) -> bool:
    return path.startswith("/v2") or path.endswith("/predict")
