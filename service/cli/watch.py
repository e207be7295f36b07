"""Follows a job to its end: server-sent events where the server sends them, polling wherever that breaks off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from service.cli.client import ANSWER_SECONDS, Client, Document, url_path
from service.cli.exit_codes import CommandFailed, ExitCode
from service.cli.session import Session
from service.cli.shapes import DEPLOYMENT, JOB, fits
from service.domain.job import FINISHED
from service.errors import NotReady, Stopping

# An event stream that is silent for longer may be dead: polling finds out.
SILENCE_SECONDS = 30.0
POLL_SECONDS = 0.5
# A server that restarts is away for a few seconds; after this many missed polls it counts as gone.
MISSED_POLLS = 20
_LONGEST_LINE_BYTES = 4 * 1024 * 1024

_OUTCOMES = {"succeeded": ExitCode.OK, "rejected": ExitCode.REJECTED, "cancelled": ExitCode.CANCELLED}


def outcome(job: Document) -> ExitCode:
    """The exit code of a finished job."""
    return _OUTCOMES.get(job["state"], ExitCode.FAILED)


def error_text(job: Document) -> str | None:
    """Why the job failed, in the server's words; None where it did not."""
    error = job.get("error")
    return str(error.get("error") or error) if isinstance(error, dict) else error


def job_changes(client: Client, job_id: str, pause: Callable[[float], None] = time.sleep) -> Iterator[Document]:
    """The job as it is now and after each change; the last one is finished.

    Raises CommandFailed where there is no such job, and where the server stays away.
    """
    job = fetch_job(client, job_id)
    yield job
    if job["state"] in FINISHED:
        return
    # Whatever ends the stream early (a proxy, a restart, an old server), polling carries on.
    with suppress(CommandFailed, ValueError):
        for job in _streamed(client, job_id):
            yield job
            if job["state"] in FINISHED:
                return
    yield from _polled(client, job_id, pause)


def follow(session: Session, job_id: str) -> Document:
    """The finished job, with its stages shown on stderr meanwhile where that is a terminal."""
    job: Document = {}
    with session.terminal.job_progress() as progress:
        bar = progress.add_task("queued", total=1.0)
        try:
            for job in job_changes(session.client, job_id):
                progress.update(bar, completed=job.get("progress") or 0.0, description=_doing(job))
        except KeyboardInterrupt:
            session.terminal.note(f"the job goes on; `octavo jobs {job_id} --watch` follows it, --cancel stops it")
            raise
    return job


def follow_deployment(client: Client, model: str, pause: Callable[[float], None] = time.sleep) -> Document:
    """The deployment, once the server answers by it. Raises CommandFailed with what keeps it from that.

    A load may take minutes; one that takes longer than an answer may is given up.
    """
    path = url_path("models", model, "deployment")
    missed, deadline = 0, time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            served: Document = client.fetch("GET", path, DEPLOYMENT, params={"wait": "true"})
        except CommandFailed as failure:
            loading = failure.code in (NotReady.code, Stopping.code)
            missed = 0 if loading else missed + 1
            away = failure.exit_code is ExitCode.UNREACHABLE and missed <= MISSED_POLLS
            if not (loading or away) or time.monotonic() > deadline:
                raise
        else:
            return served
        pause(POLL_SECONDS)


def fetch_job(client: Client, job_id: str) -> Document:
    """The job as `GET /jobs/{id}` gives it."""
    job: Document = client.fetch("GET", url_path("jobs", job_id), JOB)
    return job


def _streamed(client: Client, job_id: str) -> Iterator[Document]:
    import httpx

    timeout = httpx.Timeout(SILENCE_SECONDS, connect=SILENCE_SECONDS)
    headers = {"Accept": "text/event-stream"}
    with client.stream("GET", url_path("jobs", job_id, "events"), headers=headers, timeout=timeout) as response:
        for data in event_data(response.iter_bytes()):
            job = json.loads(data)
            if fits(job, JOB):
                yield job


def event_data(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The `data` of each server-sent event, however the bytes are cut; comments and other fields are passed over.

    Lines end at a line feed only, because JSON text may hold the other Unicode line ends. Raises ValueError for a
    line beyond 4 MiB.
    """
    buffer = b""
    data: list[bytes] = []
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > _LONGEST_LINE_BYTES:
            raise ValueError(f"an event line exceeds {_LONGEST_LINE_BYTES} bytes")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data.clear()


def _polled(client: Client, job_id: str, pause: Callable[[float], None]) -> Iterator[Document]:
    last: Document | None = None
    missed = 0
    while last is None or last["state"] not in FINISHED:
        try:
            job = fetch_job(client, job_id)
            missed = 0
        except CommandFailed as failure:
            missed += 1
            if failure.exit_code is not ExitCode.UNREACHABLE or missed > MISSED_POLLS:
                raise
        else:
            if job != last:
                yield job
            last = job
            if job["state"] in FINISHED:
                return
        pause(POLL_SECONDS)


def _doing(job: Document) -> str:
    attempt = job.get("attempt") or 1
    again = f" (attempt {attempt})" if attempt > 1 else ""
    return f"{job.get('stage') or job['state']}{again}"
