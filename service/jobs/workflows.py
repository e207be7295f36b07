"""The quantization job: stages in order, each a durable step, so a killed worker resumes at the last finished one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dbos import DBOS
from dbos._error import DBOSMaxStepRetriesExceeded  # not exported elsewhere

from service.domain.job import STAGES, Job, Stage
from service.domain.limits import StageLimits
from service.domain.recipe import QuantizeRequest
from service.engines.fingerprint import host_fingerprint
from service.errors import JobCancelled, NotFound, OctavoError, StageFailed
from service.jobs.job_folders import JobFolders
from service.jobs.known_calibration import KnownCalibration
from service.jobs.known_timings import KnownTimings
from service.jobs.left_out import run_leaving_out
from service.jobs.patience import PatientRows, until_answered
from service.jobs.progress import StageProgress
from service.jobs.publication import Publication
from service.jobs.retry import FIRST_WAIT_SECONDS, MAX_TRIES, WAIT_GROWTH, is_worth_retrying
from service.jobs.stage_files import StageFiles
from service.logs import log_context
from service.quantization.kept_files import LAYOUT
from service.quantization.sandbox.parent import run_in_sandbox
from service.quantization.task import PipelineTask
from service.registry.blobs import Blobs, content_key
from service.registry.calibrations import StoredCalibrations, calibration_key
from service.registry.database import translated_errors

# A worker that dies this often in one job dies of the job.
MAX_ATTEMPTS = 20
_PIPELINE = "service.quantization.pipeline:run_stage"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a job needs of its worker. `folder` holds the jobs' files on this host; `confirm` raises where the job is
    another worker's by now.
    """

    rows: PatientRows
    blobs: Blobs
    publication: Publication
    folder: Path
    threads: int
    limits: StageLimits
    confirm: Callable[[], None]


