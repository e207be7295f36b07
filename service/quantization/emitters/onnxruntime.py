"""Writes a plan into a float graph as Q/DQ nodes, in the places where ONNX Runtime's CPU kernels fuse them.

Weights become INT8 constants and biases INT32 ones, each behind a DequantizeLinear. What an INT8 operator makes is read
only through its Q/DQ pair; other tensors are read through the pair by INT8 operators alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from onnx import ModelProto, NodeProto

from service.domain.plan import QuantizationPlan, TensorGrid
from service.quantization.emitters.qdq import QdqWriter
from service.quantization.graphs.graph import Graph, attribute

# ONNX Runtime lets a DequantizeLinear travel past these (and drops an Identity on the way). Version 1.32 aborts the
# process where the tensor behind them is one that a subgraph reads.
_PASSED = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"})


def emit_onnxruntime(model: ModelProto, plan: QuantizationPlan) -> ModelProto:
    """A copy of `model` with the plan in it; `model` must be the one that the plan was made for."""
    writer = QdqWriter(model)
    nodes = {node.name: node for node in writer.graph.nodes}
    int8 = {entry.name for entry in plan.operators if entry.precision == "INT8"}
    for operator in plan.weights:
        writer.replace_constant(nodes[operator.operator], 1, operator.weight)
        if operator.bias is not None:
            writer.replace_constant(nodes[operator.operator], 2, operator.bias)
    planned = {grid.tensor: grid for grid in plan.activations}
    stops = _stops(writer.graph, planned, int8)
    # What moves integers to a stop is as good as INT8.
    int8 |= {writer.graph.producer[tensor].name for tensor in stops}
    for grid in (stops | planned).values():
        _insert_pair(writer, grid, int8)
    return writer.finished()


def _stops(graph: Graph, planned: Mapping[str, TensorGrid], int8: Collection[str]) -> dict[str, TensorGrid]:
    """Grids for the tensors that a subgraph reads and a DequantizeLinear would travel to, by tensor: a pair of their
    own stops it before them. Their values lie on that grid already, so that the pair rounds nothing.
    """
    lying: dict[str, TensorGrid] = {}
    moved: list[str] = []
    for node in graph.nodes:
        # What no INT8 operator makes is read in floating point but for INT8 operators.
        if node.name in int8:
            lying |= {name: planned[name] for name in node.output if name in planned}
        elif node.op_type in _PASSED and node.input[0] in lying:
            lying[node.output[0]] = replace(lying[node.input[0]], tensor=node.output[0])
            moved.append(node.output[0])
    return {tensor: lying[tensor] for tensor in moved if tensor in graph.read_inside}


def _insert_pair(writer: QdqWriter, grid: TensorGrid, int8: Collection[str]) -> None:
    """tensor -> QuantizeLinear -> DequantizeLinear -> readers. What a caller or a subgraph reads is behind it too."""
    graph, tensor = writer.graph, grid.tensor
    maker = graph.producer.get(tensor)
    readers = {node.name for node in graph.readers[tensor]}
    if maker is None or maker.name not in int8:
        writer.insert_pair(grid, readers & set(int8))
        return
    quantized_at_load = [
        node for node in graph.readers[tensor] if node.name not in int8 and _is_weighted(node, tensor, graph)
    ]
    if tensor in graph.outputs | graph.read_inside:
        writer.move_output_behind_pair(grid)
    else:
        writer.insert_pair(grid, readers - {node.name for node in quantized_at_load})
    for node in quantized_at_load:
        writer.dequantize_by_channel(node, _by_channel(node, grid, graph))


def _is_weighted(node: NodeProto, tensor: str, graph: Graph) -> bool:
    """ONNX Runtime quantizes float weights by itself where it finds them between Q/DQ pairs of one scale."""
    return node.op_type in ("Conv", "Gemm") and node.input[0] == tensor and node.input[1] in graph.constants


def _by_channel(node: NodeProto, grid: TensorGrid, graph: Graph) -> TensorGrid:
    """The same grid as one equal scale a channel: a form that ONNX Runtime leaves in floating point."""
    weight = graph.constants[node.input[1]]
    axis = 0 if attribute(node, "transA", 0) else 1
    channels = weight.dims[1] * attribute(node, "group", 1)
    if node.op_type == "Gemm":
        channels = weight.dims[1 if attribute(node, "transB", 0) else 0]
    return replace(grid, scales=grid.scales * channels, axis=axis)
