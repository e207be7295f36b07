"""Decides, from the graph and the recipe alone, which operators run in INT8 on TensorRT, and through which tensors.

TensorRT takes Q/DQ as orders: a weighted operator runs in INT8 once all its inputs come from a DequantizeLinear, and
its result stays in floating point unless the next operator asks for INT8. So pairs stand before readers, never behind
makers.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from service.domain.plan import OperatorPrecision
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.placement import (
    Placement,
    WeightedOperator,
    float_precision,
    matching_pattern,
)
from service.quantization.placements.tensorrt_kernels import (
    CONVOLUTIONS,
    WEIGHTED,
    attention_parts,
    float_reason,
    is_product,
    tensor_shapes,
)
from service.quantization.placements.tensorrt_residual import skip_input

# TensorRT moves a QuantizeLinear up and a DequantizeLinear down through these, so they need no pairs of their own.
COMMUTING = frozenset(
    {"MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace",
     "SpaceToDepth", "Slice", "Split"}
)  # fmt: skip
# A part of a tensor may have a smaller range than the whole.
_NARROWING = frozenset({"Slice", "Split"})
FUSED = frozenset({"BatchNormalization", "Relu", "Clip"})
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool"})


def place(graph: Graph, keep_float: Sequence[str]) -> Placement:
    """The placement for INT8. Its `weighted` is empty where no constant weight can be quantized."""
    return _Placer(graph, keep_float).place()


def quantized_inputs(node: NodeProto, graph: Graph, convolutions: frozenset[str]) -> list[str]:
    """The tensors that an INT8 node reads through a pair of its own; `convolutions` names those that run in INT8."""
    if node.op_type in WEIGHTED:
        return list(node.input[:2]) if is_product(node, graph) else [node.input[0]]
    skip = skip_input(node, graph, convolutions)
    if skip is not None:
        return [skip]
    if node.op_type in AVERAGES:
        return [node.input[0]]
    return list(dict.fromkeys(node.input)) if node.op_type in ("Add", "Concat") else []


class _Placer:
    def __init__(self, graph: Graph, keep_float: Sequence[str]) -> None:
        self._graph = graph
        self._kept = {node.name: matching_pattern(node, keep_float) for node in graph.nodes}
        self._attention = attention_parts(graph)
        self._shapes = tensor_shapes(graph.model)
        self._reasons: dict[str, str] = {}
        self._int8: dict[str, str] = {}
        self._convolutions: frozenset[str] = frozenset()
        self._grids: dict[str, str] = {}
        self._joined: set[str] = set()

    def place(self) -> Placement:
        for node in self._graph.nodes:
            if node.op_type in WEIGHTED and self._kept[node.name] is None:
                self._place_weighted(node)
        self._convolutions = frozenset(
            node.name for node in self._graph.nodes if node.op_type in CONVOLUTIONS and node.name in self._int8
        )
        # What an operator's result is read by decides; so the last operators come first.
        for node in reversed(self._graph.nodes):
            if self._kept[node.name] is None and node.op_type not in WEIGHTED:
                self._place_other(node)
        for node in self._graph.nodes:
            self._place_fused(node)
        self._find_grids()
        weighted = tuple(self._weighted(node) for node in self._graph.nodes if self._has_int8_weight(node))
        operators = tuple(self._precision(node) for node in self._graph.nodes)
        return Placement(weighted, self._grids, {}, operators)

    def _place_weighted(self, node: NodeProto) -> None:
        if node.name in self._attention:
            return
        reason = float_reason(node, self._graph, self._shapes)
        if reason is not None:
            self._reasons[node.name] = reason
        elif is_product(node, self._graph):
            self._int8[node.name] = "both its inputs are INT8"
        else:
            self._int8[node.name] = "input and weight are INT8, bias and result stay in floating point"

    def _has_int8_weight(self, node: NodeProto) -> bool:
        return node.op_type in WEIGHTED and node.name in self._int8 and not is_product(node, self._graph)

    def _weighted(self, node: NodeProto) -> WeightedOperator:
        first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
        # The bias stays in floating point, so that the plan has nothing to say of it.
        return WeightedOperator(node.name, node.input[0], node.input[1], 0 if first else 1, None)

    def _place_other(self, node: NodeProto) -> None:
        if node.op_type in COMMUTING and self._graph.is_float(node.input[0]):
            if all(self._read_only_in_int8(name) for name in node.output if name):
                self._int8[node.name] = "moves values unchanged: the QuantizeLinear behind it moves up through it"
            else:
                self._reasons[node.name] = "its result is used in floating point"
        elif skip_input(node, self._graph, self._convolutions) is not None:
            self._int8[node.name] = "fused into the convolution that feeds it: the skip input alone is INT8"
        elif node.op_type in AVERAGES or node.op_type in ("Add", "Concat"):
            reason = self._joining_reason(node)
            if reason is None:
                self._int8[node.name] = "all its inputs are INT8, and so is all that reads its result"
            else:
                self._reasons[node.name] = reason

    def _joining_reason(self, node: NodeProto) -> str | None:
        """Why an operator that joins or averages stays in floating point."""
        constant = [name for name in node.input if name in self._graph.constants or not self._graph.is_float(name)]
        if node.op_type not in AVERAGES and constant:
            return "one of its inputs is a constant"
        if not self._read_only_in_int8(node.output[0]):
            return "its result is used in floating point"
        if node.op_type == "Add" and not all(self._read_by_weighted(name) for name in node.input):
            return "an input would be rounded to INT8 for it alone"
        if node.op_type in AVERAGES and not self._comes_from_int8(node):
            return "its input would be rounded to INT8 for it alone"
        return self._sharing_reason(node) if node.op_type == "Concat" else None

    def _sharing_reason(self, node: NodeProto) -> str | None:
        """Why the inputs of a Concat cannot share the scale of its result."""
        origins, fresh = set[str](), {self._origin(name) for name in node.input}
        while fresh:
            origins |= fresh
            parted = [maker for name in fresh if (maker := self._graph.producer.get(name)) is not None]
            parted = [maker for maker in parted if maker.op_type in _NARROWING]
            for maker in parted:
                if maker.op_type == "Slice" or not set(maker.output) <= origins:
                    return (
                        f"an input is a part of what {maker.op_type} {maker.name!r} reads, so their scales may differ"
                    )
            # All parts of a tensor together share one scale with the whole.
            fresh = {self._origin(maker.input[0]) for maker in parted} - origins
        if origins & self._joined:
            return "an input shares its scale with another Concat"
        self._joined |= origins
        return None

    def _origin(self, tensor: str) -> str:
        """The tensor that holds the same values above operators that only move them."""
        maker = self._graph.producer.get(tensor)
        while maker is not None and maker.op_type in COMMUTING - _NARROWING:
            tensor = maker.input[0]
            maker = self._graph.producer.get(tensor)
        return tensor

    def _read_only_in_int8(self, tensor: str) -> bool:
        """Whether nothing wants the tensor in floating point: every reader takes it through a pair, or passes it on."""
        readers = self._graph.readers[tensor]
        seen = tensor in self._graph.outputs or tensor in self._graph.read_inside
        return bool(readers) and not seen and all(self._reads_int8(reader, tensor) for reader in readers)

    def _reads_int8(self, reader: NodeProto, tensor: str) -> bool:
        if reader.name not in self._int8:
            return False
        if reader.op_type in COMMUTING:
            return bool(tensor == reader.input[0])
        return tensor in quantized_inputs(reader, self._graph, self._convolutions)

    def _read_by_weighted(self, tensor: str) -> bool:
        return any(node.op_type in WEIGHTED and self._reads_int8(node, tensor) for node in self._graph.readers[tensor])

    def _comes_from_int8(self, node: NodeProto) -> bool:
        """Whether the average's input is INT8 anyway: another wants it so, or a convolution can write it so."""
        tensor = node.input[0]
        if self._read_by_weighted(tensor):
            return True
        if self._graph.only_reader(tensor) is not node:
            return False
        maker = self._graph.producer.get(tensor)
        while maker is not None and maker.op_type in FUSED and self._graph.only_reader(maker.input[0]) is maker:
            maker = self._graph.producer.get(maker.input[0])
        return maker is not None and maker.name in self._int8 and maker.op_type in CONVOLUTIONS | {"Add"}

    def _place_fused(self, node: NodeProto) -> None:
        if node.op_type not in FUSED or self._kept[node.name] is not None:
            return
        maker = self._graph.producer.get(node.input[0])
        if maker is None or maker.name not in self._int8 or self._graph.only_reader(node.input[0]) is not node:
            self._reasons[node.name] = "no INT8 operator that it could fuse into gives it its input alone"
        elif maker.op_type in WEIGHTED | FUSED | {"Add"}:
            self._int8[node.name] = f"fused into {maker.name!r}"
        else:
            self._reasons[node.name] = f"{maker.op_type} {maker.name!r} before it has no result that it could fuse into"

    def _find_grids(self) -> None:
        """Every tensor that is read through a pair, with the tensor whose range it shares."""
        tops: dict[str, str] = {}
        moved = [node for node in self._graph.nodes if node.name in self._int8 and node.op_type in COMMUTING]
        for node in reversed(self._graph.nodes):
            if node.op_type == "Concat" and node.name in self._int8:
                tops |= dict.fromkeys(node.input, tops.get(node.output[0], node.output[0]))
            elif node.op_type in COMMUTING and node.name in self._int8:
                tops |= dict.fromkeys(node.input[:1], tops[node.output[0]]) if node.output[0] in tops else {}
        # Both sides of an operator that moves values share a scale, or the QuantizeLinear could not pass it.
        for node in moved:
            tops |= dict.fromkeys(node.output, tops.get(node.input[0], node.input[0]))
        for node in self._graph.nodes:
            if node.name in self._int8 and node.op_type not in COMMUTING | FUSED:
                for name in quantized_inputs(node, self._graph, self._convolutions):
                    self._grids[name] = tops.get(name, name)

    def _precision(self, node: NodeProto) -> OperatorPrecision:
        if node.name in self._int8:
            return OperatorPrecision(node.name, node.op_type, "INT8", self._int8[node.name])
        reason = self._reasons.get(node.name, f"{node.op_type} runs in floating point on this runtime")
        if node.name in self._attention:
            around = self._attention[node.name]
            reason = f"it is part of the attention around {around!r}, kept whole for its fused kernel"
        return float_precision(node, self._graph, self._kept[node.name], reason)
