"""How much of a network's arithmetic runs in INT8: multiply-accumulates of one row, operator by operator."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from math import prod
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, shape_inference

from service.quantization.builders.builder import ExecutedOperator
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare


def count_macs(model: Path) -> dict[str, int]:
    """Multiply-accumulates of each Conv, Gemm and MatMul by a constant, by the node's name; an open extent is one.

    Shapes that the graph computes are folded first, as every runtime does.
    """
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        prepare(model, Path(folder) / "prepared.onnx", LOWEST_OPSET)
        graph = shape_inference.infer_shapes(onnx.load_model(Path(folder) / "prepared.onnx")).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    results = _result_shapes(graph)
    return {
        node.name: _macs(node, shapes[node.input[1]], results[node.output[0]])
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in shapes
    }


def int8_share(macs: dict[str, int], int8: Collection[str]) -> float:
    """The share of `macs` whose operators are named in `int8`."""
    return sum(count for name, count in macs.items() if name in int8) / sum(macs.values())


def int8_names(executed: Iterable[ExecutedOperator]) -> frozenset[str]:
    """The operators that an engine runs in INT8."""
    return frozenset(operator.name for operator in executed if operator.int8)


def _result_shapes(graph: GraphProto) -> dict[str, list[int]]:
    values = (*graph.value_info, *graph.output)
    # An extent without a number, the batch's first of all, is one.
    return {value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in values}


def _macs(node: NodeProto, weight: list[int], result: list[int]) -> int:
    """Each element of the result sums over one output channel's weights."""
    if node.op_type == "Conv":
        return prod(result) * prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return prod(result) * weight[1 if transposed else 0]
