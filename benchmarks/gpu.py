"""FP32, TF32, FP16 and INT8 on TensorRT and ONNX Runtime CUDA, and images a second through the whole service."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.gpu_figures import BATCHES, Figures, Times, add_figures, medians
from benchmarks.gpu_graphs import PRECISIONS, Network, find_networks, graph_of
from benchmarks.gpu_plans import build_plan
from benchmarks.gpu_service import measure_service
from benchmarks.gpu_timing import time_onnxruntime, time_tensorrt
from benchmarks.load import require_wrk
from benchmarks.noted import noted
from benchmarks.options import Options
from benchmarks.report import Report
from service.engines.cuda_device import find_device
from service.engines.gpu_requirements import missing_for

Say = Callable[[str], None]
_RUNTIMES = ("tensorrt", "onnxruntime-cuda")
_NO_SERVICE = "the whole service was not measured"


def require_gpu() -> None:
    """Raises CannotMeasure with what is missing, and the next step."""
    missing = missing_for("tensorrt")
    if missing:
        raise CannotMeasure(f"the GPU benchmarks need an NVIDIA GPU with TensorRT: {missing}")


def measure_gpu(options: Options, say: Say) -> Report:
    """Raises CannotMeasure without a device; whatever else is missing, refused or fails is a note."""
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
    loads = _has_wrk(report, say)
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        folder = Path(name)
        networks = list(find_networks(options, folder, report))
        for network in networks:
            add_figures(report, network.name, _measure(network, folder / network.name, options, (report, say)))
        if loads:
            with noted(report, _NO_SERVICE):
                measure_service(networks[0], folder / "service", options, report)
    return report


def _has_wrk(report: Report, say: Say) -> bool:
    """Asked before all else, and told at once: whoever wants the service measured can install it and start again."""
    try:
        require_wrk()
    except CannotMeasure as error:
        report.notes.append(f"{_NO_SERVICE}: {error}")
        say(report.notes[-1])
        return False
    return True


def _measure(network: Network, folder: Path, options: Options, to: tuple[Report, Say]) -> Figures:
    report, say = to
    figures: Figures = {}
    for runtime in _RUNTIMES:
        missing = missing_for(runtime)
        if missing:
            report.notes.append(f"{runtime} was not measured: {missing}")
            continue
        for precision in PRECISIONS:
            what = f"{network.name}, {precision} on {runtime}"
            say(what)
            times: Times = {}
            with noted(report, f"{what}, was not measured in every batch"):
                _time(network, (precision, runtime), folder, options.rounds, times)
            if times:
                figures[runtime, precision] = times
                # Said at once as well: whoever has the GPU for so long only may have to end the run before its report.
                say(f"{what}: {medians(times)}")
    return figures


def _time(network: Network, case: tuple[str, str], folder: Path, rounds: int, times: Times) -> None:
    precision, runtime = case
    tf32 = precision == "tf32"
    if runtime == "tensorrt":
        graph = graph_of(network, precision, "tensorrt", folder / "tensorrt")
        plan = build_plan(graph, folder / f"{precision}.plan", BATCHES, tf32)
        time_tensorrt(plan, BATCHES, rounds, times)
    else:
        graph = graph_of(network, precision, "onnxruntime", folder / "onnxruntime")
        time_onnxruntime(graph, BATCHES, tf32, rounds, times)
