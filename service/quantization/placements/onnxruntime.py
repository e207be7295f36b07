"""Decides, from the graph and the recipe alone, which operators run in INT8 on ONNX Runtime's CPU kernels.

A kernel runs in INT8 only with every float input behind a DequantizeLinear and its output before a QuantizeLinear, so
placement is about tensors. Convolutions are always quantized on both sides; fully connected layers keep a float output
where nobody wants INT8; everything else joins only between INT8 neighbours, where it costs no further rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from service.domain.plan import OperatorPrecision
from service.quantization.graphs.graph import Graph, attribute, clip_bounds
from service.quantization.placements.placement import (
    WEIGHTED,
    Placement,
    WeightedOperator,
    float_precision,
    float_reason,
    matching_pattern,
    weighted_operator,
)

# These move values without changing them, so that one grid serves both sides.
MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
JOINING = frozenset({"Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat"})


def place(graph: Graph, keep_float: Sequence[str]) -> Placement:
    """The placement for INT8. Its `weighted` is empty where nothing can be quantized."""
    return _Placer(graph, keep_float).place()


class _Placer:
    def __init__(self, graph: Graph, keep_float: Sequence[str]) -> None:
        self._graph = graph
        self._kept = {node.name: matching_pattern(node, keep_float) for node in graph.nodes}
        self._reasons: dict[str, str] = {}
        self._weighted: dict[str, WeightedOperator] = {}
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
        self._grids = {operator.activation: operator.activation for operator in self._weighted.values()}
        for node in self._graph.nodes:
            self._place_node(node)
        operators = tuple(self._precision(node) for node in self._graph.nodes)
        return Placement(tuple(self._weighted.values()), self._grids, self._ceilings, operators)

    def _find_weighted(self, node: NodeProto) -> None:
        if node.op_type not in WEIGHTED or self._kept[node.name] is not None:
            return
        reason = float_reason(node, self._graph)
        if reason is not None:
            self._reasons[node.name] = reason
            return
        self._weighted[node.name] = weighted_operator(node)

    def _wants_inputs(self, node: NodeProto) -> bool:
        """Whether INT8 inputs would let this node, or one behind it, run in INT8."""
        if self._kept[node.name] is not None:
            return False
        passes_on = node.op_type in MOVING | JOINING or self._clips_at_zero(node)
        return node.name in self._weighted or (passes_on and node.output[0] in self._wanted)

    def _activations(self, node: NodeProto) -> list[str]:
        if node.op_type in ("Add", "Mul", "Concat"):
            return list(node.input)
        return [node.input[0]]

    def _clips_at_zero(self, node: NodeProto) -> bool:
        bounds = clip_bounds(node, self._graph)
        return bounds is not None and bounds[0] == 0.0 and bounds[1] > 0.0

    def _place_node(self, node: NodeProto) -> None:
        if node.name in self._weighted:
            self._int8[node.name] = "input, weight and bias are INT8"
            self._place_output(node, always=node.op_type == "Conv")
        elif self._kept[node.name] is not None:
            return
        elif node.op_type in MOVING:
            self._place_moving(node)
        elif node.op_type in JOINING:
            self._place_joining(node)
        elif node.op_type == "Sigmoid" and node.input[0] in self._grids and node.output[0] in self._grids:
            self._int8[node.name] = "between INT8 tensors it is a table of 256 values"

    def _place_output(self, node: NodeProto, always: bool) -> None:
        """Quantizes the output behind the clip that its grid makes redundant, or directly."""
        output = node.output[0]
        clip = self._graph.only_reader(output)
        if clip is not None and self._kept[clip.name] is None and self._clips_at_zero(clip):
            if always or clip.output[0] in self._wanted:
                self._int8[clip.name] = f"fused into {node.name!r}: its grid starts at zero"
                self._grids[clip.output[0]] = clip.output[0]
                bounds = clip_bounds(clip, self._graph)
                assert bounds is not None
                self._ceilings[clip.output[0]] = bounds[1]
        elif always or output in self._wanted:
            self._grids[output] = output

    def _place_moving(self, node: NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        extra_outputs = [name for name in node.output[1:] if name]
        if source not in self._grids or output not in self._wanted or extra_outputs:
            self._reasons[node.name] = self._unwanted_reason(node)
            return
        self._int8[node.name] = "moves INT8 values unchanged"
        self._grids[output] = self._grids[source]

    def _place_joining(self, node: NodeProto) -> None:
        wanted = node.output[0] in self._wanted
        odd_pool = node.op_type == "AveragePool" and any(
            attribute(node, name, 0) for name in ("ceil_mode", "dilations")
        )
        if not wanted or odd_pool or any(name not in self._grids for name in self._activations(node)):
            self._reasons[node.name] = "its padding has no INT8 kernel" if odd_pool else self._unwanted_reason(node)
            return
        self._int8[node.name] = "all its inputs and its output are INT8"
        self._place_output(node, always=True)

    def _unwanted_reason(self, node: NodeProto) -> str:
        if not all(name in self._grids for name in self._activations(node)):
            return "an input is in floating point"
        return "its result is used in floating point"

    def _precision(self, node: NodeProto) -> OperatorPrecision:
        if node.name in self._int8:
            return OperatorPrecision(node.name, node.op_type, "INT8", self._int8[node.name])
        reason = self._reasons.get(node.name, f"{node.op_type} has no INT8 kernel that pays on this runtime")
        return float_precision(node, self._graph, self._kept[node.name], reason)
