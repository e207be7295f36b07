"""Decides, from the graph and the recipe alone, which operators run in INT8 on OpenVINO's CPU device.

A weighted operator runs in INT8 when its activation and its weight are quantized; what follows it element by element
is computed in the same kernel, and its output is rounded only where another INT8 operator reads it. Grids lie before
operators that only move values, and of the branches that an Add joins one comes straight out of its kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from service.domain.plan import OperatorPrecision
from service.quantization.graphs.graph import Graph, attribute, clip_bounds
from service.quantization.placements.openvino_faults import fault_in_int8
from service.quantization.placements.placement import (
    WEIGHTED,
    Placement,
    WeightedOperator,
    float_precision,
    float_reason,
    matching_pattern,
    weighted_operator,
)

# These move values without changing them: the device carries their dequantization past them.
MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
JOINING = frozenset({"Add", "Concat", "GlobalAveragePool", "AveragePool"})


def place(graph: Graph, keep_float: Sequence[str]) -> Placement:
    """The placement for INT8. Its `weighted` is empty where nothing can be quantized."""
    return _Placer(graph, keep_float).place()


class _Placer:
    def __init__(self, graph: Graph, keep_float: Sequence[str]) -> None:
        self._graph = graph
        self._kept = {node.name: matching_pattern(node, keep_float) for node in graph.nodes}
        self._reasons: dict[str, str] = {}
        self._weighted: dict[str, WeightedOperator] = {}
        # Tensors that INT8 operators read, or would read if what makes them ran in INT8 too.
        self._wanted: set[str] = set()
        self._grids: dict[str, str] = {}
        self._ceilings: dict[str, float] = {}
        self._int8: dict[str, str] = {}

    def place(self) -> Placement:
        for node in self._graph.nodes:
            self._find_weighted(node)
        for node in reversed(self._graph.nodes):
            if self._wants_inputs(node):
                self._wanted.update(self._activations(node))
        for operator in self._weighted.values():
            self._int8[operator.name] = "its input and its weight are INT8"
            self._quantize(operator.activation)
        for node in self._graph.nodes:
            self._place_node(node)
        operators = tuple(self._precision(node) for node in self._graph.nodes)
        return Placement(tuple(self._weighted.values()), self._grids, self._ceilings, operators)

    def _find_weighted(self, node: NodeProto) -> None:
        if node.op_type not in WEIGHTED or self._kept[node.name] is not None:
            return
        reason = float_reason(node, self._graph) or fault_in_int8(node, self._graph)
        if reason is not None:
            self._reasons[node.name] = reason
            return
        self._weighted[node.name] = weighted_operator(node)

    def _wants_inputs(self, node: NodeProto) -> bool:
        """Whether INT8 inputs would let this node, or one behind it, run in INT8."""
        if self._kept[node.name] is not None:
            return False
        passes_on = self._moves(node) or self._joins(node) or self._clips(node)
        return node.name in self._weighted or (passes_on and node.output[0] in self._wanted)

    def _activations(self, node: NodeProto) -> list[str]:
        return list(node.input) if node.op_type in ("Add", "Concat") else [node.input[0]]

    def _moves(self, node: NodeProto) -> bool:
        return node.op_type in MOVING and self._is_activation(node.input[0]) and not any(node.output[1:])

    def _joins(self, node: NodeProto) -> bool:
        if node.op_type not in JOINING or averages_padding(node):
            return False
        return all(self._is_activation(name) for name in self._activations(node))

    def _is_activation(self, tensor: str) -> bool:
        return tensor not in self._graph.constants and self._graph.is_float(tensor)

    def _clips(self, node: NodeProto) -> bool:
        return clip_bounds(node, self._graph) is not None

    def _quantize(self, tensor: str) -> str:
        """Gives the tensor a grid, before what moves it, and returns the tensor whose range that grid holds."""
        if tensor in self._grids:
            return self._grids[tensor]
        maker = self._graph.producer.get(tensor)
        if maker is not None and self._moves(maker) and self._kept[maker.name] is None:
            self._int8[maker.name] = "moves INT8 values unchanged"
            self._grids[tensor] = self._quantize(maker.input[0])
            return self._grids[tensor]
        self._grids[tensor] = tensor
        bounds = None if maker is None else clip_bounds(maker, self._graph)
        if bounds is not None and bounds[0] == 0.0 and bounds[1] > 0.0:
            self._ceilings[tensor] = bounds[1]
        return tensor

    def _place_node(self, node: NodeProto) -> None:
        if self._kept[node.name] is not None:
            return
        if self._clips(node):
            maker = self._graph.producer.get(node.input[0])
            if maker is not None and self._graph.only_reader(node.input[0]) is not None and self._in_kernel(maker):
                self._int8[node.name] = f"computed in the kernel of {maker.name!r}"
        elif node.op_type in JOINING:
            self._place_joining(node)

    def _in_kernel(self, node: NodeProto) -> bool:
        return node.name in self._int8 and node.op_type not in MOVING

    def _place_joining(self, node: NodeProto) -> None:
        if not self._joins(node) or not self._result_is_wanted(node):
            padded = "it counts its padding, which the INT8 kernel takes for the integer 0 and not for the number"
            self._reasons[node.name] = padded if averages_padding(node) else "its result is used in floating point"
            return
        inputs = self._activations(node)
        makers = [self._graph.producer.get(name) for name in inputs]
        ready = [name in self._grids or (maker is not None and name in self._wanted and self._made_in_int8(maker))
                 for name, maker in zip(inputs, makers, strict=True)]  # fmt: skip
        if not all(ready):
            self._reasons[node.name] = "an input is in floating point"
            return
        self._int8[node.name] = "all its inputs are INT8 and its result is used in INT8"
        for name in self._rounded_inputs(node):
            self._quantize(name)

    def _made_in_int8(self, maker: NodeProto) -> bool:
        while self._moves(maker) and self._kept[maker.name] is None and maker.input[0] in self._graph.producer:
            maker = self._graph.producer[maker.input[0]]
        return self._in_kernel(maker)

    def _result_is_wanted(self, node: NodeProto) -> bool:
        return node.output[0] in self._wanted

    def _rounded_inputs(self, node: NodeProto) -> list[str]:
        """Those that need a grid of their own: the device carries the rounding behind a Concat to what makes its
        inputs, and an Add is computed in one of the kernels that make its inputs.
        """
        if node.op_type == "Concat":
            return []
        straight = self._straight_branch(node) if node.op_type == "Add" else None
        return [name for name in self._activations(node) if name != straight]

    def _straight_branch(self, node: NodeProto) -> str | None:
        """The input that the last weighted operator makes for this Add alone: both run as one kernel, in its sums."""
        names = [
            name
            for name in node.input
            if self._graph.only_reader(name) is node
            and name in self._graph.producer
            and self._graph.producer[name].name in self._weighted
        ]
        order = {entry.output[0]: index for index, entry in enumerate(self._graph.nodes)}
        return max(names, key=lambda name: order[name], default=None)

    def _precision(self, node: NodeProto) -> OperatorPrecision:
        if node.name in self._int8:
            return OperatorPrecision(node.name, node.op_type, "INT8", self._int8[node.name])
        reason = self._reasons.get(node.name, f"{node.op_type} is computed in floating point on this runtime")
        return float_precision(node, self._graph, self._kept[node.name], reason)


def averages_padding(node: NodeProto) -> bool:
    """Whether padding goes into the averages: the device's INT8 kernel pads with integers, whose 0 is a number of its
    own on a grid with a zero point.
    """
    if node.op_type != "AveragePool" or not attribute(node, "count_include_pad", 0):
        return False
    return any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
