"""What ONNX Runtime's CUDA provider does with an emitted Q/DQ graph: nothing of it runs on integer kernels.

Its fusions of Q/DQ pairs are made for the CPU provider; on CUDA a pair rounds values, and operators compute in the type
of its scales. What such a graph gains is the size of its weights.
"""

from __future__ import annotations

from onnx import ModelProto

from service.quantization.graphs.graph import Graph
from service.quantization.lint.prediction import Predicted

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_RULE = "the CUDA provider has no integer kernel behind Q/DQ pairs: they round, and it computes in floating point"


def predict(model: ModelProto) -> tuple[Predicted, ...]:
    """One prediction for each operator that computes in floating point numbers, in the graph's order."""
    graph = Graph(model)
    return tuple(
        Predicted(node.name, node.op_type, False, _RULE)
        for node in graph.nodes
        if node.op_type not in _PAIR and graph.type_name(node.output[0]) in _FLOATS
    )
