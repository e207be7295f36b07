"""Finds tensors that no one grid serves, because they were put together from parts of very different ranges.

A detector's head joins boxes of 0 to 640 with scores of 0 to 1: on a grid for the boxes, every score becomes zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import WEIGHTED

# A part whose range is a sixteenth of the whole has 16 of 256 levels: 4 bits, and 24 dB of its precision is gone.
LARGEST_SPREAD = 16.0
_MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"})
_JOINING = frozenset({"Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool"})


def joined_parts(graph: Graph) -> tuple[str, ...]:
    """The tensors whose ranges `spread_reasons` asks for: every computed FLOAT input of a Concat."""
    parts = [name for node in graph.nodes if node.op_type == "Concat" for name in node.input]
    return tuple(dict.fromkeys(name for name in parts if graph.is_float(name) and name not in graph.constants))


def spread_reasons(graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Operators to keep in floating point, with the reason: such a Concat, and what would read its result in INT8.

    A part that is always zero, or that has no range, counts for nothing.
    """
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        found = _spread(node, ranges) if node.op_type == "Concat" else None
        if found is not None:
            reasons[node.name] = f"kept in floating point: {found}"
            for reader in _readers(graph, node.output[0]):
                reasons.setdefault(reader.name, f"reads {node.name!r} in floating point: {found}")
    return reasons


def _spread(node: NodeProto, ranges: Mapping[str, tuple[float, float]]) -> str | None:
    widths = {name: ranges[name][1] - ranges[name][0] for name in node.input if name in ranges}
    widths = {name: width for name, width in widths.items() if width > 0}
    if len(widths) < 2:
        return None
    widest, narrowest = max(widths, key=lambda name: widths[name]), min(widths, key=lambda name: widths[name])
    ratio = widths[widest] / widths[narrowest]
    if ratio <= LARGEST_SPREAD:
        return None
    return (
        f"{widest!r} spans {widths[widest]:.4g} and {narrowest!r} {widths[narrowest]:.4g}, {ratio:.0f} times less; "
        f"one grid for both would leave the latter {256 / ratio:.2g} of 256 levels"
    )


def _readers(graph: Graph, tensor: str) -> list[NodeProto]:
    """What would put this tensor, or another view of it, on a grid."""
    found = []
    for node in graph.readers[tensor]:
        if node.op_type in WEIGHTED | _MOVING | _JOINING:
            found.append(node)
        if node.op_type in _MOVING:
            found += _readers(graph, node.output[0])
    return found
