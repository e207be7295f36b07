"""The worker process: takes jobs from the queue and runs their stages. It answers no requests."""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import dataclass

from dbos import DBOS

from service.jobs.publication import Publication
from service.jobs.queue import APPLICATION, QUEUE, WORKFLOW
from service.jobs.workflows import MAX_ATTEMPTS, QuantizationWorkflow, WorkerParts
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.jobs import JobRegistry
from service.registry.schema import migrate
from service.settings import Settings

# Grows when the order or meaning of the stages changes, so that no half-run job goes on under other stages.
WORKFLOW_VERSION = "1"
_POLL_SECONDS = 0.2
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
    """Runs until SIGTERM or SIGINT."""
    start_worker(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    _log.info("worker stops")
    # At once, without unwinding: a stage that saw an orderly end here would be recorded as failed. Left as it is,
    # the job goes on from its last finished stage when this worker, or one of its name, starts again. The stage's
    # child process dies with this one.
    os._exit(0)


def _parts(settings: Settings, database: Database) -> WorkerParts:
    data_dir = settings.data_dir.absolute()
    blobs = Blobs(settings.resolved_store_url, data_dir / "cache")
    publication = Publication(blobs, EngineRegistry(database), DeploymentRegistry(database))
    return WorkerParts(
        rows=JobRegistry(database),
        datasets=DatasetRegistry(database),
        blobs=blobs,
        publication=publication,
        folder=data_dir / "work",
        threads=settings.engine_threads,
        limits=settings.stage_limits,
    )
