"""The convert stage: writes the graph in the wanted precision for every candidate runtime, and the plan behind it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx

from service.domain.engine import GPU_RUNTIMES
from service.domain.plan import OperatorPrecision, QuantizationPlan
from service.quantization.atomic_files import replacing
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.conversion.int8_conversion import EQUALIZED, TUNING, convert_int8
from service.quantization.emitters.half import emit_half
from service.quantization.graphs.graph import Graph
from service.quantization.kept_files import CALIBRATION
from service.quantization.placements.half import half_plan
from service.quantization.placements.placement import matching_pattern
from service.quantization.preparation.preparation import PREPARED
from service.quantization.recipes import candidate_runtimes
from service.quantization.task import PipelineTask, Progress

CONVERTED = "converted.onnx"
PLAN = "plan.json"
_FLOAT_NAMES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}


def convert_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes `<runtime>/converted.onnx` and `<runtime>/plan.json` for each runtime that the recipe tries."""
    runtimes = candidate_runtimes(task.recipe)
    files: list[str] = []
    for done, runtime in enumerate(runtimes):
        (task.folder / runtime).mkdir(exist_ok=True)
        with replacing(task.folder / runtime / CONVERTED) as partial:
            plan = _convert(task, runtime, partial, _part(report_progress, done, len(runtimes)))
        files += [f"{runtime}/{CONVERTED}", task.write(f"{runtime}/{PLAN}", plan.to_json())]
        if task.recipe.precision == "int8":
            written = (name for name in (TUNING, EQUALIZED) if (task.folder / runtime / name).exists())
            files += [f"{runtime}/{name}" for name in written]
        report_progress((done + 1) / len(runtimes))
    return {"files": files, "runtimes": list(runtimes)}


def _part(report_progress: Progress, done: int, count: int) -> Progress:
    """The progress of one runtime as that of all."""
    return lambda share: report_progress((done + share) / count)


def _convert(task: PipelineTask, runtime: str, destination: Path, report_progress: Progress) -> QuantizationPlan:
    keep_float = task.recipe.keep_float
    if task.recipe.precision == "fp32":
        # TensorRT names a node that it refuses, which those of an upload need not have.
        shutil.copyfile(task.folder / PREPARED if runtime in GPU_RUNTIMES else task.model, destination)
        return _float_plan(Graph.load(task.folder / PREPARED), keep_float)
    graph = Graph.load(task.folder / PREPARED)
    if task.recipe.precision in ("fp16", "bf16"):
        measured = Calibrated.load(task.folder / CALIBRATION).measured()
        onnx.save_model(emit_half(graph.model, keep_float, task.recipe.precision, measured), destination)
        return half_plan(graph, keep_float, task.recipe.precision, measured)
    emitted, plan = convert_int8(task, runtime, report_progress)
    onnx.save_model(emitted, destination)
    return plan


def _float_plan(graph: Graph, keep_float: tuple[str, ...]) -> QuantizationPlan:
    """No grids, and of every operator the type that it computes in."""
    operators = []
    for node in graph.nodes:
        made = graph.type_name(node.output[0])
        pattern = matching_pattern(node, keep_float)
        reason = "as the recipe's precision asks" if made in _FLOAT_NAMES else "works on shapes or integers"
        if pattern is not None:
            reason = f"kept in floating point by keep_float {pattern!r}"
        operators.append(OperatorPrecision(node.name, node.op_type, _FLOAT_NAMES.get(made, made), reason))
    return QuantizationPlan((), (), tuple(operators))
