"""The worker process: takes jobs from the queue and runs their stages. It answers no requests."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Thread

from dbos import DBOS

from service.errors import Unavailable
from service.jobs.lease import HeldJobs, Lease, LeaseLost
from service.jobs.life_marks import LifeMarks
from service.jobs.patience import PatientRows
from service.jobs.publication import Publication
from service.jobs.queue import APPLICATION, QUEUE, WORKFLOW
from service.jobs.workflows import MAX_ATTEMPTS, QuantizationWorkflow, WorkerParts
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database, translated_errors
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.jobs import JobRegistry
from service.registry.schema import migrate
from service.registry.workers import WorkerRegistry
from service.settings import Settings
from service.watchdog import SignOfLife

# Grows when the order or meaning of the stages changes, so that no half-run job goes on under other stages.
WORKFLOW_VERSION = "1"
_POLL_SECONDS = 0.2
_FORGOTTEN_AT_ONCE = 100
_SIGN_OFF_SECONDS = 2.0
_log = logging.getLogger(__name__)


def work(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises InvalidInput where the data folder cannot be used."""
    worker = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    data_dir = settings.data_dir.absolute()
    marks = LifeMarks(data_dir / "workers")
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stops.append(number))
    with marks.held(worker):
        database = Database(settings.resolved_database_url)
        migrate(database)
        lease = Lease(
            worker,
            settings.worker_lease_seconds,
            WorkerRegistry(database),
            HeldJobs(_holders, _release, _forget_ended),
            marks,
        )
        lease.begin()
        _listen(settings, database, lease)
        Thread(target=_keep, args=[lease], name="lease", daemon=True).start()
        _log.info("worker ready", extra={"worker": worker})
        sign = SignOfLife()
        # The system may hand the signal to another thread, which does not wake this one: so look, never just wait.
        while not stops:
            sign.give()
            time.sleep(_POLL_SECONDS)
        _log.info("worker stops")
        _sign_off(lease)
        # At once, without unwinding: a stage that saw an orderly end here would be recorded as failed. Left as it is,
        # the job goes on from its last finished stage with another worker. The stage's child dies with this process.
        os._exit(0)


def _listen(settings: Settings, database: Database, lease: Lease) -> None:
    """Runs the queue's jobs from now on, in threads of the library's own."""
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_engine": database.engine,
            "executor_id": lease.worker,
            "application_version": WORKFLOW_VERSION,
            "run_migrations": False,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
    )
    workflow = QuantizationWorkflow(_parts(settings, database, lease))
    DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_ATTEMPTS + 5)(
        # A plain function: DBOS marks what it registers, which a bound method does not allow.
        lambda job_id: workflow.run(job_id)
    )
    workflow.drop_folders_of_ended_jobs()
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.job_concurrency,
        polling_interval_sec=_POLL_SECONDS,
        on_conflict="always_update",
    )


def _keep(lease: Lease) -> None:
    _unless_lost(partial(lease.keep, Event()))


def _confirm(lease: Lease) -> None:
    _unless_lost(lease.confirm)


def _unless_lost(work: Callable[[], None]) -> None:
    try:
        work()
    except LeaseLost:
        _log.error("other workers took this one for dead and run its jobs; it ends, to be started again")
        # As at a stop: its stages' processes die with this one.
        os._exit(1)


def _sign_off(lease: Lease) -> None:
    """Saves the others the wait for the lease's end. Where the database does not answer, they wait."""
    thread = Thread(target=_end, args=[lease], daemon=True)
    thread.start()
    thread.join(_SIGN_OFF_SECONDS)


def _end(lease: Lease) -> None:
    with suppress(Unavailable):
        lease.end()


def _holders() -> set[str]:
    with translated_errors():
        running = DBOS.list_workflows(
            name=WORKFLOW, status="PENDING", app_version=WORKFLOW_VERSION, load_input=False, load_output=False
        )
    return {str(workflow.executor_id) for workflow in running}


def _forget_ended() -> None:
    with translated_errors():
        ended = DBOS.list_workflows(
            name=WORKFLOW, status=["SUCCESS", "ERROR"], limit=_FORGOTTEN_AT_ONCE, load_input=False, load_output=False
        )
        if ended:
            # What became of a job is in its own row.
            DBOS.delete_workflows([workflow.workflow_id for workflow in ended])


def _release(worker: str) -> None:
    # Not public, but what the library's own administration calls. It takes nothing from whoever runs a job by now.
    DBOS._recover_pending_workflows([worker])


def _parts(settings: Settings, database: Database, lease: Lease) -> WorkerParts:
    data_dir = settings.data_dir.absolute()
    cache = BlobCache(data_dir / "cache", settings.cache_bytes, settings.cache_idle_seconds)
    blobs = Blobs(settings.resolved_store_url, cache)
    publication = Publication(database, blobs, EngineRegistry(database), DeploymentRegistry(database))
    return WorkerParts(
        rows=PatientRows(JobRegistry(database)),
        blobs=blobs,
        publication=publication,
        folder=data_dir / "work",
        threads=settings.engine_threads,
        limits=settings.stage_limits,
        confirm=partial(_confirm, lease),
    )
