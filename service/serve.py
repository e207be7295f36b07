"""Composes the serving process: the HTTP API, gRPC, the router, and the reconciler that keeps the router up to date."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from service.api.app import create_app
from service.api.arrival import dealt
from service.api.content import Content
from service.api.dependencies import Services
from service.api.infer_protocol import infer_protocol
from service.api.inference import InferenceEndpoint, InferenceGate
from service.api.predict import Predictor, predict_routes
from service.api.v2_routes import v2_routes
from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact
from service.domain.limits import StageLimits
from service.engines.engine import Engine
from service.engines.fingerprint import host_fingerprint
from service.engines.gpu_requirements import missing_for
from service.engines.loader import check_bytes, load_engine
from service.engines.runtime_cache import CacheStore
from service.jobs.queue import JobQueue
from service.jobs.revalidation import Revalidation
from service.processes.dealing import Dealer
from service.processes.membership import Membership
from service.processes.place import Place
from service.processes.ports import http_refused, shared_sockets, take_last
from service.processes.siblings import Siblings
from service.protocol.following import Following
from service.protocol.model_loading import ModelLoading
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.protocol.whole_server import WholeServer
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from service.registry.runtime_caches import StoredRuntimeCaches
from service.registry.schema import migrate
from service.registry.serving import ServingRegistry
from service.router.reconcile import Reconciler
from service.router.router import Router
from service.settings import Settings
from service.watchdog import SignOfLife

if TYPE_CHECKING:
    from service.rpc.server import GrpcServer

# Checking an upload is quicker than any stage of a job; a caller waits for it.
_INSPECTION_SECONDS = 300.0
# Less than what a supervisor adds to the drain before it kills.
_THREADS_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """One serving process. Made on a current database; `run` serves until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, database: Database, place: Place | None = None) -> None:
        """`place` is this process's among several; None where it serves alone."""
        self._settings = settings
        self._database = database
        self._place = place
        self._siblings = Siblings(place)
        self._dealer = None if place is None else Dealer(place)
        copies = BlobCache(settings.data_dir.absolute() / "cache", settings.cache_bytes, settings.cache_idle_seconds)
        self._blobs = Blobs(settings.resolved_store_url, copies)
        self._router = Router(settings.infer_limits, self._load_engine)
        self._host = host_fingerprint()
        self._serving_registry = ServingRegistry(database, self._blobs, self._host, cache(missing_for))
        self._jobs = JobQueue(database, settings.max_queued_jobs)
        datasets, engines = DatasetRegistry(database), EngineRegistry(database)
        self._revalidation = Revalidation(self._jobs, datasets, self._host, engines.never_ran)
        self._reconciler = Reconciler(self._router, self._wanted)
        self._tracer = Tracer(self._trace_file())
        self._endpoint = InferenceEndpoint(self._router, settings.max_infer_bytes, self._tracer)
        self._predictor = Predictor(self._router, settings.infer_limits)
        self._grpc: GrpcServer | None = None
        self._whole = WholeServer(self._router, self._tracer, self._siblings)
        self._following = Following(self._router, self._reconciler, self._siblings)
        self._membership = Membership(self._siblings, self._whole.figures, self._reconciler.first_pass)
        super().__init__(
            uvicorn.Config(
                self._application(),
                http=self._protocol(),  # type: ignore[arg-type]
                ws="none",
                proxy_headers=False,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's. Raises InvalidInput where an address cannot be listened on; uvicorn would exit."""
        if self._place is None:
            self._bind_grpc()
        try:
            await super().startup(sockets)
        except SystemExit as leave:
            await self._stop_grpc()
            cause = leave.__context__
            if not isinstance(cause, OSError):
                raise
            raise http_refused(self._settings.host, self._settings.port, cause) from cause
        if self._place is not None:
            # Only now: the kernel deals calls to each process that listens, and this one may just have loaded.
            self._bind_grpc()
        if self._grpc is not None:
            await self._grpc.start()
        if self._dealer is not None:
            self._dealer.start(self._take_connection)
        self._membership.listens()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's: both protocols refuse newcomers at once, and answer what is in flight side by side."""
        stopping_grpc = asyncio.create_task(self._stop_grpc())
        if self._dealer is not None:
            await self._dealer.stop()
        await take_last(self.servers, sockets or [], self._take_connection)
        await super().shutdown(sockets)
        await stopping_grpc

    def _protocol(self) -> Callable[..., asyncio.Protocol]:
        """What makes the protocols of connections that come."""
        if self._dealer is None:
            self._http = infer_protocol(self._endpoint)
            return self._http
        self._http = infer_protocol(self._endpoint, self._dealer.count)
        return dealt(self._dealer.hand_on, self._http)

    async def _take_connection(self, connection: socket.socket) -> None:
        """Serves one that uvicorn did not accept, as it serves those that it does."""
        made = partial(self._http, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        await asyncio.get_running_loop().connect_accepted_socket(made, connection)

    def _bind_grpc(self) -> None:
        settings = self._settings
        if settings.grpc_port is None:
            return
        # Imported here: a server without gRPC need not pay for it.
        from service.rpc.inference import Inference
        from service.rpc.queries import Queries
        from service.rpc.server import GrpcServer

        queries = Queries(self._router, self._membership.is_ready, self._loading, self._whole)
        shared = self._place is not None
        server = GrpcServer(Inference(self._router, self._tracer), queries, settings.max_infer_bytes, shared)
        bound = server.bind(settings.host, settings.grpc_port)
        self._grpc = server
        _log.info("gRPC is listened for", extra={"host": settings.host, "port": bound})

    async def _stop_grpc(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_seconds)

    @asynccontextmanager
    async def _serving(self, _app: ASGIApp) -> AsyncIterator[None]:
        living = asyncio.create_task(SignOfLife().keep_giving())
        reconciling = asyncio.create_task(self._reconciler.run())
        # What was made at start lives as long as the process: the collector need not walk it again.
        gc.freeze()
        try:
            handlers = self._whole.handlers | self._following.handlers
            await self._membership.join(handlers, self._whole.take_over_settings, lambda: self.should_exit)
            yield
        finally:
            await self._router.close(self._settings.drain_seconds)
            await self._tracer.close()
            reconciling.cancel()
            with suppress(asyncio.CancelledError):
                await reconciling
            await self._membership.leave()
            self._predictor.close()
            self._jobs.close()
            living.cancel()
            _end_without_threads()

    def _application(self) -> ASGIApp:
        app = create_app(self._services())
        app.router.lifespan_context = self._serving
        return InferenceGate(app, self._endpoint)

    def _services(self) -> Services:
        settings, database = self._settings, self._database
        limits = settings.infer_limits
        models, deployments = ModelRegistry(database), DeploymentRegistry(database, self._host)
        follower = self._reconciler if self._place is None else self._following
        self._loading = ModelLoading(self._router, follower, deployments, models)
        return Services(
            models=models,
            datasets=DatasetRegistry(database),
            engines=EngineRegistry(database),
            deployments=deployments,
            jobs=self._jobs,
            blobs=self._blobs,
            content=Content(self._blobs, database),
            spool=settings.data_dir.absolute() / "spool",
            wake=follower.wake,
            settle=follower.settle,
            upload_limits=settings.upload_limits,
            inspection_limits=StageLimits(_INSPECTION_SECONDS, settings.stage_memory_bytes),
            stopping=lambda: self.should_exit,
            metrics=self._whole.metrics,
            host=self._host,
            routes=[
                *v2_routes(
                    self._router,
                    self._endpoint,
                    self._loading,
                    self._whole,
                    self._membership.is_ready,
                ),
                *predict_routes(self._predictor, limits),
            ],
        )

    def _trace_file(self) -> TraceFile:
        folder, host = self._settings.data_dir.absolute() / "traces", socket.gethostname()
        if self._place is None:
            return TraceFile(folder / f"{host}-{os.getpid()}.json")
        # Named after the server's first process, which started all of them.
        server = f"{host}-{os.getppid()}"
        return TraceFile(folder / f"{server}-{os.getpid()}.json", shown=folder / f"{server}-*.json")

    def _wanted(self) -> Mapping[str, ServedModel | None]:
        """What to serve here; engines that cannot answer on this host are built and validated again meanwhile."""
        wanted = self._serving_registry.wanted()
        self._revalidation.follow(map(self._router.answering, filter(None, wanted.values())))
        return wanted

    def _load_engine(self, artifact: EngineArtifact) -> Engine:
        threads, instances = self._settings.engine_threads, self._settings.engine_instances
        path = self._blobs.fetch(artifact.blob_key)
        check_bytes(path, artifact)
        stored, of = StoredRuntimeCaches(self._blobs), (artifact.sha256, self._host)
        kernels = CacheStore(partial(stored.read, *of), partial(stored.keep, *of))
        return load_engine(path, artifact, threads, instances, kernels)


def _end_without_threads() -> None:
    """Has the process end soon, though a thread may still check an upload or load an engine for minutes.

    Every answer is out by now, and what such a thread writes, it writes whole or not at all.
    """
    end = threading.Timer(_THREADS_SECONDS, os._exit, (0,))
    end.daemon = True
    end.start()


def serve(settings: Settings, place: Place | None = None) -> None:
    """Migrates the database and serves until SIGTERM or SIGINT; then answers what is in flight and returns.

    `place` is this process's among several that share reserved ports. Raises InvalidInput for what it cannot use.
    """
    parent = os.getppid()
    database = Database(settings.resolved_database_url)
    migrate(database)
    server = Server(settings, database, place)
    # The signal that stopped the server is raised again when it has drained: by then the process ends anyway. One that
    # comes before the server looks for any finds nothing in flight.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None if server.should_exit else os._exit(0))
    server.run(None if place is None else _shared_sockets(settings))
    database.close()
    _log.info("server stopped")
    if place is not None and os.getppid() != parent:
        # The parent was killed, and left what it would have removed.
        shutil.rmtree(place.folder, ignore_errors=True)


def _shared_sockets(settings: Settings) -> list[socket.socket]:
    try:
        return shared_sockets(settings.host, settings.port)
    except OSError as error:
        raise http_refused(settings.host, settings.port, error) from error
