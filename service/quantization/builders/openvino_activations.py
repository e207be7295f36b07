"""Writes activations as OpenVINO has kernels for them, where it computes the operator itself by its slow reference.

Tried with OpenVINO 2026.4 on x86: HardSigmoid and Selu run in plain C++ on plain layouts, and what every convolution
beside one makes is reordered twice. HardSwish, which MobileNetV3 and its kin are full of, is a HardSigmoid and a
product once ONNX Runtime has written it out. A HardSigmoid of alpha 0 is computed as if nothing were stated. Other
operators of the kind, such as Sin and Tan, have no other form.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.quantization.emitters.opset import opset_of
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.graphs.graph_checks import nodes_of

_CLIP_BY_INPUTS = 11
_SMALLEST_ALPHA = 1e-3
_SELU_ALPHA, _SELU_GAMMA = 1.6732632, 1.0507010
_HARD_SIGMOID_ALPHA, _HARD_SIGMOID_BETA = 0.2, 0.5


def write_activations(model: ModelProto) -> bool:
    """Replaces those of the main graph, and tells whether there was one. What one made keeps its name, and the node
    that makes it now keeps its node's.
    """
    if not any(node.op_type in ("HardSigmoid", "Selu") for node in model.graph.node):
        return False
    graph = Graph(model)
    writer = _Writer(graph)
    nodes = [written for node in graph.nodes for written in writer.written(node)]
    if len(nodes) == len(graph.nodes):
        return False
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return True


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._opset = opset_of(graph.model)
        self._taken = {name for node in nodes_of(graph.model) for name in (*node.input, *node.output)}
        self._taken |= {*graph.constants, *graph.inputs}

    def written(self, node: NodeProto) -> list[NodeProto]:
        """The node itself where it is another, where its type is not known, and right behind a dequantization: the
        bounds of what it becomes would be rounded to the grid before it.
        """
        maker = self._graph.producer.get(node.input[0]) if node.input else None
        behind = maker is not None and maker.op_type == "DequantizeLinear"
        if behind or self._graph.type_name(node.output[0]) == "unknown":
            return [node]
        if node.op_type == "Selu":
            return self._selu(node)
        return self._hard_sigmoid(node) if node.op_type == "HardSigmoid" else [node]

    def _selu(self, node: NodeProto) -> list[NodeProto]:
        """gamma Elu(x)."""
        curve, gamma = self._new(node, "elu"), attribute(node, "gamma", _SELU_GAMMA)
        return [
            helper.make_node("Elu", [node.input[0]], [curve], curve, alpha=attribute(node, "alpha", _SELU_ALPHA)),
            helper.make_node("Mul", [curve, self._number(node, "gamma", gamma)], [node.output[0]], node.name),
        ]

    def _hard_sigmoid(self, node: NodeProto) -> list[NodeProto]:
        """alpha Clip(x + beta / alpha, 0, 1 / alpha): of alpha 1/6 and beta 1/2 the form that is taken for a kernel.

        Clip(alpha x + beta, 0, 1) where alpha is not positive, or so small that FP16 has no inverse of it.
        """
        alpha, beta = attribute(node, "alpha", _HARD_SIGMOID_ALPHA), attribute(node, "beta", _HARD_SIGMOID_BETA)
        first, second, slope = self._new(node, "first"), self._new(node, "second"), self._number(node, "slope", alpha)
        if alpha > _SMALLEST_ALPHA:
            return [
                helper.make_node("Add", [node.input[0], self._number(node, "shift", beta / alpha)], [first], first),
                self._clip(node, (first, second, second), 1 / alpha),
                helper.make_node("Mul", [second, slope], [node.output[0]], node.name),
            ]
        return [
            helper.make_node("Mul", [node.input[0], slope], [first], first),
            helper.make_node("Add", [first, self._number(node, "shift", beta)], [second], second),
            self._clip(node, (second, node.output[0], node.name), 1.0),
        ]

    def _clip(self, node: NodeProto, place: tuple[str, str, str], highest: float) -> NodeProto:
        """`place`: what it reads, what it makes, and its name."""
        source, made, name = place
        if self._opset < _CLIP_BY_INPUTS:
            return helper.make_node("Clip", [source], [made], name, min=0.0, max=highest)
        bounds = [self._number(node, "lowest", 0.0), self._number(node, "highest", highest)]
        return helper.make_node("Clip", [source, *bounds], [made], name)

    def _number(self, node: NodeProto, what: str, value: float) -> str:
        """A constant of the type that the node computes in."""
        name = self._new(node, what)
        kind = TensorProto.DataType.Value(self._graph.type_name(node.output[0]))
        # As raw bytes: OpenVINO misreads BF16 that stands in a list of integers.
        number = np.array(value, helper.tensor_dtype_to_np_dtype(kind))
        self._graph.model.graph.initializer.append(numpy_helper.from_array(number, name))
        return name

    def _new(self, node: NodeProto, what: str) -> str:
        name = f"{node.output[0]}/{what}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
