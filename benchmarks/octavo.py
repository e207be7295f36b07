"""A real Octavo for benchmarks: its own processes, an empty folder of state, free ports, default settings."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from benchmarks.errors import CannotMeasure
from benchmarks.process import Program, running
from benchmarks.reference import ROOT, clean_environment

T = TypeVar("T")
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Where an installation keeps its state, the threads of its engines, the cores it may use.

    `processes` serve side by side.
    """

    data_dir: Path
    threads: int = 1
    cores: frozenset[int] | None = None
    processes: int = 1


@dataclass(frozen=True)
class Server:
    """A ready `octavo serve`."""

    url: str
    pid: int
    client: httpx.Client

    def infer_url(self, model: str) -> str:
        return f"{self.url}/v2/models/{model}/infer"

    def upload_model(self, name: str, path: Path) -> None:
        """Uploads an ONNX file and waits until its FP32 reference answers."""
        with path.open("rb") as file:
            accept(self.client.post("/models", data={"name": name}, files={"file": (path.name, file)}))
        wait_until(lambda: self.client.get(f"/v2/models/{name}/ready").status_code == 200, f"model {name} to be ready")

    def upload_dataset(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            accept(self.client.post("/datasets", data={"name": name}, files={"file": (path.name, file)}))


@contextmanager
def served(place: Place) -> Iterator[Server]:
    """`octavo serve`, ready. Raises CannotMeasure with its log when it does not come up."""
    port = free_port()
    program = serve_program(place, port)
    with running(program) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        server = Server(f"http://127.0.0.1:{port}", process.pid, client)
        try:
            wait_until(lambda: process.poll() is not None or is_ready(client), "octavo serve to be ready")
        except CannotMeasure as error:
            raise CannotMeasure(f"{error}; its log: {program.log.read_text()}") from error
        if process.poll() is not None:
            raise CannotMeasure(f"octavo serve ended with {process.returncode}: {program.log.read_text()}")
        yield server


@contextmanager
def working(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """`octavo work` on the same state."""
    with running(_program(place, "work", {})) as process:
        yield process


def serve_program(place: Place, port: int) -> Program:
    """`octavo serve` on `port`, as the console script starts it."""
    return _program(place, "serve", {"OCTAVO_PORT": str(port), "OCTAVO_GRPC_PORT": "0"})


def _program(place: Place, command: str, settings: dict[str, str]) -> Program:
    place.data_dir.mkdir(parents=True, exist_ok=True)
    environment = clean_environment(
        OCTAVO_DATA_DIR=str(place.data_dir),
        OCTAVO_ENGINE_THREADS=str(place.threads),
        OCTAVO_PROCESSES=str(place.processes),
        **settings,
    )
    log = place.data_dir / f"{command}.log"
    return Program([sys.executable, "-m", "service", command], log, environment, ROOT, place.cores)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def accept(answer: httpx.Response) -> httpx.Response:
    """The answer. Raises CannotMeasure with the server's own words when it is a refusal."""
    if answer.is_error:
        raise CannotMeasure(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer


def wait_until(probe: Callable[[], T], what: str, seconds: float = _READY_SECONDS, every: float = 0.02) -> T:
    """Asks `probe` until its answer is true, and gives that. Raises CannotMeasure after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise CannotMeasure(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(every)
    return answer


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
