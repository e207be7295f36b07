"""What TensorRT's ONNX parser refuses of a graph's quantization, or reads otherwise than it is written, and why.

UINT8 is such a case: the parser warns, takes it for INT8, and cuts off the upper half of the values.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from service.quantization.graphs.graph import Graph, attribute

# Operators that hold their own quantization, instead of Q/DQ nodes around float operators.
_REFUSED = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def refusal(node: NodeProto, graph: Graph) -> str | None:
    """Why the parser would refuse the node, or None where it takes it."""
    if node.op_type.startswith(_REFUSED):
        return f"{node.op_type} {node.name!r} is refused; write Q/DQ nodes around a float operator"
    if node.op_type not in (_QUANTIZE, _DEQUANTIZE):
        return None
    reason = _zero_point_reason(node, graph) or _scale_reason(node, graph)
    return None if reason is None else f"{node.op_type} {node.name!r} is refused: {reason}"


def _zero_point_reason(node: NodeProto, graph: Graph) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        # Without one, a QuantizeLinear makes UINT8.
        stated = node.op_type == _DEQUANTIZE or attribute(node, "output_dtype", 0)
        return None if stated else "it has no zero point and so makes UINT8"
    if graph.type_name(node.input[2]) == "UINT8":
        return "its zero point is UINT8; write INT8"
    value = graph.constant(node.input[2])
    if value is None:
        return "its zero point is computed; write a constant"
    return f"its zero point is {int(value.reshape(-1)[0])}; write zeros" if value.astype(np.int64).any() else None


def _scale_reason(node: NodeProto, graph: Graph) -> str | None:
    scales = graph.constant(node.input[1])
    if scales is None:
        return "its scale is computed; write a constant"
    if not (scales.astype(np.float64) > 0).all():
        return f"its scale is {float(scales.min())}; write positive scales"
    if scales.size == 1:
        return None
    values = graph.constants.get(node.input[0])
    if values is None:
        maker = graph.producer.get(node.input[0])
        values = graph.constants.get(maker.input[0]) if maker is not None and maker.op_type == _QUANTIZE else None
    if values is None:
        return f"an activation has {scales.size} scales; write one"
    extents, axis = list(values.dims), attribute(node, "axis", 1)
    if scales.ndim == 1 and (axis >= len(extents) or scales.size != extents[axis]):
        return f"it has {scales.size} scales along axis {axis} of {extents}; write one for each index"
    return None
