"""FP32, TF32, FP16 and INT8 on TensorRT and ONNX Runtime CUDA, and images a second through the whole service."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.gpu_figures import BATCHES, Figures, add_figures
from benchmarks.gpu_graphs import PRECISIONS, Network, find_networks, graph_of
from benchmarks.gpu_plans import build_plan
from benchmarks.gpu_service import measure_service
from benchmarks.gpu_timing import time_onnxruntime, time_tensorrt
from benchmarks.options import Options
from benchmarks.report import Report
from service.engines.cuda_device import find_device
from service.engines.gpu_requirements import missing_for

Say = Callable[[str], None]
_RUNTIMES = ("tensorrt", "onnxruntime-cuda")


def require_gpu() -> None:
    """Raises CannotMeasure with what is missing, and the next step."""
    missing = missing_for("tensorrt")
    if missing:
        raise CannotMeasure(f"the GPU benchmarks need an NVIDIA GPU with TensorRT: {missing}")


def measure_gpu(options: Options, say: Say) -> Report:
    """Raises CannotMeasure without a device; a runtime that is missing, or a graph that it refuses, is a note."""
    require_gpu()
    device = find_device()
    assert device is not None
    report = Report(
        "gpu",
        "Precisions on the GPU",
        "Milliseconds a batch between two events that the device records around 20 batches, copies left out, and the "
        "rows a second that this makes; medians over the rounds. All graphs come from Octavo's emitters; FP32 is kept "
        "from TF32 except in its own row. ResNet50 has random weights, on which speed does not depend.",
    )
    report.notes.append(f"{device.name}, compute capability {device.compute_capability}, CUDA {device.driver}")
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        folder = Path(name)
        networks = list(find_networks(options, folder, report))
        for network in networks:
            add_figures(report, network.name, _measure(network, folder / network.name, options, (report, say)))
        measure_service(networks[0], folder / "service", options, report)
    return report


def _measure(network: Network, folder: Path, options: Options, to: tuple[Report, Say]) -> Figures:
    report, say = to
    figures: Figures = {}
    for runtime in _RUNTIMES:
        missing = missing_for(runtime)
        if missing:
            report.notes.append(f"{runtime} was not measured: {missing}")
            continue
        for precision in PRECISIONS:
            say(f"{network.name}, {precision} on {runtime}")
            try:
                figures[runtime, precision] = _time(network, precision, runtime, folder, options.rounds)
            except CannotMeasure as error:
                report.notes.append(f"{network.name}, {precision} on {runtime}, was not measured: {error}")
    return figures


def _time(network: Network, precision: str, runtime: str, folder: Path, rounds: int) -> dict[int, list[float]]:
    tf32 = precision == "tf32"
    if runtime == "tensorrt":
        graph = graph_of(network, precision, "tensorrt", folder / "tensorrt")
        plan = build_plan(graph, folder / f"{precision}.plan", BATCHES, tf32)
        return time_tensorrt(plan, BATCHES, rounds)
    graph = graph_of(network, precision, "onnxruntime", folder / "onnxruntime")
    return time_onnxruntime(graph, BATCHES, tf32, rounds)
