"""The management API over real HTTP on a real registry and store; only the router behind it is a stand-in."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service.api.app import create_app
from service.api.content import Content
from service.api.dependencies import Services
from service.api.uploads import prepare_spool
from service.domain.limits import StageLimits, UploadLimits
from service.errors import OctavoError
from service.jobs.queue import JobQueue
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry
from tests.waiting import wait_until


@dataclass
class Router:
    """Stands in for the router: notes what it is told, and fails to load when a test says so."""

    woken: int = 0
    settled: list[tuple[str, int]] = field(default_factory=list)
    hangs: bool = False
    failure: OctavoError | None = None
    meanwhile: Callable[[], object] = lambda: None

    def wake(self) -> None:
        self.woken += 1

    async def settle(self, model: str, revision: int) -> None:
        self.settled.append((model, revision))
        if self.hangs:
            await anyio.sleep_forever()
        self.meanwhile()
        if self.failure is not None:
            raise self.failure


def run_here(task: str, arguments: dict[str, Any], *, limits: StageLimits) -> dict[str, Any]:
    """Runs a task in this process: the real one, without the second that a new process takes."""
    module, _, function = task.partition(":")
    result: dict[str, Any] = getattr(import_module(module), function)(arguments, lambda _fraction: None)
    return result


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copyfile(migrated, tmp_path / "octavo.db")
    opened = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    yield opened
    opened.close()


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def services(database: Database, router: Router, tmp_path: Path) -> Iterator[Services]:
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))
    jobs = JobQueue(database, max_unfinished=20)
    yield Services(
        models=ModelRegistry(database),
        datasets=DatasetRegistry(database),
        engines=EngineRegistry(database),
        deployments=DeploymentRegistry(database),
        jobs=jobs,
        blobs=blobs,
        content=Content(blobs, database),
        spool=tmp_path / "spool",
        wake=router.wake,
        settle=router.settle,
        upload_limits=UploadLimits(max_upload_bytes=1024 * 1024),
        run_task=run_here,
    )
    jobs.close()


class Switch:
    """One server and one application for the whole session, whose services each test replaces: building takes long."""

    app: FastAPI | None = None

    def use(self, services: Services) -> None:
        if self.app is None:
            self.app = create_app(services)
        prepare_spool(services.spool)
        self.app.state.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def switch() -> Iterator[tuple[Switch, httpx.Client]]:
    switch = Switch()
    server = uvicorn.Server(uvicorn.Config(switch, log_config=None, lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20) as client:
            yield switch, client
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def serve(switch: tuple[Switch, httpx.Client]) -> Callable[[Services], httpx.Client]:
    """Serves these services from now on, over real HTTP, and gives a client of them."""

    def start(services: Services) -> httpx.Client:
        server, client = switch
        server.use(services)
        return client

    return start


@pytest.fixture
def client(services: Services, serve: Callable[[Services], httpx.Client]) -> httpx.Client:
    return serve(services)


@pytest.fixture
def nothing_left(services: Services, tmp_path: Path) -> Callable[[], None]:
    """Asserts that a refused upload left no row, no blob and no spooled byte."""

    def check() -> None:
        assert services.models.list() == []
        assert services.datasets.list() == []
        assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
        assert list(services.spool.iterdir()) == []

    return check
