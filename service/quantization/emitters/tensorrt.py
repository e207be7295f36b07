"""Writes a plan into a float graph as Q/DQ nodes where TensorRT fuses them: INT8, with FP32 or half around it.

Every reader gets a pair of its own, weights are INT8 constants behind a DequantizeLinear, biases stay as they are. The
network is strongly typed: the type of a scale is the type around it. Refuses grids that TensorRT's parser refuses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto

from service.domain.plan import OperatorPrecision, QuantizationPlan, TensorGrid
from service.errors import StageFailed
from service.quantization.emitters.half import emit_half_as_placed
from service.quantization.emitters.opset import raised
from service.quantization.emitters.qdq import QdqWriter
from service.quantization.graphs.graph import Graph
from service.quantization.placements.half import SMALLEST, Ranges, place_half
from service.quantization.placements.tensorrt import quantized_inputs
from service.quantization.placements.tensorrt_kernels import CONVOLUTIONS

# Scales in FP16 or BF16 came with opset 19, scales along an axis with 13.
_OPSETS = {"fp32": 13, "fp16": 19, "bf16": 22}


def plan_in_half(
    plan: QuantizationPlan, graph: Graph, keep_float: tuple[str, ...], precision: str, ranges: Ranges | None = None
) -> QuantizationPlan:
    """The plan with `precision` (fp16 or bf16) instead of FP32 around INT8, but where numbers would outgrow it.

    An INT8 operator whose input or result outgrows FP16 stays in FP32 altogether. Scales become what half can hold.
    """
    placed = {operator.name: operator for operator in place_half(graph, keep_float, precision, ranges)}
    operators = tuple(_in_half(operator, placed[operator.name]) for operator in plan.operators)
    int8 = {operator.name for operator in operators if operator.precision == "INT8"}
    convolutions = _int8_convolutions(graph, int8)
    read = {name for node in graph.nodes if node.name in int8 for name in quantized_inputs(node, graph, convolutions)}
    activations = tuple(half_scales(grid, precision) for grid in plan.activations if grid.tensor in read)
    weights = tuple(
        replace(entry, weight=half_scales(entry.weight, precision)) for entry in plan.weights if entry.operator in int8
    )
    return QuantizationPlan(activations, weights, operators)


def _in_half(planned: OperatorPrecision, placed: OperatorPrecision) -> OperatorPrecision:
    if planned.precision not in ("INT8", "FP32") or (planned.precision == "INT8" and placed.precision != "FP32"):
        return planned
    # Why an operator is not INT8 is told along with the type that it has instead.
    reason = placed.reason if placed.precision == "FP32" else planned.reason
    return replace(planned, precision=placed.precision, reason=reason)


def half_scales(grid: TensorGrid, precision: str) -> TensorGrid:
    """The grid with scales that FP16 or BF16 can hold, rounded up so that no value falls off its end."""
    kept = 0 if precision == "fp16" else 16
    return replace(grid, scales=tuple(_rounded_up(scale, kept) for scale in grid.scales))


def _rounded_up(scale: float, dropped_bits: int) -> float:
    if dropped_bits:
        bits = int(np.float32(scale).view(np.uint32))
        return float(np.uint32(-(-bits >> dropped_bits) << dropped_bits).view(np.float32))
    half = np.float16(max(scale, SMALLEST))
    return float(half if float(half) >= scale else np.nextafter(half, np.float16(np.inf)))


def emit_tensorrt(model: ModelProto, plan: QuantizationPlan, around: str = "fp32") -> ModelProto:
    """A copy of `model` with the plan in it; `model` must be the one that the plan was made for.

    `around` is the type of all that is not INT8: fp32, or fp16 or bf16 for a plan of `plan_in_half`, whose operators in
    FP32 keep it. Raises StageFailed.
    """
    for grid in (*plan.activations, *(entry.weight for entry in plan.weights)):
        _check(grid)
    emitted = _write(raised(model, _OPSETS[around]), plan)
    return emitted if around == "fp32" else emit_half_as_placed(emitted, plan.operators, around)


def _check(grid: TensorGrid) -> None:
    if grid.datatype != "INT8" or grid.zero_point != 0:
        raise StageFailed(
            f"tensor {grid.tensor!r} has {grid.datatype} with zero point {grid.zero_point}, which TensorRT refuses; "
            "plan INT8 with zero point 0"
        )
    if not all(0 < scale < np.inf for scale in grid.scales):
        raise StageFailed(f"tensor {grid.tensor!r} has scale {min(grid.scales)}; TensorRT takes positive scales only")


def _int8_convolutions(graph: Graph, int8: set[str]) -> frozenset[str]:
    return frozenset(node.name for node in graph.nodes if node.op_type in CONVOLUTIONS and node.name in int8)


def _write(model: ModelProto, plan: QuantizationPlan) -> ModelProto:
    """A pair for each quantized input of each INT8 operator: another reader's may one day have to differ."""
    writer = QdqWriter(model)
    int8 = {entry.name for entry in plan.operators if entry.precision == "INT8"}
    convolutions = _int8_convolutions(writer.graph, int8)
    grids = {grid.tensor: grid for grid in plan.activations}
    weights = {entry.operator: entry.weight for entry in plan.weights}
    for node in writer.graph.nodes:
        if node.name in weights:
            writer.replace_constant(node, 1, weights[node.name])
        if node.name in int8:
            wanted = set(quantized_inputs(node, writer.graph, convolutions)) & grids.keys()
            for index, name in enumerate(node.input):
                if name in wanted:
                    writer.insert_own_pair(node, index, grids[name])
    return writer.finished()
