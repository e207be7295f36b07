"""What the endpoints work with, composed by the serving process and handed to each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Request
from prometheus_client import generate_latest
from starlette.routing import BaseRoute

from service.api.content import Content
from service.api.job_metrics import JobScrapes
from service.domain.engine import Fingerprint
from service.domain.limits import StageLimits, UploadLimits
from service.jobs.queue import JobQueue
from service.metrics import REGISTRY
from service.quantization.sandbox.parent import run_in_sandbox
from service.registry.blobs import Blobs
from service.registry.datasets import DatasetRegistry
from service.registry.deployments import DeploymentRegistry
from service.registry.engines import EngineRegistry
from service.registry.models import ModelRegistry


class RunTask(Protocol):
    """Runs `task`, a "module:function", on `arguments` in a process of its own within `limits`."""

    def __call__(self, task: str, arguments: dict[str, Any], *, limits: StageLimits) -> dict[str, Any]: ...


def _never() -> bool:
    return False


async def _own_metrics() -> bytes:
    return await run_sync(generate_latest, REGISTRY)


@dataclass(frozen=True)
class Services:
    """Every part the management endpoints use; nothing here is read from the environment.

    `wake`, for the event loop alone, tells the reconciler that a deployment changed; `settle(model, revision)` waits
    until this server serves that revision and raises what kept it from loading. `stopping` ends open event streams.
    """

    models: ModelRegistry
    datasets: DatasetRegistry
    engines: EngineRegistry
    deployments: DeploymentRegistry
    jobs: JobQueue
    blobs: Blobs
    content: Content
    spool: Path
    wake: Callable[[], None]
    settle: Callable[[str, int], Awaitable[None]]
    upload_limits: UploadLimits = field(default_factory=UploadLimits)
    inspection_limits: StageLimits = field(default_factory=StageLimits)
    stopping: Callable[[], bool] = _never
    run_task: RunTask = run_in_sandbox
    # This server's, in Prometheus' text: of all its processes.
    metrics: Callable[[], Awaitable[bytes]] = _own_metrics
    job_scrapes: JobScrapes = field(default_factory=JobScrapes)
    # Ready-made routes of the inference half, added to the app as they are.
    routes: Sequence[BaseRoute] = ()
    # What engines must have been proven on; None where that is not asked.
    host: Fingerprint | None = None
    # Inspections take a process and up to minutes each: a few at once, and never the threads that other requests need.
    inspections: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))


async def services_of(request: Request) -> Services:
    """The services of the app that serves the request."""
    services: Services = request.app.state.services
    return services


ServicesDependency = Annotated[Services, Depends(services_of)]
