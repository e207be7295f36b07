"""A job reads the rows that it was asked for, whatever the names of its datasets mean by now."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.domain.job import Job
from service.domain.limits import StageLimits
from service.errors import StageFailed
from service.jobs import workflows
from service.jobs.patience import PatientRows
from service.jobs.publication import Publication
from service.jobs.queue import JobQueue
from service.jobs.workflows import QuantizationWorkflow, WorkerParts
from service.quantization.kept_files import CALIBRATION
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs, content_key
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.jobs import JobRegistry
from service.registry.tables import DATASETS
from tests.samples import new_dataset, quantize_request

SEEN = "the stage has seen enough"


class Host:
    """A worker whose stages only note what they were given to read; its jobs end in the third."""

    def __init__(self, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._database = database
        self._folder = folder
        self.blobs = Blobs((folder / "store").as_uri(), BlobCache(folder / "cache", 10**9))
        self.datasets = DatasetRegistry(database)
        self.read: dict[str, bytes] = {}
        monkeypatch.setattr(workflows, "run_in_sandbox", self._note)
        # No stage of these jobs is to outlive a process.
        monkeypatch.setattr(workflows, "_durable", lambda _stage, work: work())

    def _note(self, _stages: str, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
        task = arguments["task"]
        self.read = {name: Path(task[name]).read_bytes() for name in ("calibration", "validation") if task[name]}
        if arguments["stage"] == "inspect":
            return {"graph_digest": "graph"}
        if arguments["stage"] == "calibrate":
            (Path(task["folder"]) / CALIBRATION).write_bytes(b"ranges")
            return {"files": [CALIBRATION]}
        raise StageFailed(SEEN)

    def store(self, content: bytes, name: str | None = None) -> str:
        """The SHA-256 of content that is stored from now on, and is a dataset where it has a name."""
        sha256, source = hashlib.sha256(content).hexdigest(), self._folder / "upload"
        source.write_bytes(content)
        self.blobs.put_file(content_key(sha256), source)
        if name is not None:
            self.datasets.add(replace(new_dataset(name, sha256), blob_key=content_key(sha256)))
        return sha256

    def submit(self, calibration: bytes, validation: bytes | None) -> Job:
        """A job on rows under the names "calibration" and "validation"; without the latter where that is None."""
        request = replace(
            quantize_request(),
            model_sha256=self.store(b"model"),
            calibration="calibration",
            calibration_sha256=self.store(calibration, "calibration"),
            validation=None if validation is None else "validation",
            validation_sha256=None if validation is None else self.store(validation, "validation"),
        )
        return JobQueue(self._database, 10).submit(request)[0]

    def run(self, job: Job) -> str:
        """What the job says at its end."""
        publication = Publication(
            self._database, self.blobs, EngineRegistry(self._database), DeploymentRegistry(self._database)
        )
        rows = PatientRows(JobRegistry(self._database))
        QuantizationWorkflow(
            WorkerParts(rows, self.blobs, publication, self._folder / "work", 1, StageLimits(), lambda: None)
        ).run(job.id)
        error = rows.find(job.id).error
        assert error is not None
        return str(error["error"])


@pytest.fixture
def host(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(database, tmp_path, monkeypatch)


def _forget(database: Database, name: str) -> None:
    """As a deletion in the very moment in which the job was accepted."""
    with database.write() as connection:
        connection.execute(DATASETS.delete().where(DATASETS.c.name == name))


def test_a_name_that_holds_other_rows_by_now_changes_nothing_for_a_job(database: Database, host: Host) -> None:
    job = host.submit(b"calibration rows", b"validation rows")
    for name in ("calibration", "validation"):
        _forget(database, name)
        host.store(b"other rows", name)
    assert host.run(job) == SEEN
    assert host.read == {"calibration": b"calibration rows", "validation": b"validation rows"}


def test_a_job_without_a_validation_set_is_given_none(host: Host) -> None:
    assert host.run(host.submit(b"calibration rows", None)) == SEEN
    assert host.read == {"calibration": b"calibration rows"}


def test_a_job_whose_rows_are_gone_says_which_and_what_to_do(database: Database, host: Host) -> None:
    job = host.submit(b"calibration rows", b"validation rows")
    sha256 = str(job.request["validation_sha256"])
    _forget(database, "validation")
    host.blobs.delete(content_key(sha256))
    host.store(b"other rows", "validation")
    assert host.run(job) == (
        f"the rows of dataset 'validation' that this job was asked for (SHA-256 {sha256}) are no longer stored; upload "
        "them again with POST /datasets, and send the job's request again"
    )
    assert host.read == {}


def test_a_calibration_is_kept_for_the_rows_that_it_was_made_from(database: Database, host: Host) -> None:
    job = host.submit(b"calibration rows", b"validation rows")
    _forget(database, "calibration")
    host.store(b"other rows", "calibration")
    assert host.run(job) == SEEN
    (kept,) = host.blobs.entries("calibrations/")
    assert kept.key.split("/")[1:3] == [job.request["model_sha256"], job.request["calibration_sha256"]]
