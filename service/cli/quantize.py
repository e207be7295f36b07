"""`octavo quantize`: asks for one build, waits for it unless told not to, and shows what it measured."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import typer

from service.cli import quantize_options as options
from service.cli.asked_deployment import why_not_as_asked
from service.cli.client import Document, answered, url_path
from service.cli.exit_codes import CommandFailed, ExitCode, epilog
from service.cli.jobs import show_job
from service.cli.report_view import report_view
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, Session, session
from service.cli.shapes import INDEX, JOB, REPORT
from service.cli.watch import follow, follow_deployment, outcome

QUANTIZE_EPILOG = epilog(
    "octavo quantize digits --calibration digits-calibration --validation digits-validation --max-loss 0.01",
    "octavo quantize net --calibration c --validation v --min-speedup 1.2 --deploy promote",
    "octavo quantize digits --precision fp16 --validation digits-validation --deploy canary",
    "octavo quantize net --calibration c --validation v --keep-float '/head/*' --keep-float op:Softmax --no-wait",
)


def quantize(
    model: Annotated[str, typer.Argument(help="Name of an uploaded model.")],
    version: Annotated[int | None, typer.Option(min=1, help="Its version. Default: the newest.")] = None,
    precision: options.Precision = None,
    runtime: options.Runtime = None,
    scheme: options.Scheme = None,
    granularity: options.Granularity = None,
    around: options.Around = None,
    weights: options.Weights = None,
    sparsity: options.Sparsity = None,
    keep_float: options.KeepFloat = None,
    calibration: options.CalibrationSet = None,
    method: options.Method = None,
    rows: options.CalibrationRows = None,
    percentile: options.Percentile = None,
    batch_min: options.BatchMin = None,
    batch_opt: options.BatchOpt = None,
    batch_max: options.BatchMax = None,
    validation: options.ValidationSet = None,
    metric: options.Metric = None,
    max_loss: options.MaxLoss = None,
    min_speedup: options.MinSpeedup = None,
    deploy: options.DeployMode = None,
    wait: Annotated[bool, typer.Option(help="Wait for the result, or print the job and leave.")] = True,
    idempotency_key: options.IdempotencyKey = None,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Build an engine of a model and prove it on the server; --json prints the finished job."""
    recipe: Document = {"precision": precision, "runtime": runtime, "scheme": scheme, "granularity": granularity}
    recipe |= {
        "around": around,
        "weights": weights,
        "sparsity": sparsity,
        "calibration": _given({"method": method, "rows": rows, "percentile": percentile}),
        "keep_float": keep_float,
        "batch": _given({"min": batch_min, "opt": batch_opt, "max": batch_max}),
    }
    budget = {"metric": metric, "max_loss": max_loss, "min_speedup": min_speedup}
    named = {"model": model, "version": version, "calibration": calibration, "validation": validation}
    body = _given(named | {"recipe": _given(recipe), "budget": _given(budget), "deploy": deploy})
    with session(url, as_json) as current:
        job = request_build(current, body, idempotency_key)
        if wait:
            job = follow(current, job["id"])
            show_outcome(current, job)
            if deploy is not None and deploy != "none":
                await_deployment(current, job, deploy)
        else:
            show_job(current, job)


def request_build(current: Session, body: Document, idempotency_key: str | None = None) -> Document:
    """The job of `POST /quantize`; a note says so where the same request was made before."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
    response = current.client.send("POST", "/quantize", json=body, headers=headers)
    job: Document = answered(response, JOB)
    if response.status_code == HTTPStatus.OK:
        current.terminal.note(f"the same request was made before: it is job {job['id']}")
    return job


def show_outcome(current: Session, job: Document) -> None:
    """A finished job with its figures; ends the command with the job's exit code unless it succeeded."""
    show_job(current, job)
    code = outcome(job)
    if not current.terminal.as_json and code in (ExitCode.OK, ExitCode.REJECTED):
        report: Document = current.client.fetch("GET", url_path("jobs", job["id"], "report"), REPORT)
        current.terminal.out.print(report_view(report))
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def await_deployment(current: Session, job: Document, mode: str) -> None:
    """Returns once the server answers by what a shown job deployed: whoever calls next must meet the new engine.

    Ends the command where it was not deployed, is deployed no longer or cannot be loaded, with the reason on stderr:
    stdout has the job.
    """
    refused = (job.get("result") or {}).get("deployment_error")
    if refused:
        current.terminal.note(f"the engine is built and not deployed: {refused['error']}")
        raise typer.Exit(ExitCode.FAILED)
    try:
        deployment = follow_deployment(current.client, job["model"])
        other = why_not_as_asked(deployment, job, mode)
        reason = "" if other else _why_another_answers(current, job["model"])
    except CommandFailed as failure:
        current.terminal.note(
            f"what the job deployed does not answer: {failure}. It stays on record, and the server tries it again; "
            f"`octavo deploy {job['model']} --rollback` goes back"
        )
        raise typer.Exit(failure.exit_code) from failure
    if other:
        current.terminal.note(f"what the job built is not deployed as asked: {other}")
        raise typer.Exit(ExitCode.FAILED)
    if reason:
        current.terminal.note(f"what the job deployed does not answer: {reason}")
        raise typer.Exit(ExitCode.FAILED)


def _why_another_answers(current: Session, model: str) -> str:
    """In the words of the repository index, which has none where all is as deployed."""
    index = current.client.fetch("POST", "/v2/repository/index", INDEX, json={"ready": True})
    return "; ".join(line["reason"] for line in index if line["name"] == model and line.get("reason"))


def _given(values: Mapping[str, Any]) -> Document:
    """Only what the user gave: the server's defaults stand for the rest."""
    return {name: value for name, value in values.items() if value not in (None, {}, [])}
