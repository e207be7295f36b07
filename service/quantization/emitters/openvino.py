"""Writes a plan into a float graph as the Q/DQ nodes that OpenVINO's low-precision transformations look for.

Weights become INT8 constants behind a DequantizeLinear, biases stay float. Operators that move values stay bare: the
pair before them serves what follows. What an INT8 operator makes is read through its pair by everyone but the caller.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from service.domain.plan import QuantizationPlan
from service.quantization.emitters.qdq import QdqWriter
from service.quantization.graphs.graph import Graph
from service.quantization.placements.openvino import MOVING, averages_padding

# OpenVINO 2026.4 applies the weight's scale twice to an INT8 convolution that has no bias, or zeros for one, where its
# result is read in two ways. A bias too small to change any sum keeps it from that.
_TINY = 1e-30


def emit_openvino(model: ModelProto, plan: QuantizationPlan) -> ModelProto:
    """A copy of `model` with the plan in it; `model` must be the one that the plan was made for."""
    writer = QdqWriter(model)
    graph = writer.graph
    nodes = {node.name: node for node in graph.nodes}
    int8 = {entry.name for entry in plan.operators if entry.precision == "INT8"}
    for operator in plan.weights:
        node = nodes[operator.operator]
        writer.replace_constant(node, 1, operator.weight)
        if node.op_type == "Conv" and not _has_bias(node, graph):
            channels = graph.constants[operator.weight.tensor].dims[0]
            writer.set_bias(node, np.full(channels, _TINY, np.float32))
    for grid in plan.activations:
        maker = graph.producer.get(grid.tensor)
        made_in_int8 = maker is not None and maker.name in int8
        if maker is not None and made_in_int8 and maker.op_type in MOVING:
            continue
        # Behind a pair the device would average in INT8 whatever the plan says.
        readers = {node.name for node in graph.readers[grid.tensor] if not averages_padding(node)}
        writer.insert_pair(grid, readers if made_in_int8 else readers & int8)
    return writer.finished()


def _has_bias(node: NodeProto, graph: Graph) -> bool:
    bias = graph.constant(node.input[2]) if len(node.input) > 2 else None
    return bias is not None and bool(bias.any())