class QuantizationWorkflow:
    """Runs jobs by id. Its decisions depend only on recorded results, as a durable workflow's must."""

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._folders = JobFolders(parts.folder)

    def run(self, job_id: str) -> None:
        """Takes the job to its end; every failure of a stage ends in the job's row, not in an exception."""
        with log_context(job=job_id):
            job = self._parts.rows.begin(job_id)
            if job.finished:
                # A worker that died between a job's end and its files left them.
                self._drop_files(job_id)
                return
            try:
                with self._folders.opened(job_id, job.attempt) as folder:
                    state, result = self._run_stages(job, StageFiles(self._parts.blobs, folder, job_id))
                self._parts.rows.finish(job, state, result=result)
            except JobCancelled:
                self._parts.rows.finish(job, "cancelled")
            except Exception as error:  # noqa: BLE001
                # Whatever a stage raises, the caller must see the job end.
                self._fail(job, error)
            self._end(job_id)

    def _run_stages(self, job: Job, files: StageFiles) -> tuple[str, dict[str, Any]]:
        if job.attempt > MAX_ATTEMPTS:
            raise StageFailed(
                f"the worker died {MAX_ATTEMPTS} times in this job, last in stage {job.stage}; "
                "see the worker's log, and lower OCTAVO_STAGE_MEMORY_BYTES if the host ran out of memory"
            )
        summaries: dict[str, dict[str, Any]] = {}
        for stage in STAGES[:-1]:
            summaries[stage] = _durable(stage, partial(self._run_stage, job, files, stage, dict(summaries)))
        outcome = _durable("publish", partial(self._publish, job, files, summaries))
        return outcome["state"], outcome["result"]

    def _run_stage(self, job: Job, files: StageFiles, stage: str, earlier: dict[str, dict[str, Any]]) -> dict[str, Any]:
        parts, progress = self._parts, StageProgress(self._parts.rows, job, stage)
        started = time.monotonic()
        parts.rows.set_stage(job, Stage(stage, "running"), progress.total(0.0))
        try:
            files.bring(_files_of(earlier))
            known = self._known_calibration(job, files, earlier) if stage == "calibrate" else None
            timings = KnownTimings(parts.blobs, files, host_fingerprint()) if stage == "build" else None
            for lent in (known, timings):
                if lent is not None:
                    lent.bring()
            summary = run_leaving_out(
                self._task(job, files.folder),
                lambda task: run_in_sandbox(
                    _PIPELINE,
                    {"stage": stage, "task": task.to_json()},
                    limits=parts.limits,
                    on_progress=progress,
                    is_cancelled=lambda: parts.rows.is_cancel_requested(job.id),
                ),
            )
            # Another worker's copies of the same files must not be overwritten.
            until_answered(parts.confirm)
            files.keep(summary.get("files", []))
            for lent in (known, timings):
                if lent is not None:
                    lent.keep(summary)
        except Exception as error:
            state = "cancelled" if isinstance(error, JobCancelled) else "failed"
            parts.rows.set_stage(job, Stage(stage, state, time.monotonic() - started), progress.total(0.0))
            raise
        state = "skipped" if summary.get("skipped") else "done"
        parts.rows.set_stage(job, Stage(stage, state, time.monotonic() - started), progress.total(1.0))
        return summary

    def _known_calibration(
        self, job: Job, files: StageFiles, earlier: dict[str, dict[str, Any]]
    ) -> KnownCalibration | None:
        """The stored calibration of the job's model and rows, where its precision needs one."""
        request = QuantizeRequest.from_json(job.request)
        rows = request.calibration_sha256 or request.validation_sha256
        if rows is None or request.recipe.precision == "fp32":
            return None
        graph = earlier["inspect"].get("graph_digest")
        how = {"graph": graph, "rows": request.recipe.calibration.rows, "layout": LAYOUT}
        key = calibration_key(request.model_sha256, rows, how)
        return KnownCalibration(StoredCalibrations(self._parts.blobs), files, key)

    def _publish(self, job: Job, files: StageFiles, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        rows, started = self._parts.rows, time.monotonic()
        # What another worker has published, somebody may have deployed otherwise since.
        until_answered(self._parts.confirm)
        if rows.is_cancel_requested(job.id):
            raise JobCancelled("cancelled before publication")
        progress = StageProgress(rows, job, "publish")
        rows.set_stage(job, Stage("publish", "running"), progress.total(0.0))
        files.bring(_files_of(summaries))
        outcome = self._parts.publication.publish(job, summaries["gate"], files.folder)
        rows.set_stage(job, Stage("publish", "done", time.monotonic() - started), progress.total(1.0))
        return outcome

    def _task(self, job: Job, folder: Path) -> PipelineTask:
        request = QuantizeRequest.from_json(job.request)
        return PipelineTask(
            folder=folder,
            model=self._parts.blobs.fetch(content_key(request.model_sha256)),
            recipe=request.recipe,
            budget=request.budget,
            calibration=self._rows(request.calibration, request.calibration_sha256),
            validation=self._rows(request.validation, request.validation_sha256),
            threads=self._parts.threads,
        )

    def _rows(self, name: str | None, sha256: str | None) -> Path | None:
        """The rows that the job was asked for, whatever the dataset's name means by now."""
        if sha256 is None:
            return None
        try:
            return self._parts.blobs.fetch(content_key(sha256))
        except NotFound as error:
            raise NotFound(
                f"the rows of dataset {name!r} that this job was asked for (SHA-256 {sha256}) are no longer stored; "
                "upload them again with POST /datasets, and send the job's request again"
            ) from error

    def _end(self, job_id: str) -> None:
        job = self._parts.rows.find(job_id)
        if job.finished:
            _log.info("job ended", extra={"state": job.state})
            self._drop_files(job_id)
        else:
            _log.warning("another worker has begun this job anew; this attempt at it ends without a word")

    def _drop_files(self, job_id: str) -> None:
        try:
            StageFiles(self._parts.blobs, self._parts.folder, job_id).drop()
            self.drop_folders_of_ended_jobs()
        except OctavoError as error:
            _log.warning("files of an ended job are left", extra={"reason": str(error)})

    def drop_folders_of_ended_jobs(self) -> None:
        """Also those of jobs that ended with another worker. Raises Unavailable."""
        for job_id in self._folders.jobs():
            if self._has_ended(job_id):
                self._folders.drop(job_id)

    def _has_ended(self, job_id: str) -> bool:
        try:
            return self._parts.rows.find(job_id).finished
        except NotFound:
            # Jobs are never forgotten, so this folder is none of ours.
            return False

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, OctavoError):
            code, message = error.code, str(error)
            _log.warning("job failed", extra={"code": code, "reason": message})
        else:
            # Its words may hold what is no caller's business, such as statements to the database.
            code, message = "internal", f"{type(error).__name__}: this is a bug; the worker's log tells more"
            _log.error("job failed", exc_info=error)
        self._parts.rows.finish(job, "failed", error={"error": message, "code": code})


def _files_of(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """What the stages have written so far, in their order."""
    return [name for summary in summaries.values() for name in summary.get("files", [])]


def _durable(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        # The record of a finished step may fail as well, where the disk is full: no bug, and no retry of the step.
        with translated_errors():
            return DBOS.run_step(
                {
                    "name": name,
                    "retries_allowed": True,
                    "max_attempts": MAX_TRIES,
                    "interval_seconds": FIRST_WAIT_SECONDS,
                    "backoff_rate": WAIT_GROWTH,
                    "should_retry": is_worth_retrying,
                },
                partial(until_answered, work),
            )
    except DBOSMaxStepRetriesExceeded as error:
        # The last try's own error says more than the count of tries.
        raise error.errors[-1] from error
