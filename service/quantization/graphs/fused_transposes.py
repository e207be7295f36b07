"""Transposes that ONNX Runtime takes into the MatMul behind them, which ends the process where that computes in FP16.

Tried with ONNX Runtime 1.32: its fusion makes of such a pair a product that the CPU has no FP16 kernel for, and a later
pass does not look whether there is one. It looks through casts, so both have to compute in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from service.quantization.graphs.graph import Graph, attribute

_PASSED_THROUGH = ("Cast", "Dropout", "Identity")
_BATCHED_RANK = 3


def fused_transposes(node: NodeProto, graph: Graph) -> Iterator[NodeProto]:
    """Those right before a MatMul's operands, casts aside, that move the first of three axes or more."""
    if node.op_type != "MatMul":
        return
    for name in node.input:
        maker = graph.producer.get(name)
        while maker is not None and maker.op_type in _PASSED_THROUGH:
            maker = graph.producer.get(maker.input[0])
        if maker is not None and maker.op_type == "Transpose" and _moves_first_axis(maker):
            yield maker


def _moves_first_axis(node: NodeProto) -> bool:
    """Without `perm` the axes are reversed, and their number is not known here."""
    order = attribute(node, "perm", None)
    return order is None or (len(order) >= _BATCHED_RANK and order[0] != 0)


def fatal_in_half(graph: Graph) -> NodeProto | None:
    """A MatMul that an uploaded graph computes in FP16 and that would end the process, or None."""
    halves = (node for node in graph.nodes if graph.type_name(node.output[0]) == "FLOAT16")
    return next((node for node in halves if any(fused_transposes(node, graph))), None)
