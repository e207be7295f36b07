"""What INT8 keeps and what it costs: four benchmarks, each of the default recipe as a job's worker runs it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.options import Options
from benchmarks.quantization_calibration import measure_calibration
from benchmarks.quantization_engines import measure_engines
from benchmarks.quantization_networks import measure_networks
from benchmarks.quantization_stages import measure_stages
from benchmarks.report import Report

Say = Callable[[str], None]
_EVERY = "Every build runs as a job's worker runs it, stage by stage in child processes, with the default recipe."


def measure_quantization(options: Options, say: Say) -> Report:
    """EfficientNet-Lite0 by Octavo and by other quantizers."""
    report = Report(
        "quantization",
        "INT8 beside other quantizers",
        f"{_EVERY} The other quantizers get the same calibration rows, and every engine the same validation rows. "
        "Agreement is how often the first class is FP32's, SQNR the logits' signal over their error. Engines are timed "
        "in turn, each in a process of its own, in the best of three bursts; times are medians over the rounds.",
    )
    measure_engines(options, say, report)
    return report


def measure_calibration_alone(options: Options, say: Say) -> Report:
    """Seconds a row and peak memory of the calibrate stage."""
    report = Report("calibration", "Calibration", f"{_EVERY} ONNX Runtime's calibrator gets rows of the same set.")
    measure_calibration(options, say, report)
    return report


def measure_other_networks(options: Options, say: Say) -> Report:
    """Networks of other kinds; a note says how to make what one lacks."""
    report = Report("networks", "INT8 of other networks", _EVERY)
    measure_networks(options, say, report)
    return report


def measure_job_stages(options: Options, say: Say) -> Report:
    """Seconds and peak memory of each stage of a job over HTTP."""
    report = Report("stages", "The stages of an INT8 job", _EVERY)
    measure_stages(options, say, report)
    return report
