"""A real HTTP server of the inference half, in a thread: fake and real engines behind it, and an empty registry."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI
from onnx import TensorProto

from service.api.error_responses import install_error_handlers
from service.api.head_requests import AnswerHead
from service.api.infer_protocol import infer_protocol
from service.api.inference import InferenceEndpoint, InferenceGate
from service.api.predict import Predictor, predict_routes
from service.api.v2_routes import v2_routes
from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact
from service.domain.limits import InferLimits
from service.engines.engine import Engine
from service.engines.loader import load_engine
from service.protocol.model_loading import ModelLoading
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.protocol.whole_server import WholeServer
from service.registry.database import Database
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.fake_engine import FakeEngine
from tests.served_models import PREPROCESSING, deployment, served, write_identity, write_linear
from tests.unit.quantization.small_models import saved, u_net
from tests.waiting import wait_until

T = TypeVar("T")
LIMITS = InferLimits(max_body_bytes=1024 * 1024, max_image_bytes=256 * 1024, max_queue_rows=12, max_batch_rows=8)
LABELS = ("cat", "dog")
KINDS = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
}


class Serving:
    """`linear` takes [rows, 1, 2, 2] and pictures, `types` passes every datatype through, `fake` obeys the test.

    `u-net` is there to be deployed, and takes even heights and widths alone.
    """

    def __init__(self, folder: Path, direct: bool) -> None:
        """`folder` holds a database with the newest schema and nothing in it."""
        self.fake = FakeEngine()
        self._files = {
            "linear": write_linear(folder / "linear.onnx"),
            "doubled": write_linear(folder / "doubled.onnx", factor=2.0),
            "u-net": saved(u_net(), folder / "u-net.onnx"),
            "types": write_identity(folder / "types.onnx", {kind.lower(): number for kind, number in KINDS.items()}),
        }
        self.router = Router(LIMITS, self._load)
        self._predictor = Predictor(self.router, LIMITS)
        self._trace_file = folder / "traces.json"
        self.tracer = Tracer(TraceFile(self._trace_file))
        self.endpoint = InferenceEndpoint(self.router, LIMITS.max_body_bytes, self.tracer)
        self.whole = WholeServer(self.router, self.tracer)
        self._database = Database(f"sqlite:///{folder / 'octavo.db'}")
        self.ready = False
        self.client = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=100))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint_address: tuple[str, int] = self._socket.getsockname()
        self.address = "{}:{}".format(*self.endpoint_address)
        self.url = f"http://{self.address}"
        config = uvicorn.Config(
            self._application(),
            http=infer_protocol(self.endpoint) if direct else "httptools",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = Event()
        self._thread = Thread(target=self._run)

    def _application(self) -> InferenceGate:
        app = FastAPI()
        app.add_middleware(AnswerHead)
        install_error_handlers(app)
        registries = DeploymentRegistry(self._database), ModelRegistry(self._database)
        self.loading = ModelLoading(self.router, Reconciler(self.router, dict), *registries)
        app.router.routes.extend(v2_routes(self.router, self.endpoint, self.loading, self.whole, lambda: self.ready))
        app.router.routes.extend(predict_routes(self._predictor, LIMITS))
        return InferenceGate(app, self.endpoint)

    def _load(self, artifact: EngineArtifact) -> Engine:
        if artifact.model == "fake":
            return self.fake
        return load_engine(self._files["doubled" if artifact.version == 2 else artifact.model], artifact, threads=1)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self.server.serve([self._socket])
            # A server that a test has stopped leaves the loop to what is still to be closed on it.
            await asyncio.to_thread(self._over.wait)

        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(main())

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._loop is not None and self.server.started)
        for wanted in (wanted_linear(), served(deployment(model="types")), served(deployment(model="fake"))):
            self.call(self.router.deploy(wanted))
        self.keep_fake_off_the_loop()
        self.ready = True

    def keep_fake_off_the_loop(self) -> None:
        """A gate that closes on the event loop would close on the test's own requests too."""

        async def main() -> None:
            self.router.routes("fake").stable.replica.allow_inline(False)

        self.call(main())

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def traces(self) -> list[dict[str, Any]]:
        """What is written so far."""
        if not self._trace_file.exists():
            return []
        # Between two writes only it is whole.
        with suppress(json.JSONDecodeError):
            return list(json.loads(self._trace_file.read_text()))
        return []

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the server's loop."""
        return self.begin(work).result(30)

    def stop(self) -> None:
        self.fake.gate.set()
        if not self.router.stopping:
            self.call(self.router.close(5))
        self.call(self.tracer.close())
        self.server.should_exit = True
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.client.close()
        self._predictor.close()
        self._database.close()


def wanted_linear(version: int = 1, revision: int = 1) -> ServedModel:
    return served(deployment(version=version, revision=revision, model="linear"), LABELS, PREPROCESSING)


@contextmanager
def running(folder: Path, direct: bool) -> Iterator[Serving]:
    serving = Serving(folder, direct)
    serving.start()
    try:
        yield serving
    finally:
        serving.stop()


def tensor(**changes: Any) -> dict[str, Any]:
    """The one input of `linear`: a row of ones, in JSON."""
    return {"name": "x", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 1], **changes}


def post(serving: Serving, body: Any, model: str = "linear", **headers: str) -> httpx.Response:
    """One infer request; a dict is sent as JSON."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    return serving.client.post(f"{serving.url}/v2/models/{model}/infer", content=content, headers=headers)


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error answer, after checking its status and form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "code"}
    return str(body["error"])
