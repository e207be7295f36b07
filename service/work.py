"""The worker process: takes jobs from the queue and runs their stages. It answers no requests."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from dbos import DBOS

from service.errors import InvalidInput
from service.jobs.patience import PatientRows
from service.jobs.publication import Publication
from service.jobs.queue import APPLICATION, QUEUE, WORKFLOW
from service.jobs.workflows import MAX_ATTEMPTS, QuantizationWorkflow, WorkerParts
from service.registry.blobs import Blobs
from service.registry.database import Database, make_folder
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.jobs import JobRegistry
from service.registry.schema import migrate
from service.settings import Settings

# Grows when the order or meaning of the stages changes, so that no half-run job goes on under other stages.
WORKFLOW_VERSION = "1"
_POLL_SECONDS = 0.2
# A killed supervisor's worker may take a moment to go.
_CLAIM_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """A launched worker and the database that it holds open."""

    database: Database

    def stop(self) -> None:
        """Takes no further job and gives up the ones at hand: their finished stages are kept."""
        DBOS.destroy(workflow_completion_timeout_sec=0)
        self.database.close()


def start_worker(settings: Settings) -> Worker:
    """Migrates the database, takes up this worker's unfinished jobs, and listens to the queue."""
    database = Database(settings.resolved_database_url)
    migrate(database)
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_engine": database.engine,
            "executor_id": settings.worker_id,
            "application_version": WORKFLOW_VERSION,
            "run_migrations": False,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
    )
    workflow = QuantizationWorkflow(_parts(settings, database))
    DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_ATTEMPTS + 5)(
        # A plain function: DBOS marks what it registers, which a bound method does not allow.
        lambda job_id: workflow.run(job_id)
    )
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.job_concurrency,
        polling_interval_sec=_POLL_SECONDS,
        on_conflict="always_update",
    )
    _log.info("worker ready", extra={"worker": settings.worker_id})
    return Worker(database)


def work(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises InvalidInput where a worker of this name runs on this data folder."""
    with claimed_name(settings):
        start_worker(settings)
        stops: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stops.append(number))
        # The system may hand the signal to another thread, which does not wake this one: so look, never just wait.
        while not stops:
            time.sleep(_POLL_SECONDS)
        _log.info("worker stops")
        # At once, without unwinding: a stage that saw an orderly end here would be recorded as failed. Left as it is,
        # the job goes on from its last finished stage when this worker, or one of its name, starts again. The stage's
        # child process dies with this one.
        os._exit(0)


@contextmanager
def claimed_name(settings: Settings, wait_seconds: float = _CLAIM_SECONDS) -> Iterator[None]:
    """Holds the worker's name on this data folder. Raises InvalidInput where it is held for all of `wait_seconds`.

    Two workers of one name would take each other for dead, and run each other's jobs in the same folder.
    """
    folder = settings.data_dir.absolute() / "workers"
    make_folder(folder)
    deadline = time.monotonic() + wait_seconds
    # The lock ends with the process, however that ends; the file stays.
    with (folder / f"{quote(settings.worker_id, safe='')}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise InvalidInput(
                        f"another worker named {settings.worker_id!r} runs on {str(settings.data_dir.absolute())!r}; "
                        "stop it, or give this one its own OCTAVO_WORKER_ID"
                    ) from error
                time.sleep(_POLL_SECONDS)
        yield


def _parts(settings: Settings, database: Database) -> WorkerParts:
    data_dir = settings.data_dir.absolute()
    blobs = Blobs(settings.resolved_store_url, data_dir / "cache")
    publication = Publication(blobs, EngineRegistry(database), DeploymentRegistry(database))
    return WorkerParts(
        rows=PatientRows(JobRegistry(database)),
        datasets=DatasetRegistry(database),
        blobs=blobs,
        publication=publication,
        folder=data_dir / "work",
        threads=settings.engine_threads,
        limits=settings.stage_limits,
    )
