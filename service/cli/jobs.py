"""`octavo jobs`: lists jobs, shows one, follows it or cancels it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.client import Client, Document, url_path
from service.cli.exit_codes import ExitCode, epilog
from service.cli.figures import facts_table, percent_text, rows_table
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, Session, session
from service.cli.shapes import JOBS
from service.cli.watch import error_text, fetch_job, follow, outcome
from service.domain.job import STATES

if TYPE_CHECKING:
    from rich.console import RenderableType

JOBS_EPILOG = epilog(
    "octavo jobs --model digits --state running",
    "octavo jobs $JOB --watch && octavo deploy digits int8-onnxruntime",
    "octavo jobs $JOB --cancel",
)


def jobs(
    job_id: Annotated[str | None, typer.Argument(metavar="ID", help="One job; all jobs without it.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only jobs in this state: {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List so many at most, newest first.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end, and exit as it ended.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask the job to stop.")] = False,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List jobs, or show, follow or cancel one."""
    if job_id is None and (watch or cancel):
        raise typer.BadParameter("--watch and --cancel need a job's id; `octavo jobs` lists them")
    if job_id is not None and (model or state):
        raise typer.BadParameter("--model and --state choose among all jobs; leave out the id, or leave out them")
    with session(url, as_json) as current:
        if job_id is None:
            filters = {key: value for key, value in (("model", model), ("state", state)) if value}
            page = _newest(current.client, filters, limit)
            current.terminal.show(page, lambda: _list_view(page["jobs"]))
        else:
            _one(current, job_id, watch=watch, cancel=cancel)


def show_job(current: Session, job: Document) -> None:
    """Prints one job: its state, its stages with their seconds, and its error."""
    current.terminal.show(job, lambda: _job_view(job))


def _one(current: Session, job_id: str, *, watch: bool, cancel: bool) -> None:
    if cancel:
        current.client.send("DELETE", url_path("jobs", job_id))
    job = follow(current, job_id) if watch else fetch_job(current.client, job_id)
    show_job(current, job)
    code = outcome(job) if watch else ExitCode.OK
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _newest(client: Client, filters: dict[str, str], limit: int) -> Document:
    """The first `limit` jobs as one page, from as many of the server's pages as it takes."""
    page: Document = client.fetch("GET", "/jobs", JOBS, params=filters)
    found: list[Document] = page["jobs"]
    while page.get("next") and len(found) < limit:
        page = client.fetch("GET", page["next"], JOBS)
        found += page["jobs"]
    return {"jobs": found[:limit], "next": page.get("next")}


def _list_view(listed: list[Document]) -> RenderableType:
    columns = ("job", "model", "version", "state", "stage", "progress", "created")
    return rows_table(
        columns,
        (
            (job["id"], job["model"], job["version"], job["state"], job.get("stage"), percent_text(job.get("progress")),
             job.get("created_at"))
            for job in listed
        ),
    )  # fmt: skip


def _job_view(job: Document) -> RenderableType:
    stages = " · ".join(_stage_text(stage) for stage in job.get("stages") or () if stage.get("state") != "pending")
    result = job.get("result") or {}
    certificate = result.get("certificate") or {}
    return facts_table(
        {
            "job": job["id"],
            "model": f"{job['model']} version {job['version']}",
            "state": job["state"],
            "stages": stages,
            "variant": result.get("variant"),
            "verdict": certificate.get("verdict"),
            "reason": certificate.get("reason"),
            "not deployed": (result.get("deployment_error") or {}).get("error"),
            "error": error_text(job),
        }
    )


def _stage_text(stage: Document) -> str:
    seconds = stage.get("seconds")
    return f"{stage['name']} {stage['state'] if seconds is None else f'{seconds:.1f} s'}"
