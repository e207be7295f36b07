"""Writes Q/DQ nodes and integer constants into a float graph. Where they belong, each runtime's emitter decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.domain.plan import TensorGrid
from service.domain.tensor import NUMPY_TYPES
from service.quantization.graph import Graph

Array = npt.NDArray[Any]


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


class QdqWriter:
    """Collects nodes for a copy of a model whose nodes have unique names; `finished` puts them in order."""

    def __init__(self, model: ModelProto) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self.graph = Graph(self._model)
        self._before: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)

    def replace_constant(self, node: NodeProto, place: int, grid: TensorGrid) -> None:
        """Input `place` of the node becomes an integer constant behind a DequantizeLinear of its own."""
        values = self.graph.constant(grid.tensor)
        assert values is not None
        prefix = f"{node.name}/{'weight' if place == 1 else 'bias'}"
        self._add_constant(f"{prefix}_quantized", quantized(values, grid))
        self._before.append(_node("DequantizeLinear", f"{prefix}_quantized", self._add_grid(prefix, grid), prefix))
        node.input[place] = f"{prefix}_dequantized"

    def set_bias(self, node: NodeProto, values: Array) -> None:
        """Gives a Conv or Gemm a float bias in place of the one that it has, if any."""
        name = f"{node.name}/bias"
        self._add_constant(name, values)
        inputs = [*node.input[:2], name]
        del node.input[:]
        node.input.extend(inputs)

    def insert_pair(self, grid: TensorGrid, readers: Collection[str]) -> None:
        """The nodes named in `readers` read the tensor through QuantizeLinear and DequantizeLinear, others as it is."""
        tensor = grid.tensor
        constants = self._add_grid(tensor, grid)
        pair = [
            _node("QuantizeLinear", tensor, constants, tensor),
            _node("DequantizeLinear", f"{tensor}_quantized", constants, tensor),
        ]
        for node in self.graph.readers[tensor]:
            if node.name in readers:
                _reconnect(node, tensor, f"{tensor}_dequantized")
        maker = self.graph.producer.get(tensor)
        (self._before if maker is None else self._after[maker.name]).extend(pair)

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

    def _add_grid(self, prefix: str, grid: TensorGrid) -> tuple[list[str], int | None]:
        """The names of new constants that hold the grid's scale and zero point, each a scalar where it has no axis."""
        zero_point = np.full(len(grid.scales), grid.zero_point, NUMPY_TYPES[grid.datatype])
        for name, value in (("scale", np.asarray(grid.scales, np.float32)), ("zero_point", zero_point)):
            self._add_constant(f"{prefix}_{name}", value.reshape(()) if grid.axis is None else value)
        return [f"{prefix}_scale", f"{prefix}_zero_point"], grid.axis

    def _add_constant(self, name: str, values: Array) -> None:
        self._model.graph.initializer.append(numpy_helper.from_array(values, name))


def _reconnect(node: NodeProto, tensor: str, replacement: str) -> None:
    renamed = [replacement if name == tensor else name for name in node.input]
    del node.input[:]
    node.input.extend(renamed)


def _node(kind: str, source: str, grid: tuple[list[str], int | None], prefix: str) -> NodeProto:
    """QuantizeLinear or DequantizeLinear of `source`, named after the tensor or constant that it serves."""
    constants, axis = grid
    done = "quantize" if kind == "QuantizeLinear" else "dequantize"
    node = helper.make_node(kind, [source, *constants], [f"{prefix}_{done}d"], f"{prefix}/{done}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node
