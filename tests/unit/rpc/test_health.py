"""grpc.health.v1 by its own stubs: before the server is ready, after, and while it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from service.rpc.health import Health
from tests.async_waiting import until

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
NAME = "inference.Service"


class Server:
    """One that is ready when the test says so."""

    def __init__(self) -> None:
        self.ready = False
        self._server = grpc.aio.server()
        self._health = Health([NAME], lambda: self.ready)
        add_HealthServicer_to_server(self._health, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    async def run(self, work: Callable[[Server, HealthStub], Awaitable[None]]) -> None:
        await self._server.start()
        async with asyncio.timeout(20), grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            await work(self, HealthStub(channel))
        await self.stop()

    async def stop(self) -> None:
        self._health.stop()
        await self._server.stop(60)


async def status(health: HealthStub, service: str) -> int:
    return int((await health.Check(HealthCheckRequest(service=service))).status)


def run(work: Callable[[Server, HealthStub], Awaitable[None]]) -> None:
    async def main() -> None:
        await Server().run(work)

    asyncio.run(main())


@pytest.mark.parametrize("service", ["", NAME])
def test_a_server_serves_from_its_readiness_on(service: str) -> None:
    async def work(server: Server, health: HealthStub) -> None:
        assert await status(health, service) == NOT_SERVING
        server.ready = True

        async def serves() -> bool:
            return bool(await status(health, service) == SERVING)

        await until(serves)

    run(work)


def test_a_service_that_is_not_there_is_not_found() -> None:
    async def work(_: Server, health: HealthStub) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="service 'nothing' is not here; ask for one of '', ") as refused:
            await status(health, "nothing")
        assert refused.value.code() is StatusCode.NOT_FOUND
        watch = health.Watch(HealthCheckRequest(service="nothing"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN

    run(work)


def test_a_watch_is_told_of_the_readiness_and_does_not_hold_up_the_stop() -> None:
    async def work(server: Server, health: HealthStub) -> None:
        told: list[int] = []

        async def watch() -> None:
            async for answer in health.Watch(HealthCheckRequest()):
                told.append(answer.status)

        watching = asyncio.create_task(watch())
        await until(lambda: told == [NOT_SERVING])
        server.ready = True
        await until(lambda: told == [NOT_SERVING, SERVING])
        # The server would wait for its calls for a minute, the test for less.
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError, match="Server is stopping") as ended:
            await watching
        assert ended.value.code() is StatusCode.UNAVAILABLE
        assert told == [NOT_SERVING, SERVING, NOT_SERVING]

    run(work)


def test_every_service_is_listed_with_its_status() -> None:
    async def work(server: Server, health: HealthStub) -> None:
        for ready, wanted in ((False, NOT_SERVING), (True, SERVING)):
            server.ready = ready
            listed = (await health.List(HealthListRequest())).statuses
            assert {name: answer.status for name, answer in listed.items()} == {"": wanted, NAME: wanted}

    run(work)


def test_a_watch_whose_caller_leaves_ends() -> None:
    async def work(_: Server, health: HealthStub) -> None:
        watch = health.Watch(HealthCheckRequest())
        await watch.read()
        watch.cancel()

        def watched() -> bool:
            return any("Watch" in repr(task) for task in asyncio.all_tasks())

        await until(lambda: not watched())

    run(work)
