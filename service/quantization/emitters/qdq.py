"""Writes Q/DQ nodes and integer constants into a float graph. Where they belong, each runtime's emitter decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.domain.plan import TensorGrid
from service.domain.tensor import NUMPY_TYPES
from service.quantization.graphs.graph import Graph
from service.quantization.graphs.graph_checks import graphs_of, nodes_of

Array = npt.NDArray[Any]
# What the names of new tensors and nodes end in.
_ENDS = ("_quantized", "_dequantized", "_scale", "_zero_point", "_float", "/quantize", "/dequantize")


def quantized(values: Array, grid: TensorGrid) -> Array:
    """Real values to the grid's integers, rounded half to even and clipped; INT8 stays within -127..127."""
    dtype = NUMPY_TYPES[grid.datatype]
    bounds = np.iinfo(dtype)
    lowest = -bounds.max if bounds.min < 0 else 0
    shape = [1] * values.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    scales = np.asarray(grid.scales, np.float32).astype(np.float64).reshape(shape)
    integers = np.rint(values.astype(np.float64) / scales) + grid.zero_point
    return integers.clip(lowest, bounds.max).astype(dtype)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A grid that is in the graph as the constants `<prefix>_scale` and `<prefix>_zero_point`."""

    prefix: str
    axis: int | None


class QdqWriter:
    """Collects nodes for a copy of a model whose nodes have unique names; `finished` puts them in order."""

    def __init__(self, model: ModelProto) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self.graph = Graph(self._model)
        self._before: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)
        self._taken = _names_of(self._model)
        self._prefixes: dict[str, str] = {}

    def replace_constant(self, node: NodeProto, place: int, grid: TensorGrid) -> None:
        """Input `place` of the node becomes an integer constant behind a DequantizeLinear of its own."""
        values = self.graph.constant(grid.tensor)
        assert values is not None
        prefix = self._claimed(f"{node.name}/{'weight' if place == 1 else 'bias'}")
        self._add_constant(f"{prefix}_quantized", quantized(values, grid))
        ends = f"{prefix}_quantized", f"{prefix}_dequantized"
        self._before.append(_node("DequantizeLinear", ends, self._add_grid(prefix, grid)))
        node.input[place] = ends[1]

    def set_bias(self, node: NodeProto, values: Array) -> None:
        """Gives a Conv or Gemm a float bias in place of the one that it has, if any."""
        name = f"{node.name}/bias"
        while name in self._taken:
            name = f"{name}/qdq"
        self._taken.add(name)
        self._add_constant(name, values)
        inputs = [*node.input[:2], name]
        del node.input[:]
        node.input.extend(inputs)

    def insert_pair(self, grid: TensorGrid, readers: Collection[str]) -> None:
        """The nodes named in `readers` read the tensor through QuantizeLinear and DequantizeLinear, others as it is."""
        tensor = grid.tensor
        prefix = self._prefix_of(tensor)
        for node in self.graph.readers[tensor]:
            if node.name in readers:
                _reconnect(node, tensor, f"{prefix}_dequantized")
        self._add_pair(grid, tensor, prefix, f"{prefix}_dequantized")

    def move_output_behind_pair(self, grid: TensorGrid) -> None:
        """A tensor that a node makes keeps its name, behind the pair: callers, readers and subgraphs see integers'
        values only.
        """
        tensor = grid.tensor
        maker = self.graph.producer[tensor]
        prefix = self._prefix_of(tensor)
        maker.output[list(maker.output).index(tensor)] = f"{prefix}_float"
        self._add_pair(grid, f"{prefix}_float", prefix, tensor)

    def insert_own_pair(self, node: NodeProto, index: int, grid: TensorGrid) -> None:
        """Input `index` of the node goes through a pair that nobody else reads."""
        prefix = self._claimed(f"{node.name}/input_{index}")
        self._add_pair(grid, grid.tensor, prefix, f"{prefix}_dequantized")
        node.input[index] = f"{prefix}_dequantized"

    def dequantize_by_channel(self, node: NodeProto, grid: TensorGrid) -> None:
        """The node reads the integers of the tensor's pair, which must be there, through a DequantizeLinear of its own
        with the scales of `grid`.
        """
        tensor, prefix = grid.tensor, self._claimed(f"{node.name}/input")
        ends = f"{self._prefix_of(tensor)}_quantized", f"{prefix}_dequantized"
        own = _node("DequantizeLinear", ends, self._add_grid(prefix, grid))
        _reconnect(node, tensor, f"{prefix}_dequantized")
        self._behind(tensor).append(own)

    def finished(self) -> ModelProto:
        """The model with its new nodes in place and without constants that nothing reads any more."""
        nodes = list(self._before)
        for node in self.graph.nodes:
            nodes += [node, *self._after[node.name]]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._model.graph.node[:]
        self._model.graph.node.extend(copies)
        graph = Graph(self._model)
        read = {name for node in graph.nodes for name in node.input} | graph.read_inside | graph.outputs
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(kept)
        return self._model

    def _add_pair(self, grid: TensorGrid, source: str, prefix: str, result: str) -> None:
        """source -> QuantizeLinear -> DequantizeLinear -> result, behind the node that makes the grid's tensor."""
        stored, between = self._add_grid(prefix, grid), f"{prefix}_quantized"
        self._behind(grid.tensor).append(_node("QuantizeLinear", (source, between), stored))
        self._behind(grid.tensor).append(_node("DequantizeLinear", (between, result), stored))

    def _behind(self, tensor: str) -> list[NodeProto]:
        """New nodes to stand where the tensor has just been made."""
        maker = self.graph.producer.get(tensor)
        return self._before if maker is None else self._after[maker.name]

    def _add_grid(self, prefix: str, grid: TensorGrid) -> _Stored:
        """New constants for the grid's scale and zero point, each a scalar where it has no axis."""
        zero_point = np.full(len(grid.scales), grid.zero_point, NUMPY_TYPES[grid.datatype])
        for name, value in (("scale", np.asarray(grid.scales, np.float32)), ("zero_point", zero_point)):
            self._add_constant(f"{prefix}_{name}", value.reshape(()) if grid.axis is None else value)
        return _Stored(prefix, grid.axis)

    def _prefix_of(self, tensor: str) -> str:
        """What the names of the tensor's own pair start with."""
        if tensor not in self._prefixes:
            self._prefixes[tensor] = self._claimed(tensor)
        return self._prefixes[tensor]

    def _claimed(self, prefix: str) -> str:
        """The prefix, made longer until no name that starts with it and goes on as ours do is in the model already."""
        while any(f"{prefix}{end}" in self._taken for end in _ENDS):
            prefix = f"{prefix}/qdq"
        self._taken.update(f"{prefix}{end}" for end in _ENDS)
        return prefix

    def _add_constant(self, name: str, values: Array) -> None:
        self._model.graph.initializer.append(numpy_helper.from_array(values, name))


def _names_of(model: ModelProto) -> set[str]:
    """Every name of a tensor or node, in subgraphs too."""
    taken: set[str] = set()
    for graph in graphs_of(model):
        taken.update(value.name for value in (*graph.input, *graph.output))
        taken.update(tensor.name for tensor in graph.initializer)
    for node in nodes_of(model):
        taken.update((node.name, *node.input, *node.output))
    return taken


def _reconnect(node: NodeProto, tensor: str, replacement: str) -> None:
    renamed = [replacement if name == tensor else name for name in node.input]
    del node.input[:]
    node.input.extend(renamed)


def _node(kind: str, ends: tuple[str, str], grid: _Stored) -> NodeProto:
    """QuantizeLinear or DequantizeLinear from the first of `ends` to the second, named as the constants it reads."""
    prefix = grid.prefix
    inputs = [ends[0], f"{prefix}_scale", f"{prefix}_zero_point"]
    node = helper.make_node(kind, inputs, [ends[1]], f"{prefix}/{kind.removesuffix('Linear').lower()}")
    if grid.axis is not None:
        node.attribute.append(helper.make_attribute("axis", grid.axis))
    return node
