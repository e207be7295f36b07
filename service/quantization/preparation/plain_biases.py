"""Writes the constant bias of a Gemm as INT8 kernels take it: unscaled, one number for each output channel."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from service.quantization.graphs.graph import Graph, attribute


def write_plain_biases(model: ModelProto) -> None:
    """In place. A bias that is computed, or differs between the rows of a batch, stays as it is."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "Gemm" and not node.domain and len(node.input) > 2:
            _write_plain_bias(model, graph, node)


def _write_plain_bias(model: ModelProto, graph: Graph, node: NodeProto) -> None:
    weight, bias = graph.constant(node.input[1]), graph.constant(node.input[2])
    beta = attribute(node, "beta", 1.0)
    if weight is None or bias is None or weight.ndim != 2 or bias.dtype != np.float32:
        return
    channels = weight.shape[0 if attribute(node, "transB", 0) else 1]
    one_row = bias.size == 1 or bias.shape in ((channels,), (1, channels))
    if not one_row or (bias.shape == (channels,) and beta == 1):
        return
    plain = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1) * np.float32(beta), (channels,)))
    if graph.owned(node.input[2]):
        graph.constants[node.input[2]].CopyFrom(numpy_helper.from_array(plain, node.input[2]))
    else:
        name = f"{node.name}/bias"
        while name in graph.constants or name in graph.producer or name in graph.inputs:
            name += "_"
        model.graph.initializer.append(numpy_helper.from_array(plain, name))
        graph.constants[name] = model.graph.initializer[-1]
        node.input[2] = name
    kept = [entry for entry in node.attribute if entry.name != "beta"]
    del node.attribute[:]
    node.attribute.extend(kept)
