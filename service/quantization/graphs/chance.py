"""Finds the operators of a graph that draw by chance, so that two runs on the same rows differ."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from service.quantization.graphs.graph_checks import nodes_of

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
    """Each as type and name, in subgraphs and functions too."""
    return list(dict.fromkeys(shown(node) for node in nodes_of(model) if draws(node)))
