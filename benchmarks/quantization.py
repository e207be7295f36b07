"""What INT8 keeps and what it costs, beside ONNX Runtime's quantizer and NNCF on the same rows of the same run."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.errors import CannotMeasure
from benchmarks.options import Options
from benchmarks.quantization_calibration import measure_calibration
from benchmarks.quantization_engines import measure_engines
from benchmarks.quantization_networks import measure_networks
from benchmarks.quantization_stages import measure_stages
from benchmarks.report import Report

_PARTS: dict[str, Callable[[Options, Callable[[str], None], Report], None]] = {
    "EfficientNet-Lite0's engines": measure_engines,
    "Calibration": measure_calibration,
    "The other networks": measure_networks,
    "The stages of a job": measure_stages,
}


def measure_quantization(options: Options, say: Callable[[str], None]) -> Report:
    """Every part whose model and data are at hand; a note says how to make what another lacks."""
    report = Report(
        "quantization",
        "INT8: what it keeps and what it costs",
        "Every build runs as a job's worker runs it, stage by stage in child processes, with the default recipe for "
        "the runtime; the other quantizers get the same calibration rows, and every engine the same validation rows. "
        "Agreement is how often the first class is FP32's, SQNR the logits' signal over their error. Engines are timed "
        "in turn, each in a process of its own, in the best of three bursts; times are medians over the rounds.",
    )
    for name, measure in _PARTS.items():
        try:
            measure(options, say, report)
        except CannotMeasure as error:
            report.notes.append(f"{name}: not measured, {error}")
            say(report.notes[-1])
    return report
