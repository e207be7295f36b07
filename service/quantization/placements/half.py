"""Which operators of a float graph compute in FP16 or BF16, and which stay in FP32 because their numbers outgrow FP16.

Judged by measured ranges where there are any; where a tensor has none, by what its operators can do to numbers. BF16
has FP32's range, so there only what ONNX does not define in BF16 stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from service.domain.plan import OperatorPrecision, QuantizationPlan
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.half_operators import defined_in
from service.quantization.placements.placement import matching_pattern
from service.quantization.placements.tensorrt_kernels import tensor_shapes

ELEMENTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = 65504.0
SMALLEST = 2.0**-24
# Calibration rows do not show the largest value that will ever come.
HEADROOM = 8.0
_SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "CumSum", "AveragePool", "GlobalAveragePool"})
_SQUARES = frozenset(
    {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
     "MeanVarianceNormalization", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"}
)  # fmt: skip
# Softmax is not among these: it takes its largest input away before it exponentiates.
_GROWING = frozenset({"Pow", "Exp", "ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceL1", "CumSum", "Sinh", "Cosh"})
# Through these a large number stays large.
_PASSING = frozenset(
    {"Add", "Sub", "Mul", "Neg", "Abs", "Sum", "Mean", "Max", "Min", "Where", "Concat", "Reshape", "Transpose",
     "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice", "Split", "Gather", "Identity", "Cast", "Tile", "ReduceMean",
     "ReduceMax"}
) | _GROWING  # fmt: skip
_NAMES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}
_SCATTERS = frozenset({"ScatterElements", "ScatterND"})
_READS_NO_VALUES = frozenset({"Shape", "Size"})

Ranges = Mapping[str, tuple[float, float]]


def place_half(
    graph: Graph, keep_float: Sequence[str], precision: str, ranges: Ranges | None = None
) -> tuple[OperatorPrecision, ...]:
    """The type that every operator computes in; `precision` is fp16 or bf16, `ranges` holds measured (low, high)."""
    return _HalfPlacer(graph, keep_float, precision, ranges or {}).place()


def half_plan(
    graph: Graph, keep_float: Sequence[str], precision: str, ranges: Ranges | None = None
) -> QuantizationPlan:
    """The plan of a graph without INT8: no grids, and every operator's type with the reason."""
    return QuantizationPlan((), (), place_half(graph, keep_float, precision, ranges))


