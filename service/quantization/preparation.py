"""The inspect stage: makes the float graph that quantization starts from, and looks at what it could quantize.

Batch normalisation is folded and constants are computed by ONNX Runtime's basic level, which is the same on every host;
nodes get unique names and the opset the version that Q/DQ needs. Refuses what cannot be quantized, before any work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, version_converter

from service.domain.plan import OperatorPrecision
from service.domain.tensor import TensorSpec
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import InvalidRecipe, StageFailed
from service.quantization.atomic_files import replacing, require_space
from service.quantization.decisions import check_labels, chosen_metric, scores_output
from service.quantization.graph import Graph
from service.quantization.graph_checks import nodes_of
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import matching_pattern
from service.quantization.rows import Feed, Rows
from service.quantization.task import PipelineTask, Progress

PREPARED = "prepared.onnx"
INSPECTED = "inspect.json"
# Per-channel DequantizeLinear came with opset 13.
LOWEST_OPSET = 13
LOWEST_IR = 7
_QUANTIZED_PREFIXES = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuant")


def inspect_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes the prepared graph and what was found. Raises InvalidRecipe, InvalidDataset or StageFailed."""
    task.folder.mkdir(parents=True, exist_ok=True)
    int8 = task.recipe.precision == "int8"
    with replacing(task.folder / PREPARED) as partial:
        prepare(task.model, partial, LOWEST_OPSET if int8 else 0)
    report_progress(0.6)
    _check_data(task)
    graph = Graph.load(task.folder / PREPARED)
    found: dict[str, Any] = {"warnings": _unmatched_patterns(graph, task.recipe.keep_float)}
    if int8:
        found["quantizable"] = _check_quantizable(graph, task.recipe.keep_float)
    return {"files": [PREPARED, task.write(INSPECTED, found)], **found}


def _check_data(task: PipelineTask) -> None:
    """Whether the data feeds the model and the budget's metric can be told from it, before hours are spent."""
    reference = OnnxRuntimeEngine.load(task.model, task.threads)
    if task.calibration is not None:
        Feed.of(Rows.open(task.calibration, "calibration"), reference.inputs)
    elif task.recipe.precision == "int8":
        raise InvalidRecipe("precision is 'int8' but no calibration set is named; name one with real rows")
    rows = judging_rows(task)
    feed = Feed.of(rows, reference.inputs)
    count = feed.batch_rows(1)
    outputs = reference.infer(feed.take(0, count))
    scores = scores_output(outputs, count)
    chosen_metric(task.budget, rows.labels is not None, scores is not None)
    if rows.labels is not None and scores is not None:
        check_labels(rows.labels, outputs[scores].size // count)


def judging_rows(task: PipelineTask) -> Rows:
    """The rows that the engine is judged on: the validation set, or the calibration set where none is named."""
    if task.validation is not None:
        return Rows.open(task.validation, "validation")
    if task.calibration is not None:
        return Rows.open(task.calibration, "calibration")
    raise InvalidRecipe("no validation set is named, so nothing can be proven; name one in validation")


def reference_inputs(task: PipelineTask) -> tuple[TensorSpec, ...]:
    return OnnxRuntimeEngine.load(task.model, task.threads).inputs


def prepare(source: Path, destination: Path, lowest_opset: int) -> None:
    """Writes the simplified float model. Raises StageFailed where ONNX Runtime or the version converter cannot."""
    model = onnx.load_model(source, load_external_data=False)
    # ONNX Runtime writes the simplified model, which may have constants that were operators, by itself.
    require_space(destination.parent, 2 * source.stat().st_size)
    _constants_are_no_inputs(model)
    try:
        model = _simplified(model, destination)
        if _opset(model) < lowest_opset:
            # The converter spells attributes of old operators as Constant nodes, which are to be constants again.
            model = _simplified(version_converter.convert_version(model, lowest_opset), destination)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise StageFailed(f"the model cannot be simplified: {words}; export it with opset 13 or newer") from error
    _name_nodes(model)
    onnx.save_model(model, destination)


def _constants_are_no_inputs(model: ModelProto) -> None:
    """Old exporters list constants as inputs too; newer IR versions would then take them for changeable."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, LOWEST_IR)


def _simplified(model: ModelProto, destination: Path) -> ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(destination)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    simple = onnx.load_model(destination, load_external_data=False)
    _drop_unused_domains(simple)
    return simple


def _drop_unused_domains(model: ModelProto) -> None:
    used = {"", "ai.onnx"} | {node.domain for node in nodes_of(model)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _opset(model: ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _name_nodes(model: ModelProto) -> None:
    """Gives every node a name of its own, keeping those that it has: reports and keep_float go by names."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        while not node.name:
            node.name = name if (name := f"{node.op_type}_{index}") not in taken else ""
            index += len(taken)


def _unmatched_patterns(graph: Graph, patterns: tuple[str, ...]) -> list[str]:
    return [
        f"keep_float {pattern!r} matches no node; see the operators of the report for their names"
        for pattern in patterns
        if not any(matching_pattern(node, [pattern]) for node in graph.nodes)
    ]


def _check_quantizable(graph: Graph, keep_float: tuple[str, ...]) -> int:
    already = next((node for node in graph.nodes if node.op_type.startswith(_QUANTIZED_PREFIXES)), None)
    if already is not None:
        raise InvalidRecipe(
            f"the model is quantized already: it has a {already.op_type} node, {already.name!r:.120}; upload its float "
            "version, or ask for precision fp32 to serve it as it is"
        )
    placement = place(graph, keep_float)
    if not placement.weighted:
        raise InvalidRecipe(f"nothing in the model can run in INT8{_why_nothing(placement.operators)}; ask for fp16")
    return len(placement.weighted)


def _why_nothing(operators: tuple[OperatorPrecision, ...]) -> str:
    weighted = [entry for entry in operators if entry.operator in ("Conv", "Gemm", "MatMul")]
    if not weighted:
        return ": it has no Conv, Gemm or MatMul with constant weights"
    return f", for example {weighted[0].operator} {weighted[0].name!r:.120}: {weighted[0].reason}"
