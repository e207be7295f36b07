"""The inspect stage: makes the float graph that quantization starts from, and looks at what it could quantize.

Batch normalisation is folded and constants are computed by ONNX Runtime's basic level, which is the same on every host;
nodes get unique names and the opset the version that Q/DQ needs. Refuses what cannot be quantized, before any work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, helper

from service.domain.plan import OperatorPrecision
from service.domain.recipe import Recipe
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.engines.onnxruntime_engine import LEFT_OUT_OPTIMIZERS, OnnxRuntimeEngine
from service.errors import InvalidRecipe, OctavoError, StageFailed
from service.quantization.atomic_files import replacing, require_space
from service.quantization.data.rows import Feed, Rows
from service.quantization.emitters.opset import converted, opset_of
from service.quantization.graphs.chance import drawing_operators
from service.quantization.graphs.graph import Graph
from service.quantization.graphs.graph_checks import graphs_of, nodes_of, open_unstated_axes
from service.quantization.graphs.sparse_constants import write_out_sparse_constants
from service.quantization.graphs.sparsity import prune
from service.quantization.measures.decisions import check_labels, chosen_metric
from service.quantization.placements.half import place_half
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.placement import WEIGHTED, matching_pattern
from service.quantization.preparation.plain_biases import write_plain_biases
from service.quantization.preparation.quantized_upload import is_quantized, read_quantized
from service.quantization.preparation.ranked_outputs import ranked_outputs
from service.quantization.preparation.same_meaning import check_same_meaning
from service.quantization.preparation.stated_types import state_types
from service.quantization.task import PipelineTask, Progress

PREPARED = "prepared.onnx"
INSPECTED = "inspect.json"
# Per-channel DequantizeLinear came with opset 13.
LOWEST_OPSET = 13
LOWEST_IR = 7
_UNUSED_LABELS = (
    "the {rows} set has labels, but no output of the model is a vector of class scores, so they are not used and "
    "{metric} judges: one probability a row may change sides unnoticed; export one score a class, or send a lower "
    "budget.max_loss"
)
_INSERTED = "InsertedPrecisionFreeCast_"
_NORM_FOLDS = ("ConvBNFusion", "MatMul_BatchNormalization_Fusion")


def inspect_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes the prepared graph and what was found. Raises InvalidRecipe, InvalidDataset or StageFailed."""
    task.folder.mkdir(parents=True, exist_ok=True)
    int8 = task.recipe.precision == "int8"
    with replacing(task.folder / PREPARED) as partial:
        raised = prepare(task.model, partial, LOWEST_OPSET if int8 else 0, preparation_of(task.recipe))
    report_progress(0.6)
    reference, feed, warnings = _check_data(task)
    if raised:
        check_same_meaning(reference, task.folder / PREPARED, feed, task.threads)
    graph = Graph.load(task.folder / PREPARED)
    found: dict[str, Any] = {
        "warnings": [*warnings, *_unmatched_patterns(graph, task.recipe.keep_float)],
        "graph_digest": graph_digest(graph.model),
        "drawing": drawing_operators(graph.model),
    }
    if int8:
        found["quantizable"] = _check_quantizable(graph, task.recipe.keep_float)
    return {"files": [PREPARED, task.write(INSPECTED, found)], **found}


