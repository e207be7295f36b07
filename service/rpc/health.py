"""grpc.health.v1 beside the inference service, for probes and balancers: serving from readiness to the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from grpc import StatusCode
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthServicer

# How soon after it a watch is told of readiness: it may be other processes', which tell nobody.
_LOOK_SECONDS = 0.1
# A watch that is not read for so long ends: it would hold up the server's stop.
_UNREAD_SECONDS = 5.0
_OVERALL = ""


class Health(HealthServicer):  # type: ignore[misc]
    """Answers for the server as a whole, under its empty name, and for `services`.

    Not the library's: its watches write while they hold what a change needs, so one that is not read stops all.
    """

    def __init__(self, services: Sequence[str], is_ready: Callable[[], bool]) -> None:
        self._services = (_OVERALL, *services)
        self._is_ready = is_ready
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the watches, which would hold up the server's stop for as long as it waits for calls."""
        self._stopping.set()

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802 (the protocol's)
        """The status of one service."""
        status = self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(
                StatusCode.NOT_FOUND,
                f"service {request.service[:80]!r} is not here; ask for one of {', '.join(map(repr, self._services))}",
            )
        return HealthCheckResponse(status=status)

    async def List(self, request: HealthListRequest, context: Any) -> HealthListResponse:  # noqa: N802
        """The status of every service."""
        return HealthListResponse(
            statuses={service: HealthCheckResponse(status=self._status(service)) for service in self._services}
        )

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """Each change of a service's status, until the caller leaves or the server stops."""
        try:
            await self._tell_changes(request.service, context)
        except TimeoutError:
            await context.abort(StatusCode.ABORTED, f"nobody read this watch for {_UNREAD_SECONDS:g} s; watch again")
        await context.abort(StatusCode.UNAVAILABLE, "Server is stopping; watch another")

    async def _tell_changes(self, service: str, context: Any) -> None:
        told = None
        while not self._stopping.is_set():
            status = self._status(service)
            if status != told:
                await _tell(context, status)
                told = status
            with suppress(TimeoutError):
                # Nothing but the stop comes after readiness, nor after a name that is not known.
                seconds = _LOOK_SECONDS if told == HealthCheckResponse.NOT_SERVING else None
                await asyncio.wait_for(self._stopping.wait(), seconds)
        await _tell(context, HealthCheckResponse.NOT_SERVING)

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serving = self._is_ready() and not self._stopping.is_set()
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING


async def _tell(context: Any, status: HealthCheckResponse.ServingStatus) -> None:
    async with asyncio.timeout(_UNREAD_SECONDS):
        await context.write(HealthCheckResponse(status=status))
