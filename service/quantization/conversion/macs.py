"""How many multiply-accumulates each weighted operator does for one row, from inferred shapes."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from service.quantization.graphs.graph import Graph
from service.quantization.graphs.inferred_values import inferred_values
from service.quantization.placements.placement import WEIGHTED


def multiply_accumulates(graph: Graph) -> dict[str, int]:
    """By name, for every Conv, Gemm and MatMul with a constant weight. An axis of unknown size counts as one."""
    sizes = tensor_sizes(graph)
    counts: dict[str, int] = {}
    for node in graph.nodes:
        weight = graph.constants.get(node.input[1]) if node.op_type in WEIGHTED else None
        if weight is not None and len(weight.dims) >= 2:
            # Each output element is a sum over one output channel's weights.
            channels = _output_channels(node, list(weight.dims))
            counts[node.name] = sizes.get(node.output[0], channels) * prod(weight.dims) // max(channels, 1)
    return counts


def tensor_sizes(graph: Graph) -> dict[str, int]:
    """Elements a row of every tensor of known rank; the first axis of those that are computed is the rows'."""
    sizes = {}
    for value in inferred_values(graph.model):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            sizes[value.name] = prod(max(1, dim.dim_value) for dim in dims[1:])
    return sizes


def _output_channels(node: NodeProto, dims: list[int]) -> int:
    if node.op_type == "Conv":
        return dims[0]
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return dims[0] if transposed else dims[-1]
