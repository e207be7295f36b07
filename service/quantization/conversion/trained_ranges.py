"""Finds the range that training gave each tensor of a placement, though the pair stood behind what only moves values.

PyTorch puts a pair right before the convolution that reads it, behind a MaxPool or a Flatten; a placement takes the
range of the tensor before that, for both sides share one grid.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import Placement
from service.quantization.placements.tensorrt import COMMUTING

Extent = tuple[float, float]


def trained_ranges(placement: Placement, graph: Graph, trained: Mapping[str, Extent]) -> dict[str, Extent]:
    """(low, high) in real units for every observed tensor that training gave a range, itself or where it is read.

    `trained` holds the ranges of the upload's pairs, by tensor. A reader saw what all pairs on its way had clipped, so
    the narrowest of these counts. Readers that disagree share one grid all the same: as of several pairs of one tensor,
    it holds what each of them saw, so that it clips what no reader was trained without.
    """
    found: dict[str, Extent] = {}
    for tensor, root in placement.grids.items():
        seen = _seen(tensor, root, graph, trained)
        if seen is None or not _is_read(tensor, placement, graph):
            continue
        low, high = found.get(root, seen)
        found[root] = min(low, seen[0]), max(high, seen[1])
    return found


def _seen(tensor: str, root: str, graph: Graph, trained: Mapping[str, Extent]) -> Extent | None:
    """What is left by the pairs between the tensor whose range is asked for and this one; None where there are none."""
    extents = [trained[tensor]] if tensor in trained else []
    maker = graph.producer.get(tensor)
    while tensor != root and maker is not None and maker.op_type in COMMUTING:
        tensor = maker.input[0]
        maker = graph.producer.get(tensor)
        extents += [trained[tensor]] if tensor in trained else []
    return (max(low for low, _ in extents), min(high for _, high in extents)) if extents else None


def _is_read(tensor: str, placement: Placement, graph: Graph) -> bool:
    """Whether anything computes with the tensor here, and not only behind what moves it on, on the same grid."""
    if tensor in graph.outputs | graph.read_inside:
        return True
    return any(not _moves_on(node, placement.grids[tensor], placement) for node in graph.readers[tensor])


def _moves_on(node: NodeProto, root: str, placement: Placement) -> bool:
    if node.op_type in ("Shape", "Size"):
        return True
    return node.op_type in COMMUTING and placement.grids.get(node.output[0]) == root