class _HalfPlacer:
    def __init__(self, graph: Graph, keep_float: Sequence[str], precision: str, ranges: Ranges) -> None:
        self._graph = graph
        self._keep_float = keep_float
        self._precision = precision
        self._reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
        self._shapes = tensor_shapes(graph.model)
        self._suspects: dict[str, str] = {}

    def place(self) -> tuple[OperatorPrecision, ...]:
        return tuple(self._place_node(node) for node in self._graph.nodes)

    def _place_node(self, node: NodeProto) -> OperatorPrecision:
        precision, reason = self._choice(node)
        return OperatorPrecision(node.name, node.op_type, precision, reason)

    def _choice(self, node: NodeProto) -> tuple[str, str]:
        made = self._graph.type_name(node.output[0])
        pattern = matching_pattern(node, self._keep_float)
        touches_float = any(self._graph.is_float(name) for name in (*node.input, *node.output))
        if pattern is not None:
            return _NAMES.get(made, made), f"kept in floating point by keep_float {pattern!r}"
        if node.op_type in _READS_NO_VALUES or (not touches_float and made != "unknown"):
            return _NAMES.get(made, made), "the upload's own type" if made in _NAMES else "works on shapes or integers"
        reason = self._form_reason(node)
        if self._precision == "fp16":
            # Looked at even where the form decides: what large numbers an operator makes matters to those behind it.
            reason = self._constant_reason(node) or self._range_reason(node) or reason
        return ("FP32", reason) if reason else (self._precision.upper(), "as the recipe's precision asks")

    def _form_reason(self, node: NodeProto) -> str | None:
        """Why ONNX itself, or a subgraph around, asks for FP32."""
        wanted = self._precision.upper()
        if any(entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for entry in node.attribute):
            return "its inner graph stays as it was uploaded"
        if any(name in self._graph.read_inside for name in node.output):
            return "an inner graph reads its result"
        if any(self._graph.type_name(name) == "unknown" for name in (*node.input, *node.output) if name):
            return "the types around it are not known before it runs"
        if node.op_type in _SCATTERS and attribute(node, "reduction", b"none") != b"none":
            return "ONNX Runtime has no kernel of a scatter that reduces in it"
        return None if defined_in(node, self._graph, wanted) else f"ONNX does not define {node.op_type} in {wanted}"

    def _constant_reason(self, node: NodeProto) -> str | None:
        for name in node.input:
            values = self._graph.constant(name) if self._graph.is_float(name) else None
            if values is None or values.size == 0:
                continue
            finite = np.abs(values[np.isfinite(values)])
            if finite.size and finite.max() > LARGEST and node.op_type != "Clip":
                self._suspect(node, "a constant beyond FP16's largest number enters it")
                return f"its constant {name!r} holds {float(finite.max()):.3g}, beyond FP16's largest number 65504"
            if finite.any() and finite.max() < SMALLEST:
                return f"its constant {name!r} holds {float(finite.max()):.3g}, which would become 0 in FP16"
        return None

    def _range_reason(self, node: NodeProto) -> str | None:
        squared = node.op_type in ("Mul", "Pow") and len(set(node.input)) == 1
        if node.op_type in _GROWING or squared:
            self._suspect(node, f"{node.op_type} {node.name!r} may outgrow FP16, and no range of it was measured")
        reasons = [found for name in node.input if (found := self._reach_reason(name, "input"))]
        if reasons and node.op_type in _PASSING:
            self._suspect(node, "its input may outgrow FP16, and no range was measured")
        reasons += [found for name in node.output if (found := self._reach_reason(name, "result"))]
        return next(iter(reasons), None) or self._inner_reason(node)

    def _suspect(self, node: NodeProto, why: str) -> None:
        self._suspects |= {name: why for name in node.output if name not in self._reach and self._graph.is_float(name)}

    def _reach_reason(self, tensor: str, side: str) -> str | None:
        reach = self._reach.get(tensor, 0.0)
        if not reach * HEADROOM <= LARGEST:
            return (
                f"its {side} {tensor!r} reaches {reach:.4g}; FP16 ends at 65504, and {HEADROOM:g} times is wanted free"
            )
        return self._suspects.get(tensor)

    def _inner_reason(self, node: NodeProto) -> str | None:
        """Sums inside an operator, which no measured tensor shows: at most depth times the largest term."""
        if node.op_type not in _SUMS | _SQUARES:
            return None
        reach, depth = self._reach.get(node.input[0]), self._depth(node)
        if reach is None:
            return "it sums squares, and no range of its input was measured" if node.op_type in _SQUARES else None
        if depth is None:
            return "it sums over an extent that only a request knows"
        largest = depth * (reach * reach if node.op_type in _SQUARES else reach)
        if largest <= LARGEST:
            return None
        return f"the sum of {depth} terms inside it may reach {largest:.3g}, beyond FP16's largest number 65504"

    def _depth(self, node: NodeProto) -> int | None:
        """How many terms the operator sums, or None where the graph does not say."""
        shape = self._shapes.get(node.input[0])
        if node.op_type == "AveragePool":
            return math.prod(int(extent) for extent in attribute(node, "kernel_shape", ()))
        if shape is None:
            return None
        summed = [shape[axis] for axis in self._axes(node, len(shape))]
        known = [extent for extent in summed if extent is not None]
        return math.prod(known) if len(known) == len(summed) else None

    def _axes(self, node: NodeProto, rank: int) -> list[int]:
        if node.op_type in ("GlobalAveragePool", "InstanceNormalization"):
            return list(range(2, rank))
        if node.op_type == "GroupNormalization":
            return list(range(1, rank))
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            return list(range(attribute(node, "axis", -1) % rank, rank))
        if node.op_type == "LpNormalization":
            return [attribute(node, "axis", -1) % rank]
        stated = attribute(node, "axes", None)
        if stated is None and len(node.input) > 1 and node.input[1]:
            found = self._graph.constant(node.input[1])
            stated = range(rank) if found is None else [int(axis) for axis in np.atleast_1d(found)]
        return [axis % rank for axis in stated] if stated else list(range(rank))
