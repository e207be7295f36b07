"""grpc.health.v1 beside the inference service, for probes and balancers: serving from readiness to the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from grpc import StatusCode
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import aio as library
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

# How soon after it readiness is told: it may be other processes', which tell nobody.
_LOOK_SECONDS = 0.1


class Health(library.HealthServicer):  # type: ignore[misc]
    """Answers for the server as a whole, under its empty name, and for `services`. Any other is not found."""

    def __init__(self, services: Sequence[str], is_ready: Callable[[], bool]) -> None:
        super().__init__()
        self._services = (OVERALL_HEALTH, *services)
        self._is_ready = is_ready
        self._stopping = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From now on it tells; until the server is ready, that it is not serving."""
        await self._tell(HealthCheckResponse.NOT_SERVING)
        self._waiting = asyncio.create_task(self._wait())

    def stop(self) -> None:
        """Ends the watches, which would hold up the server's stop for as long as it waits for calls."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._stopping.set()

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802 (the library's name)
        """Each change of a service's status, until the caller leaves or the server stops."""
        watching = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()
        # It may be writing.
        await asyncio.wait([watching])
        await context.write(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))
        await context.abort(StatusCode.UNAVAILABLE, "Server is stopping; watch another")

    async def _wait(self) -> None:
        while not self._is_ready():  # noqa: ASYNC110 (see _LOOK_SECONDS)
            await asyncio.sleep(_LOOK_SECONDS)
        await self._tell(HealthCheckResponse.SERVING)

    async def _tell(self, status: HealthCheckResponse.ServingStatus) -> None:
        for service in self._services:
            await self.set(service, status)
