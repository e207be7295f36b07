"""Quantization jobs over HTTP, as the benchmarks post, await and cancel them."""

from __future__ import annotations

from typing import Any

from benchmarks.errors import CannotMeasure
from benchmarks.octavo import Server, accept, wait_until

_ENDED = ("succeeded", "rejected", "failed", "cancelled")
_JOB_SECONDS = 3600.0


def post_job(server: Server, model: str, recipe: dict[str, Any], metric: str, max_loss: float = 1.0) -> str:
    """Posts an INT8 job on `model` and its datasets `MODEL-calibration` and `MODEL-validation`; returns its id.

    The budget is wide open unless told: the work is measured here, and all of it must be done.
    """
    body = {
        "model": model,
        "recipe": {"precision": "int8"} | recipe,
        "calibration": f"{model}-calibration",
        "validation": f"{model}-validation",
        "budget": {"metric": metric, "max_loss": max_loss},
        "deploy": "none",
    }
    answer = accept(server.client.post("/quantize", json=body))
    if answer.status_code != 202:
        raise CannotMeasure(f"the job of recipe {recipe} exists already; every measured job must be a new one")
    return str(answer.json()["id"])


def read_job(server: Server, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = accept(server.client.get(f"/jobs/{job_id}")).json()
    return job


def wait_for_end(server: Server, job_id: str, seconds: float = _JOB_SECONDS) -> dict[str, Any]:
    """The job as it ended, whichever way. Raises CannotMeasure after `seconds`."""
    ended = wait_until(lambda: _ended(server, job_id), f"job {job_id} to end", seconds, every=0.1)
    assert ended is not None
    return ended


def cancel_job(server: Server, job_id: str) -> None:
    """Cancels what has not ended, and waits until it has. Raises CannotMeasure when it had failed by itself."""
    if not _ended(server, job_id):
        answer = server.client.delete(f"/jobs/{job_id}")
        if answer.status_code != 409:
            accept(answer)
    job = wait_for_end(server, job_id)
    if job["state"] == "failed":
        raise CannotMeasure(f"job {job_id} failed, so it was no load: {job['error']}")


def _ended(server: Server, job_id: str) -> dict[str, Any] | None:
    job = read_job(server, job_id)
    return job if job["state"] in _ENDED else None
