"""What a worker promises while the database is away: it waits, and every job still comes to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.domain.job import Job, Stage
from service.domain.limits import StageLimits
from service.errors import NotFound, StoreUnavailable, Unavailable
from service.jobs.patience import PatientRows, until_answered
from service.jobs.publication import Publication
from service.jobs.queue import JobQueue
from service.jobs.stage_files import StageFiles
from service.jobs.workflows import MAX_ATTEMPTS, QuantizationWorkflow, WorkerParts
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.jobs import JobRegistry
from tests.samples import quantize_request


class AwayAtFirst(JobRegistry):
    """The registry over a database that is away at the first `outages` calls of each method."""

    def __init__(self, database: Database, outages: int) -> None:
        super().__init__(database)
        self._outages = outages
        self._calls: dict[str, int] = {}

    def _away(self, method: str) -> None:
        self._calls[method] = self._calls.get(method, 0) + 1
        if self._calls[method] <= self._outages:
            raise Unavailable("the database did not answer")

    def begin(self, job_id: str) -> Job:
        self._away("begin")
        return super().begin(job_id)

    def set_stage(self, *arguments: Any, **named: Any) -> None:
        self._away("set_stage")
        super().set_stage(*arguments, **named)

    def set_progress(self, *arguments: Any, **named: Any) -> None:
        self._away("set_progress")
        super().set_progress(*arguments, **named)

    def is_cancel_requested(self, job_id: str) -> bool:
        self._away("is_cancel_requested")
        return super().is_cancel_requested(job_id)

    def finish(self, *arguments: Any, **named: Any) -> None:
        self._away("finish")
        super().finish(*arguments, **named)


def _failing(errors: list[Exception], answer: str) -> Callable[[], str]:
    def work() -> str:
        if errors:
            raise errors.pop(0)
        return answer

    return work


def test_an_outage_is_waited_out_with_growing_pauses() -> None:
    pauses: list[float] = []
    errors: list[Exception] = [Unavailable("away") for _ in range(8)]
    assert until_answered(_failing(errors, "answer"), pauses.append) == "answer"
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


@pytest.mark.parametrize("error", [StoreUnavailable("store"), NotFound("gone"), ValueError("wrong")])
def test_what_is_no_outage_of_the_database_is_raised_at_once(error: Exception) -> None:
    with pytest.raises(type(error)):
        until_answered(_failing([error], "answer"), lambda _: pytest.fail("it waited"))


def test_progress_and_cancellation_do_without_the_database(database: Database) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    rows = PatientRows(AwayAtFirst(database, 1), lambda _: pytest.fail("it waited"))
    rows.set_progress(job, 0.5)
    assert rows.find(job.id).progress == 0.0
    assert rows.is_cancel_requested(job.id) is False
    rows.set_progress(job, 0.5)
    assert rows.find(job.id).progress == 0.5


def test_a_job_ends_although_the_database_was_away_at_its_start_and_at_its_end(
    database: Database, tmp_path: Path
) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    for _ in range(MAX_ATTEMPTS):
        JobRegistry(database).begin(job.id)
    pauses: list[float] = []
    # One attempt more than a job is given, so it fails before its first stage.
    _workflow(PatientRows(AwayAtFirst(database, 3), pauses.append), database, tmp_path).run(job.id)
    ended = JobRegistry(database).find(job.id)
    assert (ended.state, ended.attempt) == ("failed", MAX_ATTEMPTS + 1)
    assert ended.error is not None
    assert ended.error["code"] == "stage_failed"
    assert pauses == [0.5, 1.0, 2.0] * 2


def test_files_that_a_dead_worker_left_of_an_ended_job_are_dropped_when_it_is_taken_up_again(
    database: Database, tmp_path: Path
) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    rows = PatientRows(JobRegistry(database))
    rows.finish(rows.begin(job.id), "cancelled")
    left, strange = (tmp_path / "work" / name for name in (f"{job.id}.1", "strange"))
    for folder in (left, strange):
        folder.mkdir(parents=True)
        (folder / "calibration.npz").write_bytes(b"seen")
    _workflow(rows, database, tmp_path).run(job.id)
    assert list((tmp_path / "work").iterdir()) == [strange]


def test_folders_of_a_job_that_ended_with_another_worker_are_dropped(database: Database, tmp_path: Path) -> None:
    queue, rows = JobQueue(database, 10), PatientRows(JobRegistry(database))
    ended, unfinished = (queue.submit(quantize_request(precision))[0] for precision in ("int8", "fp16"))
    for job in (ended, unfinished):
        ended = rows.begin(job.id) if job is ended else ended
        (tmp_path / "work" / f"{job.id}.1").mkdir(parents=True)
    rows.finish(ended, "cancelled")
    _workflow(rows, database, tmp_path).drop_folders_of_ended_jobs()
    assert [folder.name for folder in (tmp_path / "work").iterdir()] == [f"{unfinished.id}.1"]


def test_a_stages_end_is_written_once_the_database_is_back(database: Database) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    pauses: list[float] = []
    PatientRows(AwayAtFirst(database, 2), pauses.append).set_stage(job, Stage("build", "done", 1.0), 0.5)
    assert pauses == [0.5, 1.0]
    assert (JobRegistry(database).find(job.id).stage, JobRegistry(database).find(job.id).progress) == ("build", 0.5)


class BegunAnew(PatientRows):
    """Another worker begins every job anew right after this one."""

    def begin(self, job_id: str) -> Job:
        job = super().begin(job_id)
        super().begin(job_id)
        return job


def test_an_attempt_that_another_worker_has_replaced_neither_ends_the_job_nor_drops_its_files(
    database: Database, tmp_path: Path
) -> None:
    job, _ = JobQueue(database, 10).submit(quantize_request())
    for _ in range(MAX_ATTEMPTS):
        JobRegistry(database).begin(job.id)
    kept = tmp_path / "kept"
    kept.write_bytes(b"the other worker's")
    workflow = _workflow(BegunAnew(JobRegistry(database)), database, tmp_path)
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    StageFiles(blobs, tmp_path, job.id).keep(["kept"])
    workflow.run(job.id)
    assert (JobRegistry(database).find(job.id).state, JobRegistry(database).find(job.id).error) == ("running", None)
    kept.unlink()
    StageFiles(blobs, tmp_path, job.id).bring(["kept"])
    assert kept.read_bytes() == b"the other worker's"


def _workflow(rows: PatientRows, database: Database, folder: Path) -> QuantizationWorkflow:
    blobs = Blobs((folder / "store").as_uri(), BlobCache(folder / "cache", 10**9))
    publication = Publication(database, blobs, EngineRegistry(database), DeploymentRegistry(database))
    return QuantizationWorkflow(WorkerParts(rows, blobs, publication, folder / "work", 1, StageLimits(), lambda: None))
