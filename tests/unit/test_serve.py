"""What the serving process lends the engines that it loads, and how it stops."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from service import serve
from service.domain.engine import Fingerprint, Gpu
from service.engines.runtime_cache import CacheStore
from service.processes.ports import shared_sockets
from service.registry.blob_cache import BlobCache
from service.registry.blobs import Blobs
from service.registry.database import Database
from service.registry.schema import migrate
from service.settings import Settings
from tests.served_models import artifact

HOST = Fingerprint("cpu", (), "none", {"tensorrt": "tensorrt_rtx 1.7"}, Gpu("RTX 5090", "12.0", "13.0"))


def test_an_engines_compiled_kernels_are_kept_in_the_store_under_the_engine_and_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "load_engine", lambda *given: given[-1])
    blobs = Blobs((tmp_path / "store").as_uri(), BlobCache(tmp_path / "cache", 10**9))

    def lent(content: bytes, host: Fingerprint) -> CacheStore:
        digest = hashlib.sha256(content).hexdigest()
        engine = replace(artifact(), sha256=digest, blob_key=f"content/{digest}")
        blobs.put_bytes(engine.blob_key, content)
        settings = SimpleNamespace(engine_threads=1, engine_instances=1)
        server: Any = SimpleNamespace(_settings=settings, _blobs=blobs, _host=host)
        return cast("CacheStore", serve.Server._load_engine(server, engine))

    assert lent(b"engine", HOST).read() is None
    lent(b"engine", HOST).write(b"kernels")
    assert lent(b"engine", HOST).read() == b"kernels"
    assert lent(b"another", HOST).read() is None
    assert lent(b"engine", replace(HOST, gpu=Gpu("RTX 5090", "12.0", "13.1"))).read() is None


def test_a_connection_that_came_before_the_stop_is_answered_though_it_was_not_accepted_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_end_without_threads", lambda: None)
    database = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    migrate(database)

    async def main(sockets: list[socket.socket]) -> list[bytes]:
        server = serve.Server(Settings(data_dir=tmp_path, port=0, grpc_port=None), database)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets or None)
        callers = []
        with ExitStack() as opened:
            # Nothing is awaited meanwhile, so the kernel alone takes them.
            for _ in range(5):
                caller = socket.create_connection(server.servers[0].sockets[0].getsockname())
                callers.append(opened.enter_context(caller))
                caller.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            await server.shutdown(sockets or None)
            return [caller.recv(12) for caller in callers]

    for sockets in ([], shared_sockets("127.0.0.1", 0)):
        with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
            assert runner.run(main(sockets)) == [b"HTTP/1.1 200"] * 5
    database.close()


def test_a_drain_of_less_than_a_second_is_no_drain_of_none(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'octavo.db'}")
    migrate(database)
    server = serve.Server(Settings(data_dir=tmp_path, drain_seconds=0.9), database)
    assert server.config.timeout_graceful_shutdown == 1
    database.close()
