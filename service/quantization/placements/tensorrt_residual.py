"""Finds residual additions and the one input of each that TensorRT wants quantized: the skip, never the convolution's.

TensorRT fuses the addition into the convolution that feeds it alone. The other addend's type then decides the type of
the fused result: float would force a float result and leave the next QuantizeLinear unfused.
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import NodeProto

from service.quantization.graphs.graph import Graph


def skip_input(node: NodeProto, graph: Graph, convolutions: Collection[str]) -> str | None:
    """The skip of a residual Add, or None where the Add is none. `convolutions` names those that run in INT8."""
    if node.op_type != "Add" or len(set(node.input)) != 2:
        return None
    # A constant or an input of the graph has no producer: adding it is no residual connection.
    makers = [graph.producer.get(name) for name in node.input]
    if makers[0] is None or makers[1] is None or not all(graph.is_float(name) for name in node.input):
        return None
    fusible = [
        maker is not None and maker.name in convolutions and graph.only_reader(name) is node
        for maker, name in zip(makers, node.input, strict=True)
    ]
    if not any(fusible):
        return None
    steps = _steps_to_common_ancestor(makers[0], makers[1], graph)
    if steps is None:
        return None
    # With a convolution on both sides, the longer way is the block and the shorter one the skip.
    block = fusible.index(True) if not all(fusible) else int(steps[1] > steps[0])
    return str(node.input[1 - block])


def _steps_to_common_ancestor(first: NodeProto, second: NodeProto, graph: Graph) -> tuple[int, int] | None:
    """How far the nearest node or input above both is from each; None where nothing feeds both."""
    above, below = _distances(first, graph), _distances(second, graph)
    shared = above.keys() & below.keys()
    if not shared:
        return None
    nearest = min(shared, key=lambda name: (above[name] + below[name], name))
    return above[nearest], below[nearest]


def _distances(start: NodeProto, graph: Graph) -> dict[str, int]:
    """Steps up from `start` to every tensor above it, its own results included."""
    found = dict.fromkeys(start.output, 0)
    row, steps = [start], 0
    while row:
        steps += 1
        fresh = {name for node in row for name in node.input if name and name not in graph.constants} - found.keys()
        found |= dict.fromkeys(fresh, steps)
        row = list({id(maker): maker for name in fresh if (maker := graph.producer.get(name)) is not None}.values())
    return found
