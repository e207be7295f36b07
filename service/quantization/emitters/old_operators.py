"""What ONNX's version converter leaves as it was although a newer opset reads it otherwise, put right around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.errors import StageFailed
from service.quantization.graphs.graph import attribute
from service.quantization.graphs.graph_checks import graphs_of, nodes_of

# The first opsets where these were read in today's way.
_PAD, _RESIZE, _HARDMAX = 11, 11, 13
_RESIZES = ("Upsample", "Resize")


def ready_to_raise(model: ModelProto, opset: int) -> None:
    """In place, before a model of `opset` is converted: nodes that mean the same in every opset."""
    if opset < _PAD:
        for node in nodes_of(model):
            if node.op_type == "Pad" and attribute(node, "mode", b"constant") != b"constant":
                # ONNX Runtime writes the default out, and the converter has no place for it.
                kept = [entry for entry in node.attribute if entry.name != "value"]
                del node.attribute[:]
                node.attribute.extend(kept)
    if opset < _HARDMAX:
        for graph in graphs_of(model):
            nodes = [each for node in graph.node for each in _flattened(node)]
            del graph.node[:]
            graph.node.extend(nodes)


def put_right(model: ModelProto, old: ModelProto, opset: int) -> None:
    """In place, after `old` of `opset` was converted to `model`: coordinates of resized pictures.

    Raises StageFailed for a resize that no node of a newer opset can stand for.
    """
    if opset >= _RESIZE:
        return
    tensors = [tensor for graph in graphs_of(old) for tensor in graph.initializer]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    for node in nodes_of(old):
        if node.op_type == "Constant" and (tensor := attribute(node, "value", None)) is not None:
            constants[node.output[0]] = numpy_helper.to_array(tensor)
    modes = {node.output[0]: _rounding(node, constants) for node in nodes_of(old) if node.op_type in _RESIZES}
    for node in nodes_of(model):
        if node.op_type == "Resize" and node.output[0] in modes:
            # Old opsets knew no other coordinates than these.
            stated = {"coordinate_transformation_mode": "asymmetric"}
            if attribute(node, "mode", b"nearest") == b"nearest":
                stated["nearest_mode"] = modes[node.output[0]]
            kept = [entry for entry in node.attribute if entry.name not in stated]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(*entry) for entry in stated.items())])


def _flattened(node: NodeProto) -> list[NodeProto]:
    """A Hardmax over all axes from its own on, as it was before opset 13, on a matrix."""
    if node.op_type != "Hardmax":
        return [NodeProto.FromString(node.SerializeToString())]
    (source, result), axis = (node.input[0], node.output[0]), attribute(node, "axis", 1)
    shape, matrix, hard = (f"{result}/{part}" for part in ("shape", "matrix", "hard"))
    return [
        helper.make_node("Shape", [source], [shape]),
        helper.make_node("Flatten", [source], [matrix], axis=axis),
        helper.make_node("Hardmax", [matrix], [hard], node.name, axis=1),
        helper.make_node("Reshape", [hard, shape], [result]),
    ]


def _rounding(node: NodeProto, constants: Mapping[str, npt.NDArray[Any]]) -> str:
    """ONNX Runtime's: nearest pixels were those below where an axis grows, and those above where it shrinks."""
    scales = constants.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "Upsample" or attribute(node, "mode", b"nearest") != b"nearest":
        return "floor"
    if scales is None or ((scales < 1).any() and (scales > 1).any()):
        raise StageFailed(
            f"node {node.name or node.output[0]!r:.120} resizes to the nearest pixel by scales that are computed, or "
            "that grow one axis and shrink another; export the model with opset 11 or newer"
        )
    return "ceil" if (scales < 1).any() else "floor"
