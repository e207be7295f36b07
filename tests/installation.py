"""A real installation for tests: real processes, a folder of their own, a free port, the shipped digits model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.domain.job import FINISHED
from tests.waiting import wait_until

DIGITS = Path(__file__).parent.parent / "models" / "digits"


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: str, data_dir: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """`octavo COMMAND` on `data_dir`, without gRPC unless told; killed at the end if it still lives.

    Its log goes to data_dir/COMMAND.log.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OCTAVO_DATA_DIR": str(data_dir), "OCTAVO_GRPC_PORT": ""} | settings
    with (data_dir / f"{command}.log").open("ab") as log:
        arguments = [sys.executable, "-m", "service", command]
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


@contextmanager
def served(data_dir: Path, command: str = "serve", **settings: str) -> Iterator[httpx.Client]:
    """`octavo serve` (or `up`), ready, and a client of it. Stopped by SIGTERM at the end."""
    port = free_port()
    with running(command, data_dir, OCTAVO_PORT=str(port), **settings) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: process.poll() is not None or _ready(client))
            assert process.poll() is None, (data_dir / f"{command}.log").read_text()
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (data_dir / f"{command}.log").read_text()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def upload_digits(client: httpx.Client, name: str = "digits") -> None:
    """Uploads the shipped model with its labels and preprocessing, and its two datasets."""
    files = {
        "file": ("digits.onnx", (DIGITS / "digits.onnx").read_bytes()),
        "labels": ("labels.txt", (DIGITS / "labels.txt").read_bytes()),
    }
    fields = {"name": name, "preprocessing": (DIGITS / "preprocessing.json").read_text()}
    client.post("/models", data=fields, files=files).raise_for_status()
    for dataset in ("calibration", "validation"):
        content = (DIGITS / f"{dataset}.npz").read_bytes()
        fields = {"name": f"{name}-{dataset}", "model": name}
        client.post("/datasets", data=fields, files={"file": (f"{dataset}.npz", content)}).raise_for_status()


def quantize_body(
    name: str = "digits", precision: str = "int8", runtime: str = "onnxruntime", **more: object
) -> dict[str, object]:
    """A request that the shipped model passes."""
    return {
        "model": name,
        "recipe": {"precision": precision, "runtime": runtime, "calibration": {"method": "entropy", "rows": 64}},
        "calibration": f"{name}-calibration",
        "validation": f"{name}-validation",
        "budget": {"metric": "top1", "max_loss": 0.01},
    } | more


def finished_job(client: httpx.Client, job_id: str, seconds: float = 120) -> dict[str, Any]:
    """The job as it is when it has ended."""

    def ended() -> dict[str, Any]:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        return job if job["state"] in FINISHED else {}

    return wait_until(ended, seconds)


def children_of(pid: int) -> list[int]:
    """The processes that the process started and that are there still."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _parent_of(entry) == pid]


def _parent_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1
