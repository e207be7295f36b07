"""Why one operator has no INT8 kernel worth having on TensorRT: its form, its channels, or attention around it.

The bounds on channels and matrix sizes are those that NVIDIA's Model Optimizer uses to leave operators alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto

from service.quantization.graphs.graph import Graph, attribute
from service.quantization.graphs.inferred_values import inferred_values

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}
_FEW_CHANNELS = 16
_CHANNEL_STEP = 8
_WIDE_KERNEL = 3
# What may stand between the two products of an attention and its Softmax.
_SCORES = frozenset({"Mul", "Div", "Add", "Sub", "Where", "Reshape", "Transpose", "Cast", "Identity", "Clip", "Tanh"})
_WEIGHTS = frozenset({"Reshape", "Transpose", "Cast", "Identity", "Dropout", "Where", "Mul"})

Shapes = dict[str, tuple[int | None, ...]]


def tensor_shapes(model: ModelProto) -> Shapes:
    """Tensor -> its extents, None for those that only a request knows; tensors of unknown rank are left out."""
    shapes: Shapes = {}
    for value in inferred_values(model):
        if value.type.tensor_type.HasField("shape"):
            extents = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in extents)
    return shapes


def is_product(node: NodeProto, graph: Graph) -> bool:
    """Whether the node multiplies two computed matrices: it has no constant weight."""
    return node.op_type == "MatMul" and not any(name in graph.constants for name in node.input)


def float_reason(node: NodeProto, graph: Graph, shapes: Shapes) -> str | None:
    """Why a weighted node stays in floating point, or None where INT8 pays."""
    if node.input[0] in graph.constants:
        return "its input is a constant"
    if not graph.is_float(node.input[0]):
        return f"its input is {graph.type_name(node.input[0])}, not FLOAT"
    if is_product(node, graph):
        return _vector_reason(node, shapes)
    weight = graph.constants.get(node.input[1])
    if weight is None:
        return "its weight is computed, not a constant"
    if node.op_type in CONVOLUTIONS:
        return _channel_reason(node, graph, tuple(weight.dims))
    if len(weight.dims) != 2:
        return f"its weight has {len(weight.dims)} axes; INT8 needs 2"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return "it transposes or scales its input"
    if min(weight.dims) < _FEW_CHANNELS and node.op_type == "Gemm":
        return f"its matrix is {weight.dims[0]} by {weight.dims[1]}; INT8 pays from {_FEW_CHANNELS} by {_FEW_CHANNELS}"
    return _vector_reason(node, shapes)


def _vector_reason(node: NodeProto, shapes: Shapes) -> str | None:
    made = shapes.get(node.output[0], ())
    if node.op_type == "MatMul" and 1 in made[-2:]:
        return "it multiplies by a vector, which has no INT8 kernel"
    return None


def _channel_reason(node: NodeProto, graph: Graph, dims: tuple[int, ...]) -> str | None:
    group = attribute(node, "group", 1)
    # A transposed convolution's weight has its input channels first.
    given, made = (dims[1], dims[0]) if node.op_type == "Conv" else (dims[0] // group, dims[1])
    kernel = dims[2:]
    if min(given, made) >= _FEW_CHANNELS:
        return None
    if group > 1:
        total = made if node.op_type == "Conv" else made * group
        if total % _CHANNEL_STEP == 0 and min(kernel) >= _WIDE_KERNEL:
            return None
        return f"its groups of {given} to {made} channels with kernel {list(kernel)} have no good INT8 kernel"
    first = node.input[0] in graph.inputs
    for even, other in ((made, given), (given, made)):
        if even % _CHANNEL_STEP == 0 and (first or other >= _FEW_CHANNELS) and len(set(kernel)) == 1:
            return None
    return f"with {given} to {made} channels it has no good INT8 kernel; INT8 pays from {_FEW_CHANNELS}"


def attention_parts(graph: Graph) -> dict[str, str]:
    """Node name -> the Softmax's name, for both products and all between them of every attention in the graph."""
    parts: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type == "Softmax":
            above, below = list(_products(node, graph, up=True)), list(_products(node, graph, up=False))
            if above and below:
                parts |= dict.fromkeys((name for path in (*above, *below) for name in path), node.name)
                parts[node.name] = node.name
    return parts


def _products(node: NodeProto, graph: Graph, up: bool) -> Iterator[list[str]]:
    """The names on every way from a Softmax up or down to a product of two computed matrices."""
    passing = _SCORES if up else _WEIGHTS
    open_ways: list[tuple[NodeProto, list[str]]] = [(node, [])]
    seen: set[str] = set()
    while open_ways:
        current, way = open_ways.pop()
        if up:
            near = [graph.producer[name] for name in current.input if name in graph.producer]
        else:
            near = [reader for name in current.output for reader in graph.readers[name]]
        for other in near:
            if is_product(other, graph):
                yield [*way, other.name]
            elif other.op_type in passing and other.name not in seen:
                seen.add(other.name)
                open_ways.append((other, [*way, other.name]))
