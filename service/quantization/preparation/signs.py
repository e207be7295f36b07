"""Which tensors of a graph can hold values below zero, told from their operators alone."""

from __future__ import annotations

from onnx import NodeProto

from service.quantization.graphs.graph import Graph, clip_bounds

# What comes out is never below zero, whatever goes in.
_NEVER = frozenset(
    {"Relu", "Abs", "Exp", "Sqrt", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "ReduceL1", "ReduceL2",
     "ReduceSumSquare"}
)  # fmt: skip
# What comes out is below zero only where something that goes in is.
_KEEPS = frozenset({"Add", "Mul", "Div", "Sum", "Max", "Min", "Mean", "Concat"})
# The same, of the first input: the others are shapes, places and sizes.
_MOVES = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze",
     "Unsqueeze", "Identity", "Slice", "Split", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout",
     "QuantizeLinear", "DequantizeLinear", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"}
)  # fmt: skip


class Signs:
    """Follows a graph's nodes in their order. What cannot be told counts as negative, and so does what is fed."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.never_negative: set[str] = set()
        for name in graph.constants:
            values = graph.constant(name)
            # Integers may stand for something below zero.
            if values is not None and values.dtype.kind == "f" and (values >= 0).all():
                self.never_negative.add(name)

    def follow(self, node: NodeProto) -> None:
        """Tells of the node's outputs; those that `never_negative` was told of stay there."""
        bounds = clip_bounds(node, self._graph)
        if bounds is not None:
            never = bounds[0] >= 0
        elif node.op_type in _KEEPS:
            never = all(name in self.never_negative for name in node.input if name)
        else:
            moved = node.op_type in _MOVES and node.input[0] in self.never_negative
            never = moved or node.op_type in _NEVER
        if never:
            self.never_negative.update(node.output)
