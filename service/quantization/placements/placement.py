"""What a placement is: which operators a runtime runs in INT8, on which tensors' grids, and by which rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape

from onnx import NodeProto

from service.domain.plan import OperatorPrecision
from service.quantization.graphs.graph import Graph, attribute

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_FLOATS = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


@dataclass(frozen=True)
class WeightedOperator:
    """A node that multiplies an activation by a constant weight; `axis` counts its output channels."""

    name: str
    activation: str
    weight: str
    axis: int
    bias: str | None


@dataclass(frozen=True)
class Placement:
    """`grids` maps every tensor to be quantized to the tensor whose range it uses; `ceilings` bounds clipped ones."""

    weighted: tuple[WeightedOperator, ...]
    grids: dict[str, str]
    ceilings: dict[str, float]
    operators: tuple[OperatorPrecision, ...]

    @property
    def observed(self) -> tuple[str, ...]:
        """The tensors whose ranges calibration must find."""
        return tuple(dict.fromkeys(self.grids.values()))


Place = Callable[[Graph, Sequence[str]], Placement]


def matching_pattern(node: NodeProto, patterns: Sequence[str]) -> str | None:
    """The first `op:Type` or node-name glob of `patterns` that the node matches."""
    for pattern in patterns:
        name, wanted = (node.op_type, pattern[3:]) if pattern.startswith("op:") else (node.name, pattern)
        if fnmatchcase(name, wanted):
            return pattern
    return None


def weighted_operator(node: NodeProto) -> WeightedOperator:
    """A node of `WEIGHTED` that has no `float_reason`."""
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
    return WeightedOperator(node.name, node.input[0], node.input[1], axis, bias)


def float_precision(node: NodeProto, graph: Graph, kept_by: str | None, reason: str) -> OperatorPrecision:
    """What a node that does not run in INT8 computes in: by the keep_float pattern `kept_by`, or else for `reason`."""
    made = graph.type_name(node.output[0])
    precision = _FLOATS.get(made, made)
    if kept_by is not None:
        reason = f"kept in floating point by keep_float {kept_by!r}"
    elif precision not in (*_FLOATS.values(), "unknown"):
        reason = "works on shapes or integers"
    return OperatorPrecision(node.name, node.op_type, precision, reason)


def float_reason(node: NodeProto, graph: Graph) -> str | None:
    """Why a weighted node cannot run in INT8, or None where it can."""
    if node.input[0] in graph.constants:
        return "its input is a constant"
    if not graph.is_float(node.input[0]):
        return f"its input is {graph.type_name(node.input[0])}, not FLOAT"
    weight = graph.constants.get(node.input[1])
    if weight is None:
        return "its weight is computed, not a constant"
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return f"its weight has {len(weight.dims)} axes; INT8 needs 2"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return "it transposes or scales its input"
    if node.op_type == "Gemm" and len(node.input) > 2 and attribute(node, "beta", 1.0) != 1.0:
        return "it scales its bias"
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constants.get(node.input[2])
        if bias is None or len(bias.dims) != 1:
            return "its bias is no constant vector"
    return None


def patterns_of(names: Iterable[str]) -> tuple[str, ...]:
    """keep_float patterns that match nodes of exactly these names."""
    escaped = (escape(name) for name in names)
    return tuple(f"[o]{pattern[1:]}" if pattern.startswith("op:") else pattern for pattern in escaped)


def place_measured(place: Place, graph: Graph, keep_float: Sequence[str], measured: Mapping[str, str]) -> Placement:
    """A runtime's placement that also keeps the operators of `measured` in floating point, each for its reason."""
    placement = place(graph, (*keep_float, *patterns_of(measured)))
    kept = {node.name for node in graph.nodes if matching_pattern(node, keep_float) is None} & measured.keys()
    operators = tuple(
        replace(operator, reason=measured[operator.name]) if operator.name in kept else operator
        for operator in placement.operators
    )
    return replace(placement, operators=operators)
