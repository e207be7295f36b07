"""What operators read: metrics in Prometheus' text, and a count of every answer outside inference."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.dependencies import ServicesDependency
from service.api.schemas import content
from service.domain.job import STATES
from service.errors import OctavoError
from service.jobs.queue import JobQueue
from service.metrics import HTTP_REQUESTS, JOB_SECONDS_BUCKETS

router = APIRouter(tags=["operations"])

_log = logging.getLogger(__name__)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_KIND = "quantize"


@router.get("/metrics", response_class=Response, responses=content("text/plain", "Prometheus' text format."))
async def read_metrics(services: ServicesDependency) -> Response:
    """Every metric of this server, and the jobs of the whole installation, in Prometheus' text."""
    text = await services.metrics() + await run_sync(_job_metrics, services.jobs)
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


class JobMetrics(Collector):
    """Job counts and durations, read from the jobs' rows at each scrape: every server answers the same."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Raises Unavailable when the database does not answer."""
        counts = {(_KIND, state): 0 for state in STATES} | self._jobs.counts()
        gauge = GaugeMetricFamily("octavo_jobs", "Jobs by kind and state.", labels=("kind", "state"))
        for labels, number in counts.items():
            gauge.add_metric(labels, number)
        histogram = HistogramMetricFamily(
            "octavo_job_duration_seconds", "Finished jobs, from first start to end.", labels=("kind", "state")
        )
        for labels, (under, number, total) in self._jobs.durations(JOB_SECONDS_BUCKETS).items():
            bounds = zip(map(str, JOB_SECONDS_BUCKETS), under, strict=True)
            histogram.add_metric(labels, [*bounds, ("+Inf", number)], total)
        yield gauge
        yield histogram


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


def _job_metrics(jobs: JobQueue) -> bytes:
    try:
        return generate_latest(JobMetrics(jobs))
    except OctavoError as error:
        # A scrape in an outage of the database is when this server's own figures are wanted most.
        _log.warning("job metrics left out", extra={"error": str(error)})
        return b""


def _is_inference(path: str) -> bool:
    return path.startswith("/v2") or path.endswith("/predict")
