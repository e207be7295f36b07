"""Jobs over HTTP: list, read, cancel, follow as server-sent events, and read the report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import urlencode

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from service.api.dependencies import Services, ServicesDependency
from service.api.schemas import JobBody, JobsBody, JobState, Responses, content, errors
from service.api.schemas_requests import JobId, ModelName
from service.errors import NotFound, OctavoError

router = APIRouter(tags=["jobs"])

POLL_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 15.0
MAX_PAGE = 200
_log = logging.getLogger(__name__)
# The report shows names that callers chose: nothing in it may load or send anything.
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def _report(media_type: str) -> Responses:
    return content(media_type, "The report.") | errors(404, 422, 503)


Before = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9-]{1,64}$", description="Id of the last job seen.")]


@router.get("/jobs", responses=errors(404, 422, 503))
def list_jobs(
    services: ServicesDependency,
    model: ModelName | None = None,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    before: Before = None,
) -> JobsBody:
    """Jobs, newest first; `next` leads to the next page."""
    # One more than asked for tells whether there is a next page.
    found = services.jobs.list(model=model, state=state, limit=limit + 1, before=before)
    page, more = found[:limit], len(found) > limit
    filters = {"model": model, "state": state, "limit": limit, "before": page[-1].id if page else None}
    query = urlencode({name: value for name, value in filters.items() if value is not None})
    return JobsBody(jobs=[JobBody.of(job) for job in page], next=f"/jobs?{query}" if more else None)


@router.get("/jobs/{job_id}", responses=errors(404, 422, 503))
def read_job(job_id: JobId, services: ServicesDependency) -> JobBody:
    """One job as it stands."""
    return JobBody.of(services.jobs.find(job_id))


@router.delete("/jobs/{job_id}", status_code=202, responses=errors(404, 409, 422, 503))
def cancel_job(job_id: JobId, services: ServicesDependency) -> JobBody:
    """Cancels a job: a queued one at once, a running one at its worker's next look."""
    return JobBody.of(services.jobs.cancel(job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses=content("text/event-stream", "`event: job` with the job, at each change.") | errors(404, 422, 503),
)
async def follow_job(job_id: JobId, services: ServicesDependency) -> StreamingResponse:
    """The job at once and at each change, until it has finished."""
    first = JobBody.of(await run_sync(services.jobs.find, job_id))
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(services, first), media_type="text/event-stream", headers=headers)


@router.get("/jobs/{job_id}/report", response_class=Response, responses=_report("application/json"))
def read_report(job_id: JobId, services: ServicesDependency) -> Response:
    """Every figure of the reference and the engine, with the host's fingerprint."""
    return Response(_report_bytes(services, job_id, "report.json"), media_type="application/json")


@router.get("/jobs/{job_id}/report.html", response_class=Response, responses=_report("text/html"))
def read_report_page(job_id: JobId, services: ServicesDependency) -> Response:
    """The report as a page with plots."""
    page = _report_bytes(services, job_id, "report.html")
    return Response(page, media_type="text/html", headers={"content-security-policy": _PAGE_POLICY})


def _report_bytes(services: Services, job_id: str, file: str) -> bytes:
    job = services.jobs.find(job_id)
    try:
        return services.blobs.read_bytes(f"jobs/{job_id}/{file}")
    except NotFound as error:
        step = "see its error" if job.finished else "wait until it has finished"
        raise NotFound(f"job {job_id} is {job.state} and has no {file}; {step}: GET /jobs/{job_id}") from error


async def _events(services: Services, first: JobBody) -> AsyncIterator[str]:
    body = first
    yield _event(body)
    spoken = time.monotonic()
    while body.finished_at is None and not services.stopping():
        await asyncio.sleep(POLL_SECONDS)
        try:
            found = JobBody.of(await run_sync(services.jobs.find, body.id))
        except OctavoError as error:
            # The status is sent already: the stream can only end, and its reader comes back or polls.
            _log.warning("event stream ended", extra={"job": body.id, "error": str(error)})
            return
        if found != body:
            body, spoken = found, time.monotonic()
            yield _event(body)
        elif time.monotonic() - spoken >= KEEP_ALIVE_SECONDS:
            spoken = time.monotonic()
            yield ": still here\n\n"


def _event(body: JobBody) -> str:
    return f"event: job\ndata: {body.model_dump_json()}\n\n"
