"""Measures how much noise each quantized weight and activation alone adds to a model's outputs, on a few rows.

Noise is the squared error over the variance of the float model's output, the mean over all outputs. One part at a time
is quantized in the float graph, whose optimized kernels run it fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan, TensorGrid, WeightGrid
from service.domain.tensor import NUMPY_TYPES
from service.engines.onnxruntime_engine import LEFT_OUT_OPTIMIZERS
from service.errors import EngineFailed
from service.quantization.data.rows import Array
from service.quantization.emitters.qdq import quantized
from service.quantization.graphs.graph import Graph
from service.quantization.measures.decisions import scores_outputs
from service.quantization.measures.noise import joined, noise_share
from service.quantization.measures.simulation import simulated
from service.quantization.task import Progress

# Activations that all together add less than this share are not measured one by one.
_SMALL_SHARE = 0.05
MOST_SIMULATIONS = 80
# The last lets a pair travel past a pooling or a reshaping, and ONNX Runtime 1.32 aborts the process where a branch
# reads what is behind that. Rounding costs the same on both sides.
_LEFT_OUT_OPTIMIZERS = (*LEFT_OUT_OPTIMIZERS, "QDQPropagationTransformer")
Batches = Sequence[dict[str, Array]]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Noise by operator of its weights, noise by tensor of its grid, and what all of them add up to together.

    `outputs` are those of the float model that the budget's metric may judge, on the measured rows.
    """

    weights: dict[str, float]
    activations: dict[str, float]
    whole: float
    outputs: tuple[Array, ...]

    @property
    def added(self) -> float:
        """What the parts would add up to, were they independent."""
        return sum(self.weights.values()) + sum(self.activations.values())


@dataclass(frozen=True, slots=True)
class Subject:
    """`graph` is the float graph and `tuned` the one that the plan was made for: the same nodes, with weights that were
    perhaps rewritten. `emitted` is the plan as a graph.
    """

    graph: Graph
    tuned: Graph
    plan: QuantizationPlan
    emitted: ModelProto
    threads: int


def measure(subject: Subject, batches: Batches, report_progress: Progress, most: int = MOST_SIMULATIONS) -> Sensitivity:
    """One simulation for each weighted operator and, where activations matter, for each quantized tensor; where there
    are more than `most` of a kind, neighbours share one, and its noise equally.
    """
    model = ModelProto()
    model.CopyFrom(subject.graph.model)
    expected = _outputs(_session(model, subject.threads), batches)
    steps = iter(np.arange(1, 10**6) / (len(subject.plan.weights) + len(subject.plan.activations) + 2))

    def noise_of(changed: ModelProto) -> float:
        report_progress(min(1.0, float(next(steps))))
        return _noise(expected, _outputs(_session(changed, subject.threads), batches))

    weights: dict[str, float] = {}
    for group in _groups(subject.plan.weights, most):
        with ExitStack() as stack:
            for grids in group:
                stack.enter_context(_quantized_weight(model, subject.tuned, grids))
            noise = noise_of(model)
        weights |= {grids.operator: noise / len(group) for grids in group}
    together = noise_of(with_quantized(subject.graph, subject.plan.activations))
    activations: dict[str, float] = {}
    if together > _SMALL_SHARE * sum(weights.values()):
        for tensors in _groups(subject.plan.activations, most):
            noise = noise_of(with_quantized(subject.graph, tensors))
            activations |= {grid.tensor: noise / len(tensors) for grid in tensors}
    simulation = simulated(subject.emitted, subject.threads)
    whole = _noise(expected, _joined([list(simulation.infer(batch).values()) for batch in batches]))
    return Sensitivity(weights, activations, whole, _judged(expected))


def _judged(outputs: list[Array]) -> tuple[Array, ...]:
    """All that hold scores, as [rows, scores], or the first floating-point output where none does. One without rows, as
    of a detector that finds nothing, predicts nothing.
    """
    floats = [values for values in outputs if values.dtype.kind == "f" and values.size]
    scores = [values for values in floats if scores_outputs({"": values}, len(values))]
    if scores:
        return tuple(values.reshape(len(values), -1) for values in scores)
    return tuple(floats[:1] or outputs[:1])


def _groups(parts: Sequence[Part], most: int) -> list[Sequence[Part]]:
    size = max(1, -(-len(parts) // most))
    return [parts[start : start + size] for start in range(0, len(parts), size)]


def with_quantized(graph: Graph, grids: Iterable[TensorGrid]) -> ModelProto:
    """A copy of the float graph in which all readers see these tensors rounded to their grids."""
    model = ModelProto()
    model.CopyFrom(graph.model)
    by_tensor = {grid.tensor: grid for grid in grids}
    nodes: list[NodeProto] = []
    for tensor in graph.inputs & by_tensor.keys():
        nodes += _pair(model, by_tensor[tensor])
    for node in model.graph.node:
        replaced = [f"{name}/rounded" if name in by_tensor else name for name in node.input]
        del node.input[:]
        node.input.extend(replaced)
        nodes.append(node)
        for name in node.output:
            if name in by_tensor:
                nodes += _pair(model, by_tensor[name])
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _pair(model: ModelProto, grid: TensorGrid) -> list[NodeProto]:
    tensor = grid.tensor
    constants = [f"{tensor}/rounded_scale", f"{tensor}/rounded_zero_point"]
    zero_point = np.asarray(grid.zero_point, NUMPY_TYPES[grid.datatype])
    for name, value in zip(constants, (np.float32(grid.scales[0]), zero_point), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return [
        helper.make_node("QuantizeLinear", [tensor, *constants], [f"{tensor}/integers"]),
        helper.make_node("DequantizeLinear", [f"{tensor}/integers", *constants], [f"{tensor}/rounded"]),
    ]


@contextmanager
def _quantized_weight(model: ModelProto, tuned: Graph, grids: WeightGrid) -> Iterator[None]:
    """Puts one operator's rounded weight, and its bias as tuned, into the model for a while."""
    node = next(node for node in tuned.nodes if node.name == grids.operator)
    values = {grids.weight.tensor: _rounded(tuned, grids.weight)}
    if len(node.input) > 2 and node.input[2] in tuned.constants:
        values[node.input[2]] = np.asarray(tuned.constant(node.input[2]))
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in values]
    before = [tensor.SerializeToString() for tensor in tensors]
    for tensor in tensors:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    try:
        yield
    finally:
        for tensor, bytes_before in zip(tensors, before, strict=True):
            tensor.ParseFromString(bytes_before)


def _rounded(graph: Graph, grid: TensorGrid) -> npt.NDArray[np.float32]:
    values = graph.constant(grid.tensor)
    assert values is not None
    shape = [1] * values.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    scales = np.asarray(grid.scales, np.float32).reshape(shape)
    return quantized(values, grid).astype(np.float32) * scales


def _session(model: ModelProto, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(content, options, providers, disabled_optimizers=_LEFT_OUT_OPTIMIZERS)
    except Exception as error:
        raise EngineFailed(f"the model cannot be simulated: {error}; check the model") from error


def _outputs(session: ort.InferenceSession, batches: Batches) -> list[Array]:
    return _joined([session.run(None, batch) for batch in batches])


def _joined(parts: list[list[Array]]) -> list[Array]:
    """Each output over all batches; one without rows is taken as it is."""
    return [joined(values) for values in zip(*parts, strict=True)]


def _noise(expected: list[Array], got: list[Array]) -> float:
    shares = [noise_share(x, y) for x, y in zip(expected, got, strict=True) if x.dtype.kind == "f"]
    return float(np.mean(shares)) if shares else 0.0
