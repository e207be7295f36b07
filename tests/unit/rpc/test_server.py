"""The address of gRPC: taken at once or refused with the reason, and never shared."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.domain.limits import InferLimits
from service.errors import InvalidInput
from service.protocol.model_loading import ModelLoading
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.protocol.whole_server import WholeServer
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.router.reconcile import Reconciler
from service.router.router import Router
from service.rpc.inference import Inference
from service.rpc.queries import Queries
from service.rpc.server import GrpcServer


def on_a_loop(folder: Path, work: Callable[[GrpcServer], Awaitable[None]]) -> None:
    async def main() -> None:
        server, router = made(folder)
        try:
            await work(server)
        finally:
            await server.stop(0)
            await router.close(0)

    asyncio.run(main())


def made(folder: Path) -> tuple[GrpcServer, Router]:
    limits = InferLimits()
    router = Router(limits, lambda _: pytest.fail("nothing is loaded here"))
    database = Database(f"sqlite:///{folder / 'octavo.db'}")
    registries = DeploymentRegistry(database), ModelRegistry(database)
    loading = ModelLoading(router, Reconciler(router, dict), *registries)
    tracer = Tracer(TraceFile(folder / "traces.json"))
    queries = Queries(router, lambda: True, loading, WholeServer(router, tracer))
    return GrpcServer(Inference(router, tracer), queries, limits.max_body_bytes), router


def test_port_0_is_a_free_one(tmp_path: Path) -> None:
    async def work(server: GrpcServer) -> None:
        port = server.bind("127.0.0.1", 0)
        await server.start()
        with socket.create_connection(("127.0.0.1", port)):
            pass

    on_a_loop(tmp_path, work)


def test_a_taken_port_is_refused_with_the_reason_and_the_settings_name(tmp_path: Path) -> None:
    async def work(server: GrpcServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(InvalidInput, match=rf"127.0.0.1:{port}: Address already in use.*OCTAVO_GRPC_PORT"):
                server.bind("127.0.0.1", port)

    on_a_loop(tmp_path, work)


def test_a_host_that_is_not_there_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def work(server: GrpcServer) -> None:
        with pytest.raises(InvalidInput, match=r"host 'no\.such\.host\.invalid': [A-Z].*--host"):
            server.bind("no.such.host.invalid", 0)
        with pytest.raises(InvalidInput, match=r"host '192\.0\.2\.1': Cannot assign requested address"):
            server.bind("192.0.2.1", 0)

    on_a_loop(tmp_path, work)


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    async def work(first: GrpcServer) -> None:
        port = first.bind("127.0.0.1", 0)
        second, router = made(tmp_path)
        with pytest.raises(InvalidInput, match="Address already in use"):
            second.bind("127.0.0.1", port)
        await second.stop(0)
        await router.close(0)

    on_a_loop(tmp_path, work)
