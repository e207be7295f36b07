"""Which operators of an emitted graph TensorRT will run in INT8, and what its parser would refuse of the graph.

Read from the Q/DQ nodes alone: a layer is INT8 where every input comes from a DequantizeLinear, directly or through
layers that only move values, and, unless it multiplies weights, where only QuantizeLinear nodes read its result.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from service.quantization.graphs.graph import Graph
from service.quantization.lint.prediction import Predicted
from service.quantization.lint.tensorrt_parser import refusal
from service.quantization.placements.tensorrt import AVERAGES, COMMUTING, FUSED
from service.quantization.placements.tensorrt_kernels import CONVOLUTIONS, WEIGHTED

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "unknown"})


def predict(model: ModelProto) -> tuple[Predicted, ...]:
    """One prediction for every operator that makes floating-point numbers and is no Q/DQ node."""
    return _Linter(Graph(model)).predict()


def refusals(model: ModelProto) -> tuple[str, ...]:
    """What TensorRT's parser would refuse, in words; empty where it takes the graph's Q/DQ nodes."""
    graph = Graph(model)
    found = (refusal(node, graph) for node in graph.nodes)
    return tuple(reason for reason in found if reason is not None)


class _Linter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._int8: set[str] = set()

    def predict(self) -> tuple[Predicted, ...]:
        found = []
        for node in self._graph.nodes:
            if node.op_type not in _PAIR and self._graph.type_name(node.output[0]) in _FLOATS:
                int8, rule = self._judge(node)
                found.append(Predicted(node.name, node.op_type, int8, rule))
                self._int8 |= {node.name} if int8 else set()
        return tuple(found)

    def _judge(self, node: NodeProto) -> tuple[bool, str]:
        refused = refusal(node, self._graph)
        if refused is not None:
            return False, refused
        if node.op_type in WEIGHTED:
            return self._judge_weighted(node)
        if node.op_type in COMMUTING:
            return self._judge_commuting(node)
        if node.op_type in FUSED:
            return self._judge_fused(node)
        if node.op_type in AVERAGES or node.op_type in ("Add", "Concat"):
            return self._judge_residual(node) or self._judge_joining(node)
        return False, f"{node.op_type} runs in floating point on this runtime"

    def _judge_weighted(self, node: NodeProto) -> tuple[bool, str]:
        for side, name in zip(("input", "weight"), node.input, strict=False):
            pair = self._source_pair(name)
            if pair is None:
                return False, f"its {side} comes from no DequantizeLinear"
            refused = refusal(pair, self._graph)
            if refused is not None:
                return False, refused
        return True, "its input and its weight come from DequantizeLinear"

    def _judge_commuting(self, node: NodeProto) -> tuple[bool, str]:
        if self._graph.is_float(node.input[0]) and self._source_pair(node.input[0]) is not None:
            return True, "the DequantizeLinear before it moves down through it"
        if all(self._is_quantized(name) for name in node.output if name):
            return True, "the QuantizeLinear behind it moves up through it"
        return False, "its input comes from no DequantizeLinear, and its result is used in floating point"

    def _judge_fused(self, node: NodeProto) -> tuple[bool, str]:
        maker = self._graph.producer.get(node.input[0])
        alone = self._graph.only_reader(node.input[0]) is node
        joins = {"Add"} | WEIGHTED | FUSED
        if maker is not None and alone and maker.op_type in joins and maker.name in self._int8:
            return True, f"fused into {maker.name!r}"
        return False, "no INT8 operator that it could fuse into gives it its input alone"

    def _judge_residual(self, node: NodeProto) -> tuple[bool, str] | None:
        if node.op_type != "Add" or len(set(node.input)) != 2:
            return None
        for name, other in (tuple(node.input), tuple(reversed(node.input))):
            maker = self._graph.producer.get(name)
            fusible = maker is not None and maker.op_type in CONVOLUTIONS and maker.name in self._int8
            if maker is not None and fusible and self._graph.only_reader(name) is node:
                if self._source_pair(other) is not None:
                    return True, f"fused into {maker.name!r}, and its skip input comes from DequantizeLinear"
                return False, f"its skip input {other!r} is in floating point, which its result then is too"
        return None

    def _judge_joining(self, node: NodeProto) -> tuple[bool, str]:
        names = node.input[:1] if node.op_type in AVERAGES else node.input
        pairs = [self._source_pair(name) for name in names]
        if any(pair is None for pair in pairs):
            return False, "an input comes from no DequantizeLinear"
        if not self._is_quantized(node.output[0]):
            return False, "its result is used in floating point"
        if node.op_type == "Concat" and len({self._scale(pair) for pair in pairs if pair is not None}) > 1:
            return False, "its inputs have different scales, so that each is quantized again"
        return True, "all its inputs come from DequantizeLinear, and only QuantizeLinear reads its result"

    def _source_pair(self, tensor: str) -> NodeProto | None:
        """The DequantizeLinear that the tensor comes from, through operators that move values."""
        maker = self._graph.producer.get(tensor)
        while maker is not None and maker.op_type in COMMUTING:
            maker = self._graph.producer.get(maker.input[0])
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def _is_quantized(self, tensor: str) -> bool:
        """Whether every reader is a QuantizeLinear, or moves values to one."""
        readers = self._graph.readers[tensor]
        if not readers or tensor in self._graph.outputs or tensor in self._graph.read_inside:
            return False
        return all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in COMMUTING and all(self._is_quantized(name) for name in reader.output if name))
            for reader in readers
        )

    def _scale(self, pair: NodeProto) -> float | None:
        value = self._graph.constant(pair.input[1])
        return None if value is None else float(value.reshape(-1)[0])
