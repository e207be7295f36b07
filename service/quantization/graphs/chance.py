"""Finds the operators of a graph that draw by chance, so that two runs on the same rows differ."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from service.quantization.graphs.graph_checks import graphs_of, nodes_of

_DRAWING = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_TRAINING_INPUT = 2


def draws(node: NodeProto) -> bool:
    """A Dropout does so where it is told whether it is in training; else it passes everything on."""
    told = len(node.input) > _TRAINING_INPUT and bool(node.input[_TRAINING_INPUT])
    return node.op_type in _DRAWING or (node.op_type == "Dropout" and told)


def shown(node: NodeProto) -> str:
    return f"{node.op_type} {node.name!r:.120}" if node.name else node.op_type


def drawing_operators(model: ModelProto) -> list[str]:
    """Each as type and name, in subgraphs and functions too; no Dropout that a constant tells not to train."""
    off = {name for name, tensor in _constants(model) if not numpy_helper.to_array(tensor).any()}
    drawing = (node for node in nodes_of(model) if draws(node))
    return list(
        dict.fromkeys(
            shown(node) for node in drawing if node.op_type != "Dropout" or node.input[_TRAINING_INPUT] not in off
        )
    )


def _constants(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Those that hold truth values, by name."""
    for graph in graphs_of(model):
        yield from ((tensor.name, tensor) for tensor in graph.initializer if tensor.data_type == TensorProto.BOOL)
    for node in nodes_of(model):
        values = [entry.t for entry in node.attribute if entry.name == "value"] if node.op_type == "Constant" else []
        yield from ((node.output[0], tensor) for tensor in values if tensor.data_type == TensorProto.BOOL)