def _check_data(task: PipelineTask) -> tuple[Engine, Feed, list[str]]:
    """Whether the data feeds the model and the budget's metric can be told from it, before hours are spent.

    Gives the upload, the rows that judge, and warnings.
    """
    reference = OnnxRuntimeEngine.load(task.model, task.threads)
    if task.calibration is not None:
        Feed.of(Rows.open(task.calibration, "calibration"), reference.inputs)
    elif task.recipe.precision == "int8":
        raise InvalidRecipe("precision is 'int8' but no calibration set is named; name one with real rows")
    rows = judging_rows(task)
    feed = Feed.of(rows, reference.inputs)
    scores = ranked_outputs(reference, feed)
    metric = chosen_metric(task.budget, rows.labels is not None, bool(scores))
    if rows.labels is not None and scores:
        # Which output the labels are of is told later, by what the reference gets right.
        count = feed.batch_rows(1)
        outputs = reference.infer(feed.take(0, count), scores)
        check_labels(rows.labels, max(outputs[name].size // count for name in scores))
    unused = rows.labels is not None and not scores and task.budget.metric is None
    return reference, feed, [_UNUSED_LABELS.format(rows=rows.name, metric=metric)] if unused else []


def judging_rows(task: PipelineTask) -> Rows:
    """The rows that the engine is judged on: the validation set, or the calibration set where none is named."""
    if task.validation is not None:
        return Rows.open(task.validation, "validation")
    if task.calibration is not None:
        return Rows.open(task.calibration, "calibration")
    raise InvalidRecipe("no validation set is named, so nothing can be proven; name one in validation")


def reference_inputs(task: PipelineTask) -> tuple[TensorSpec, ...]:
    return OnnxRuntimeEngine.load(task.model, task.threads).inputs


@dataclass(frozen=True)
class Preparation:
    """How to prepare: whether batch normalisation is folded into the operator before it, whether Q/DQ pairs of the
    upload are taken out, and what then rewrites the simplified graph, in order; a rewrite changes the model in place
    and keeps its outputs.
    """

    fold_norms: bool = True
    strip_pairs: bool = False
    rewrites: tuple[Callable[[ModelProto], None], ...] = ()


def preparation_of(recipe: Recipe) -> Preparation:
    """What the recipe asks of the float graph before anything is measured on it."""
    rewrites = (prune,) if recipe.sparsity == "2:4" else ()
    return Preparation(recipe.tuning.fold_batch_norm, recipe.precision == "int8", rewrites)


def graph_digest(model: ModelProto) -> str:
    """SHA-256 of what the graph computes and how its parts are named; where its constants stand makes no difference."""
    digest = hashlib.sha256()
    constants = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    for part in (*model.opset_import, *model.graph.input, *model.graph.output, *model.graph.node, *constants):
        digest.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return digest.hexdigest()


def prepare(source: Path, destination: Path, lowest_opset: int, how: Preparation = Preparation()) -> bool:
    """Writes the simplified float model, and tells whether it is to compute as the upload does by rules of a newer
    opset. Raises StageFailed where ONNX Runtime or the version converter cannot, and InvalidRecipe where the upload
    holds quantized operators that cannot be read back.
    """
    model = onnx.load_model(source, load_external_data=False)
    write_out_sparse_constants(model)
    # ONNX Runtime writes the simplified model, which may have constants that were operators, by itself.
    require_space(destination.parent, 2 * model.ByteSize())
    _constants_are_no_inputs(model)
    open_unstated_axes(model)
    if not opset_of(model):
        # No operator is of ai.onnx, so that any opset says the same.
        model.opset_import.append(helper.make_opsetid("", LOWEST_OPSET))
    other = bool(how.rewrites)
    if how.strip_pairs and is_quantized(model):
        model, other = read_quantized(model).model, True
    raised = opset_of(model) < lowest_opset
    if raised:
        # The converter believes what is stated of tensors; ONNX Runtime states anew what operators give.
        for graph in graphs_of(model):
            del graph.value_info[:]
    try:
        model = _simplified(model, destination, how.fold_norms)
        if _casts_constants(model):
            # FP16 weights are cast for FP32 kernels after constants were folded.
            model = _simplified(model, destination, how.fold_norms)
        if raised:
            # The converter spells attributes of old operators as Constant nodes, which are to be constants again.
            model = converted(model, lowest_opset)
            model = _simplified(model, destination, how.fold_norms)
        state_types(model)
    except OctavoError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise StageFailed(f"the model cannot be simplified: {words}; export it with opset 13 or newer") from error
    _name_inserted_casts(model)
    _name_nodes(model)
    write_plain_biases(model)
    for rewrite in how.rewrites:
        rewrite(model)
    onnx.save_model(model, destination)
    return raised and not other


def _constants_are_no_inputs(model: ModelProto) -> None:
    """Old exporters list constants as inputs too; newer IR versions would then take them for changeable."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, LOWEST_IR)


def _simplified(model: ModelProto, destination: Path, fold_norms: bool) -> ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(destination)
    options.log_severity_level = 4
    left_out = [*LEFT_OUT_OPTIMIZERS, *(() if fold_norms else _NORM_FOLDS)]
    providers = ["CPUExecutionProvider"]
    ort.InferenceSession(model.SerializeToString(), options, providers=providers, disabled_optimizers=left_out)
    simple = onnx.load_model(destination, load_external_data=False)
    _drop_unused_domains(simple)
    return simple


def _name_inserted_casts(model: ModelProto) -> None:
    """Renames what ONNX Runtime inserted around FP16: where it loads the graph it would insert the very same names."""
    nodes = list(nodes_of(model))
    found = {name for node in nodes for name in (node.name, *node.input, *node.output)}
    renamed: dict[str, str] = {}
    for name in sorted(name for name in found if name.startswith(_INSERTED)):
        ours = f"{name.removeprefix(_INSERTED)}/cast"
        while ours in found:
            ours += "_"
        found.add(ours)
        renamed[name] = ours
    for node in nodes:
        node.name = renamed.get(node.name, node.name)
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            tensor.name = renamed.get(tensor.name, tensor.name)
        for value in graph.value_info:
            value.name = renamed.get(value.name, value.name)


def _casts_constants(model: ModelProto) -> bool:
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(node.op_type == "Cast" and node.input[0] in constants for node in model.graph.node)


def _drop_unused_domains(model: ModelProto) -> None:
    used = {"", "ai.onnx"} | {node.domain for node in nodes_of(model)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _name_nodes(model: ModelProto) -> None:
    """Gives every node a name of its own, keeping those that it has: reports and keep_float go by names."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        while not node.name:
            node.name = name if (name := f"{node.op_type}_{index}") not in taken else ""
            index += len(model.graph.node)
        taken.add(node.name)


def _unmatched_patterns(graph: Graph, patterns: tuple[str, ...]) -> list[str]:
    return [
        f"keep_float {pattern!r} matches no node; see the operators of the report for their names"
        for pattern in patterns
        if not any(matching_pattern(node, [pattern]) for node in graph.nodes)
    ]


def _check_quantizable(graph: Graph, keep_float: tuple[str, ...]) -> int:
    placement = place(graph, keep_float)
    if not placement.weighted:
        why = _why_nothing(graph, placement.operators)
        raise InvalidRecipe(f"nothing in the model can run in INT8{why}")
    return len(placement.weighted)


def _why_nothing(graph: Graph, operators: tuple[OperatorPrecision, ...]) -> str:
    weighted = [entry for entry in operators if entry.operator in WEIGHTED]
    inside = sum(node.op_type in WEIGHTED for node in nodes_of(graph.model)) - len(weighted)
    if not weighted and inside:
        return (
            f": its {inside} Conv, Gemm and MatMul stand inside an If, Loop or Scan, which stays as it is; "
            "export the branch that you need as a model of its own, or ask for fp16"
        )
    if not weighted:
        return f": it has no Conv, Gemm or MatMul with constant weights; {_step(graph)}"
    return f", for example {weighted[0].operator} {weighted[0].name!r:.120}: {weighted[0].reason}; {_step(graph)}"


def _step(graph: Graph) -> str:
    """Where whatever is measured leaves nothing to FP16, as in trees, it is no way out."""
    small = {name: (-1.0, 1.0) for node in graph.nodes for name in (*node.input, *node.output)}
    if any(entry.precision == "FP16" for entry in place_half(graph, (), "fp16", small)):
        return "ask for fp16"
    return "serve it as it was uploaded, for nothing in it computes in FP16 either"
