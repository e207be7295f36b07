"""Images a second through all of Octavo: uploaded, quantized for TensorRT by a worker, deployed, asked over HTTP."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.errors import CannotMeasure
from benchmarks.gpu_graphs import Network
from benchmarks.jobs import post_job, wait_for_end
from benchmarks.load import Load, apply_load
from benchmarks.noted import noted
from benchmarks.octavo import Place, Server, accept, served, working
from benchmarks.options import Options
from benchmarks.payloads import Payload, binary_request
from benchmarks.report import Report, Table
from models.resnet50.make import SIDE

_CONNECTIONS = (1, 32, 128)
_PRECISIONS = ("fp16", "int8")
_MODEL = "resnet50"


def measure_service(network: Network, folder: Path, options: Options, report: Report) -> None:
    """Adds the table of ResNet50. A job that does not succeed, or a request that fails, is a note."""
    row = np.random.default_rng(0).normal(0, 1, (3, SIDE, SIDE)).astype(np.float32)
    folder.mkdir(parents=True)
    payload = binary_request(folder, {"name": "input", "shape": [1, *row.shape], "datatype": "FP32"}, row)
    table = Table("ResNet50 through the whole service", ["engine", "connections", "images/s", "p50 ms", "p99 ms"])
    report.tables.append(table)
    place = Place(folder / "data", threads=2)
    with served(place) as server, working(place):
        server.upload_model(_MODEL, network.model)
        for split in ("calibration", "validation"):
            server.upload_dataset(f"{_MODEL}-{split}", network.data / f"{split}.npz")
        for precision in _PRECISIONS:
            with noted(report, f"the whole service in {precision} was not measured to the end"):
                variant = _deployed(server, precision)
                for connections in _CONNECTIONS:
                    table.rows.append(_row(server, payload, (variant, connections), options, report))


def _deployed(server: Server, precision: str) -> str:
    """Builds and proves the engine, and makes it answer. Returns its variant."""
    recipe = {"precision": precision, "runtime": "tensorrt", "batch": {"min": 1, "opt": 32, "max": 32}}
    job = wait_for_end(server, post_job(server, _MODEL, recipe, "mae"))
    if job["state"] != "succeeded" or job["result"]["certificate"]["verdict"] != "passed":
        raise CannotMeasure(f"the {precision} job ended {job['state']}: {job['error'] or job['result']}")
    variant = str(job["result"]["variant"])
    body = {"version": 1, "stable": {"variant": variant}}
    accept(server.client.put(f"/models/{_MODEL}/deployment", json=body))
    return variant


def _row(server: Server, payload: Payload, case: tuple[str, int], options: Options, report: Report) -> list[str]:
    variant, connections = case
    url = server.infer_url(_MODEL)
    apply_load(url, payload, Load(connections, 2.0))
    seen = [
        apply_load(url, payload, Load(connections, options.seconds)).checked("octavo serve")
        for _ in range(options.rounds)
    ]
    report.rounds[f"service, {variant}, {connections} connections"] = [vars(one) for one in seen]
    figures = [median(getattr(one, name) for one in seen) for name in ("requests_per_second", "p50_ms", "p99_ms")]
    return [variant, str(connections), f"{figures[0]:,.0f}", f"{figures[1]:.2f}", f"{figures[2]:.2f}"]
