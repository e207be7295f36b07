"""Writes operators in a form that OpenVINO reads as ONNX means it.

Tried with OpenVINO 2026.4 beside ONNX Runtime: it takes a Softmax of opset 11 and 12 for one along an axis alone, does
not see the axes of some reductions before opset 18, and adds up the padding of a ConvTranspose otherwise where that is
not stated.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, helper

from service.errors import StageFailed
from service.quantization.emitters.opset import opset_of, raised
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.graphs.graph_checks import nodes_of
from service.quantization.placements.tensorrt_kernels import Shapes, tensor_shapes

_AXES_UNSEEN = frozenset({"ReduceL1", "ReduceLogSum", "ReduceLogSumExp"})
_SAME = (b"SAME_UPPER", b"SAME_LOWER")


def write_operators(model: ModelProto) -> ModelProto:
    """`model`, or where it has such an operator a graph that computes the same. What cannot be written is left."""
    wanted = _wanted_opset(model)
    if wanted:
        try:
            model = raised(model, wanted)
        except StageFailed:
            # Whoever validates the engine sees what this costs.
            return model
    return _with_stated_padding(model)


def _wanted_opset(model: ModelProto) -> int:
    """The opset that says what is meant so that OpenVINO reads it; 0 where the graph's own does."""
    opset = opset_of(model)
    unseen = any(node.op_type in _AXES_UNSEEN for node in nodes_of(model))
    if 13 <= opset < 18 and unseen:
        return 18
    if opset not in (11, 12) or all(node.op_type != "Softmax" for node in nodes_of(model)):
        return 0
    shapes = tensor_shapes(model)
    if not any(_is_over_several_axes(node, shapes) for node in nodes_of(model)):
        return 0
    return 18 if unseen else 13


def _is_over_several_axes(node: NodeProto, shapes: Shapes) -> bool:
    """Whether it is a Softmax of an old opset over its axis and all behind it, as far as can be told."""
    if node.op_type != "Softmax":
        return False
    axis: int = attribute(node, "axis", 1)
    return axis != -1 and axis + 1 != len(shapes.get(node.input[0], ()))


def _with_stated_padding(model: ModelProto) -> ModelProto:
    if not any(node.op_type == "ConvTranspose" for node in model.graph.node):
        return model
    graph, shapes = Graph(model), tensor_shapes(model)
    pads = {node.name: found for node in graph.nodes if (found := _padding(node, graph, shapes)) is not None}
    if not pads:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "ConvTranspose" and node.name in pads:
            kept = [entry for entry in node.attribute if entry.name not in ("auto_pad", "output_shape", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", pads[node.name])])
    return copy


def _padding(node: NodeProto, graph: Graph, shapes: Shapes) -> list[int] | None:
    """What ONNX makes of `auto_pad` and `output_shape`: begins, then ends. None where neither asks for it, or where the
    sizes are not known or leave nothing to cut off.
    """
    if node.op_type != "ConvTranspose":
        return None
    mode, sizes = attribute(node, "auto_pad", b"NOTSET"), attribute(node, "output_shape", ())
    weight = graph.constants.get(node.input[1])
    if (mode not in _SAME and not sizes) or weight is None:
        return None
    totals = _totals(node, list(weight.dims)[2:], shapes.get(node.input[0], ())[2:])
    if totals is None or min(totals) < 0:
        return None
    halves = [total // 2 for total in totals]
    others = [total - half for total, half in zip(totals, halves, strict=True)]
    return [*halves, *others] if mode == b"SAME_UPPER" else [*others, *halves]


def _totals(node: NodeProto, kernel: Sequence[int], extents: Sequence[int | None]) -> list[int] | None:
    """How much is cut off in all along each axis."""
    ones = [1] * len(kernel)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    more, sizes = attribute(node, "output_padding", [0] * len(kernel)), attribute(node, "output_shape", ())
    totals = []
    for axis, taps in enumerate(kernel):
        whole = (taps - 1) * dilations[axis] + 1 + more[axis]
        if not sizes:
            # As large as stride times the input, whatever that is.
            totals.append(whole - strides[axis])
            continue
        extent = extents[axis] if axis < len(extents) else None
        if extent is None:
            return None
        totals.append(strides[axis] * (extent - 1) + whole - sizes[len(sizes) - len(kernel) + axis])
    return totals
