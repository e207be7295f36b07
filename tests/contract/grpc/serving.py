"""The real server of the HTTP tests with gRPC beside it, on the same loop and router."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.metrics import REGISTRY
from service.rpc.inference import Inference
from service.rpc.queries import Queries
from service.rpc.server import GrpcServer
from tests.contract.oip.serving import KINDS, LIMITS, Serving
from tests.served_models import deployment, served, write_identity

STOP_SECONDS = 5.0


class GrpcServing(Serving):
    """`grpc_address` is where gRPC listens; `typed` passes every datatype through that contents can hold."""

    def __init__(self, folder: Path, direct: bool) -> None:
        super().__init__(folder, direct)
        kinds: dict[str, int] = {kind.lower(): number for kind, number in KINDS.items() if kind != "FP16"}
        self._files["typed"] = write_identity(folder / "typed.onnx", kinds)

    def start(self) -> None:
        super().start()
        self.call(self.router.deploy(served(deployment(model="typed"))))

    def _run(self) -> None:
        async def main() -> None:
            queries = Queries(self.router, lambda: self.ready, self.loading, self.whole)
            self.grpc = GrpcServer(Inference(self.router, self.tracer), queries, LIMITS.max_body_bytes)
            self.grpc_address = f"127.0.0.1:{self.grpc.bind('127.0.0.1', 0)}"
            await self.grpc.start()
            self._loop = asyncio.get_running_loop()
            await self.server.serve([self._socket])
            await self.grpc.stop(STOP_SECONDS)

        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(main())


@contextmanager
def running(folder: Path, migrated: Path) -> Iterator[GrpcServing]:
    """`migrated` is a database to begin with, which is copied."""
    shutil.copyfile(migrated, folder / "octavo.db")
    serving = GrpcServing(folder, direct=True)
    serving.start()
    try:
        yield serving
    finally:
        serving.stop()


def outcomes(code: str) -> float:
    """How many requests of the fake model ended so."""
    labels = {"model": "fake", "version": "1", "variant": "fp32-onnxruntime", "route": "stable", "outcome": code}
    return REGISTRY.get_sample_value("octavo_requests_total", labels) or 0.0
