"""Which operators ONNX Runtime's CPU provider will run on integer kernels, told from the emitted Q/DQ graph alone.

It looks at one operator at a time, between the DequantizeLinear nodes before it and the QuantizeLinear behind it. Clips
that the latter makes redundant go first, and what only moves values lets a dequantization pass.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from service.quantization.graphs.graph import Graph, clip_bounds
from service.quantization.lint.prediction import Predicted

_PAIR = ("QuantizeLinear", "DequantizeLinear")
# Q/DQ nodes travel past these; a Flatten has to stand between them.
_PASSED = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})
_BETWEEN = frozenset({"Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat", "Sigmoid", "Flatten"})
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# These kernels can give floating point.
_FLOAT_RESULT = frozenset({"Gemm", "MatMul"})
Rule = tuple[bool, str]


def predict(model: ModelProto) -> tuple[Predicted, ...]:
    """One prediction for each operator that computes in floating point numbers, in the graph's order."""
    return _Linter(Graph(model)).predict()


class _Linter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def predict(self) -> tuple[Predicted, ...]:
        nodes = (node for node in self._graph.nodes if node.op_type not in _PAIR)
        return tuple(
            Predicted(node.name, node.op_type, *self._rule(node))
            for node in nodes
            if self._graph.is_float(node.output[0])
        )

    def _rule(self, node: NodeProto) -> Rule:
        if self._redundant(node):
            return True, "removed: the QuantizeLinear behind it clips as it does"
        if node.op_type in _WEIGHTED:
            return self._weighted_rule(node)
        if node.op_type in _BETWEEN:
            return self._between_rule(node)
        if node.op_type in _PASSED:
            return self._passed_rule(node)
        return False, f"{node.op_type} has no integer kernel here"

    def _weighted_rule(self, node: NodeProto) -> Rule:
        for place, name in enumerate(node.input):
            if name and self._dequantize(name) is None:
                role = ("input", "weight", "bias")[place]
                return False, f"its {role} {name!r} comes from no DequantizeLinear"
        if self._integers(node.input[0]) == "INT8" and self._integers(node.input[1]) != "INT8":
            return False, "an INT8 input needs an INT8 weight"
        if self._quantize(node.output[0]) is not None:
            return True, "its inputs come from DequantizeLinear, its output goes to one QuantizeLinear alone"
        if node.op_type in _FLOAT_RESULT:
            return True, "its inputs come from DequantizeLinear; its kernel gives floating point too"
        return False, "its output does not go to one QuantizeLinear alone"

    def _between_rule(self, node: NodeProto) -> Rule:
        bare = [name for name in node.input if self._dequantize(name) is None]
        if bare:
            return False, f"its input {bare[0]!r} comes from no DequantizeLinear"
        if self._quantize(node.output[0]) is None:
            return False, "its output does not go to one QuantizeLinear alone"
        return True, "it stands between DequantizeLinear and QuantizeLinear"

    def _passed_rule(self, node: NodeProto) -> Rule:
        if any(node.output[1:]):
            return False, "it gives positions too"
        if self._dequantize(node.input[0]) is not None:
            return True, "the DequantizeLinear before it moves behind it"
        if self._quantize(node.output[0], past_clips=False) is not None:
            if self._graph.only_reader(node.input[0]) is not node:
                return (
                    False,
                    f"others read its input {node.input[0]!r} too, so that the QuantizeLinear behind it stays there",
                )
            return True, "the QuantizeLinear behind it moves before it"
        return False, f"its input {node.input[0]!r} comes from no DequantizeLinear"

    def _dequantize(self, tensor: str) -> NodeProto | None:
        """The DequantizeLinear that a tensor comes from, past what its dequantization passes."""
        maker = self._graph.producer.get(tensor)
        while maker is not None and maker.op_type in _PASSED and not any(maker.output[1:]):
            maker = self._graph.producer.get(maker.input[0])
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def _quantize(self, tensor: str, past_clips: bool = True) -> NodeProto | None:
        """The QuantizeLinear that alone reads a tensor, past redundant clips and then what its rounding passes.

        Not a clip behind the latter: by the time it is removed, no rounding moves any more.
        """
        reader = self._graph.only_reader(tensor)
        while past_clips and reader is not None and self._redundant(reader):
            reader = self._graph.only_reader(reader.output[0])
        while reader is not None and reader.op_type in _PASSED:
            reader = self._graph.only_reader(reader.output[0])
        return reader if reader is not None and reader.op_type == "QuantizeLinear" else None

    def _redundant(self, node: NodeProto) -> bool:
        """Whether a Relu or Clip leaves all levels of the grid behind it as they are."""
        bounds = clip_bounds(node, self._graph)
        if bounds is None or (reader := self._quantize(node.output[0])) is None:
            return False
        scale, zero_point = (self._graph.constant(name) for name in reader.input[1:3])
        if scale is None or zero_point is None or scale.size != 1 or zero_point.dtype.kind not in "iu":
            return False
        lowest, highest = (-128, 127) if zero_point.dtype.kind == "i" else (0, 255)
        # In FP32, as the runtime compares them.
        low, high = (np.float32(level - int(zero_point)) * np.float32(scale) for level in (lowest, highest))
        return bool(low >= np.float32(bounds[0]) and high <= np.float32(bounds[1]))

    def _integers(self, tensor: str) -> str:
        maker = self._dequantize(tensor)
        constant = None if maker is None else self._graph.constants.get(maker.input[2])
        return "unknown" if constant is None else TensorProto.DataType.Name(constant.data_type)
