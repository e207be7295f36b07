"""The other networks in INT8 by Octavo's default recipe: two trained classifiers, a sentence encoder, a detector."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detections import detection_f1
from benchmarks.errors import CannotMeasure
from benchmarks.options import DIGITS, SWISH, Options
from benchmarks.pipeline_run import Build, Case, run_pipeline
from benchmarks.report import Goal, Report, Table
from benchmarks.rival_quantizers import Given, quantize_static
from models.detector.make import SPLITS, write_folder
from service.domain.recipe import Budget, Calibration, Recipe
from service.quantization.pipeline import available_runtimes

_THREADS = 2
_RUNTIMES = ("onnxruntime", "openvino")
# A budget for the verdict: MLPerf's 1 %.
_MAX_LOSS = 0.01
_COSINE, _FULL_INT8, _KEPT = 0.99, 0.99, 0.95
_COLUMNS = ["network", "runtime", "figure", "FP32", "INT8", "MACs in INT8", "verdict"]


@dataclass(frozen=True)
class Network:
    """A case and what is promised of it: `full` where all its multiply-accumulates are to run in INT8."""

    case: Case
    full: bool = False


def measure_networks(options: Options, say: Callable[[str], None], report: Report) -> None:
    """A network whose files are not at hand is left out, and a note says how to make them."""
    table = Table("Other networks, Octavo's default recipe", _COLUMNS)
    report.tables.append(table)
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        detector = Path(name) / "detector"
        write_folder(detector)
        for network in _networks(options, detector, report):
            for runtime in _RUNTIMES:
                if runtime in available_runtimes():
                    say(f"{network.case.name} on {runtime}")
                    _try(network, runtime, (table, report))


def _networks(options: Options, detector: Path, report: Report) -> Iterator[Network]:
    rows = (options.calibration_rows, options.validation_rows, _THREADS)
    top1, cosine = Budget("top1", _MAX_LOSS), Budget("cosine", _MAX_LOSS)
    yield Network(Case("digits", options.digits, DIGITS, top1, *rows), full=True)
    yield Network(Case("digits with depthwise layers, swish and gates", SWISH, DIGITS, top1, *rows), full=True)
    seen, judged = (min(wanted, drawn) for wanted, (_, drawn) in zip(rows[:2], SPLITS.values(), strict=True))
    yield Network(Case("detector", detector / "detector.onnx", detector, cosine, seen, judged, _THREADS))
    try:
        folder = options.find_minilm()
        yield Network(Case("MiniLM", folder / "minilm.onnx", folder, cosine, *rows))
    except CannotMeasure as error:
        report.notes.append(f"MiniLM was not measured: {error}")


def _try(network: Network, runtime: str, into: tuple[Table, Report]) -> None:
    """One that fails is told, and keeps none of the others from being measured."""
    try:
        _measure(network, runtime, into)
    except CannotMeasure as error:
        into[1].notes.append(f"{network.case.name} on {runtime} was not measured: {error}")


def _measure(network: Network, runtime: str, into: tuple[Table, Report]) -> None:
    table, report = into
    case = network.case
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        folder = Path(name)
        case.prepare(folder)
        recipe = Recipe(runtime=runtime, calibration=Calibration(rows=case.calibration_rows))
        build = run_pipeline(case, recipe, folder / "build")
        share = build.int8_share(runtime)
        figure, before, after = _figure(case, build)
        row = [case.name, runtime, figure, f"{before:.4f}", f"{after:.4f}", f"{share:.1%}", build.verdict]
        table.rows.append(row)
        _add_goals(report, network, runtime, (before, after, share))
        measured = (case.name, runtime, figure, before, after, share, build.verdict)
        report.rounds.setdefault("networks", []).append(dict(zip(_COLUMNS, measured, strict=True)))
        if case.name == "detector":
            _add_detector(folder, build, case, runtime, into)


def _figure(case: Case, build: Build) -> tuple[str, float, float]:
    metric = case.budget.metric or ""
    found = build.metric(metric)
    return metric, float(found["reference"]), float(found["engine"])


def _add_goals(report: Report, network: Network, runtime: str, found: tuple[float, float, float]) -> None:
    (before, after, share), name = found, f"{network.case.name}, {runtime}"
    if network.full:
        report.goals.append(Goal(f"{name}: top-1 loss", 1 - after / before, _MAX_LOSS, at_most=True))
        report.goals.append(Goal(f"{name}: share of MACs in INT8", share, _FULL_INT8))
    else:
        report.goals.append(Goal(f"{name}: mean cosine to FP32", after, _COSINE))


def _add_detector(folder: Path, build: Build, case: Case, runtime: str, into: tuple[Table, Report]) -> None:
    """Which of FP32's detections the engine finds, beside an engine of ONNX Runtime's quantizer."""
    table, report = into
    rows = folder / "validation.npz"
    kept = detection_f1(case.model, (f"octavo-{runtime}", build.engine), rows)
    figure = "F1 of FP32's detections"
    table.rows.append([case.name, runtime, figure, "1.0000", f"{kept:.4f}", "", ""])
    report.rounds["networks"][-1][figure] = kept
    report.goals.append(Goal(f"{case.name}, {runtime}: {figure}", kept, _KEPT))
    if runtime == "onnxruntime":
        given = Given(case.model, folder / "calibration.npz", case.calibration_rows, case.threads)
        quantize_static(given, folder / "static.onnx")
        theirs = detection_f1(case.model, ("onnxruntime", folder / "static.onnx"), rows)
        table.rows.append([f"{case.name}, `quantize_static`", runtime, figure, "1.0000", f"{theirs:.4f}", "", ""])
