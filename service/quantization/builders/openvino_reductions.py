"""Keeps OpenVINO from computing what follows a reduction in the reduction's own kernel, where it does so wrongly.

Tried with OpenVINO 2026.4 on x86 beside ONNX Runtime: where a tensor of three axes is reduced, or one is reduced
without `keepdims`, the numbers for each channel that the result is multiplied with or raised by are applied along
another axis, in FP32 too; and a rounding to 8 bits that is fused into a maximum or minimum rounds what it has found so
far. A reshape in between prevents both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.quantization.emitters.opset import opset_of
from service.quantization.graphs.graph import attribute
from service.quantization.graphs.inferred_values import inferred_values

_EXTREMA = frozenset({"ReduceMax", "ReduceMin"})
_REDUCTIONS = _EXTREMA | {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip
_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
_DEFAULT_DOMAIN = ("", "ai.onnx")
# Axes are an input of Squeeze, Unsqueeze and ReduceSum since the first, of the other reductions since the second.
_AXES_OF_SHAPES, _AXES_OF_ALL = 13, 18


def separate_reductions(model: ModelProto) -> bool:
    """Puts a reshape behind each affected reduction of the main graph, and tells whether there was one.

    The graph computes the same; a reduction keeps its node's name, and what it made its name.
    """
    writer = _Writer(model)
    nodes: list[NodeProto] = []
    changed = False
    for node in model.graph.node:
        made = writer.replaced(node)
        changed |= bool(made)
        nodes += made or [node]
    if changed:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return changed


class _Writer:
    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opset = opset_of(model)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._ranks = _ranks_of(model)
        self._names = {name for node in model.graph.node for name in (node.name, *node.input, *node.output)}
        self._names |= self._constants.keys()

    def replaced(self, node: NodeProto) -> Sequence[NodeProto]:
        """The nodes to stand in this one's place, the last of which makes its tensor; none where it may stay."""
        rank = self._ranks.get(node.input[0], 0) if node.input else 0
        if rank < 2 or node.domain not in _DEFAULT_DOMAIN:
            return ()
        kind, axes, keeps = self._read(node, rank)
        if not axes:
            return ()
        if rank == 3:
            return self._of_three_axes(node, kind, axes, keeps)
        kept = self._new(f"{node.output[0]}/reduced")
        if not keeps:
            squeeze = self._with_axes("Squeeze", kept, node.output[0], axes)
            return [self._reduction(node, kind, (node.input[0], kept), axes), squeeze]
        if kind not in _EXTREMA:
            return ()
        unsqueeze = self._with_axes("Unsqueeze", kept, node.output[0], axes)
        return [self._reduction(node, kind, (node.input[0], kept), axes, keepdims=0), unsqueeze]

    def _read(self, node: NodeProto, rank: int) -> tuple[str, list[int], bool]:
        """As a reduction: its operator, its axes (none where they are not known), and whether they are kept."""
        if node.op_type in _POOLS:
            return _POOLS[node.op_type], list(range(2, rank)), True
        if node.op_type not in _REDUCTIONS:
            return "", [], True
        axes = sorted(axis % rank for axis in self._axes_of(node))
        return node.op_type, axes, bool(attribute(node, "keepdims", 1))

    def _axes_of(self, node: NodeProto) -> Iterable[int]:
        if len(node.input) > 1 and node.input[1]:
            tensor = self._constants.get(node.input[1])
            return () if tensor is None else map(int, numpy_helper.to_array(tensor).ravel())
        stated: Iterable[int] = attribute(node, "axes", ())
        return stated

    def _of_three_axes(self, node: NodeProto, kind: str, axes: Sequence[int], keeps: bool) -> Sequence[NodeProto]:
        """With an axis of length 1 before the last: of four axes, reductions are right."""
        widened, kept = self._new(f"{node.output[0]}/widened"), self._new(f"{node.output[0]}/reduced")
        moved = [axis if axis < 2 else 3 for axis in axes]
        return [
            self._with_axes("Unsqueeze", node.input[0], widened, [2]),
            self._reduction(node, kind, (widened, kept), moved),
            self._with_axes("Squeeze", kept, node.output[0], [2] if keeps else sorted({2, *moved})),
        ]

    def _reduction(
        self, node: NodeProto, kind: str, ends: tuple[str, str], axes: Sequence[int], keepdims: int = 1
    ) -> NodeProto:
        source, made = ends
        since = _AXES_OF_SHAPES if kind == "ReduceSum" else _AXES_OF_ALL
        if self._opset < since:
            return helper.make_node(kind, [source], [made], node.name, axes=list(axes), keepdims=keepdims)
        return helper.make_node(kind, [source, self._constant(axes, made)], [made], node.name, keepdims=keepdims)

    def _with_axes(self, kind: str, source: str, made: str, axes: Sequence[int]) -> NodeProto:
        name = self._new(f"{made}/{kind.lower()}")
        if self._opset < _AXES_OF_SHAPES:
            return helper.make_node(kind, [source], [made], name, axes=list(axes))
        return helper.make_node(kind, [source, self._constant(axes, name)], [made], name)

    def _constant(self, axes: Sequence[int], owner: str) -> str:
        name = self._new(f"{owner}/axes")
        self._graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
        return name

    def _new(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _ranks_of(model: ModelProto) -> dict[str, int]:
    """The number of axes of every tensor for which it can be told."""
    kinds = {value.name: value.type.tensor_type for value in inferred_values(model)}
    return {name: len(kind.shape.dim) for name, kind in kinds.items() if kind.HasField("shape")}
