"""Writes a plan into a float graph as Q/DQ nodes, in the places where ONNX Runtime's CPU kernels fuse them.

Weights become INT8 constants and biases INT32 ones, each behind a DequantizeLinear. What an INT8 operator makes is read
only through its Q/DQ pair; other tensors are read through the pair by INT8 operators alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan, TensorGrid
from service.domain.tensor import NUMPY_TYPES
from service.quantization.graph import Graph, attribute

Array = npt.NDArray[Any]


def emit_onnxruntime(model: ModelProto, plan: QuantizationPlan) -> ModelProto:
    """A copy of `model` with the plan in it; `model` must be the one that the plan was made for."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return _Emitter(copy, plan).emit()


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


class _Emitter:
    def __init__(self, model: ModelProto, plan: QuantizationPlan) -> None:
        self._model = model
        self._graph = Graph(model)
        self._plan = plan
        self._int8 = {entry.name for entry in plan.operators if entry.precision == "INT8"}
        self._before: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)

    def emit(self) -> ModelProto:
        nodes = {node.name: node for node in self._graph.nodes}
        for operator in self._plan.weights:
            self._replace_constant(nodes[operator.operator], 1, operator.weight)
            if operator.bias is not None:
                self._replace_constant(nodes[operator.operator], 2, operator.bias)
        for grid in self._plan.activations:
            self._insert_pair(grid)
        self._write_nodes()
        self._drop_unread_constants()
        return self._model

    def _replace_constant(self, node: NodeProto, place: int, grid: TensorGrid) -> None:
        values = self._graph.constant(grid.tensor)
        assert values is not None
        prefix = f"{node.name}/{'weight' if place == 1 else 'bias'}"
        self._add_constant(f"{prefix}_quantized", quantized(values, grid))
        self._before.append(_dequantize(prefix, f"{prefix}_dequantized", self._add_grid(prefix, grid), grid.axis))
        node.input[place] = f"{prefix}_dequantized"

    def _insert_pair(self, grid: TensorGrid) -> None:
        """tensor -> QuantizeLinear -> DequantizeLinear -> readers. A graph output keeps its name behind the pair."""
        tensor, maker = grid.tensor, self._graph.producer.get(grid.tensor)
        made_in_int8 = maker is not None and maker.name in self._int8
        source, result = tensor, f"{tensor}_dequantized"
        if maker is not None and made_in_int8 and tensor in self._graph.outputs:
            source, result = f"{tensor}_float", tensor
            maker.output[list(maker.output).index(tensor)] = source
        constants = self._add_grid(tensor, grid)
        by_channel: list[NodeProto] = []
        for node in self._graph.readers[tensor]:
            if made_in_int8 and self._would_be_quantized_at_load(node, tensor):
                by_channel.append(self._dequantize_by_channel(node, grid))
            elif made_in_int8 or node.name in self._int8:
                _reconnect(node, tensor, result)
        quantize = helper.make_node(
            "QuantizeLinear", [source, *constants], [f"{tensor}_quantized"], f"{tensor}/quantize"
        )
        pair = [quantize, _dequantize(tensor, result, constants, None), *by_channel]
        if maker is None:
            self._before.extend(pair)
        else:
            self._after[maker.name].extend(pair)

    def _would_be_quantized_at_load(self, node: NodeProto, tensor: str) -> bool:
        """ONNX Runtime quantizes float weights by itself where it finds them between Q/DQ pairs of one scale."""
        weighted = (
            node.op_type in ("Conv", "Gemm") and node.input[0] == tensor and node.input[1] in self._graph.constants
        )
        return weighted and node.name not in self._int8

    def _dequantize_by_channel(self, node: NodeProto, grid: TensorGrid) -> NodeProto:
        """The same values through one equal scale a channel: a form that ONNX Runtime leaves in floating point."""
        weight = self._graph.constants[node.input[1]]
        axis = 0 if attribute(node, "transA", 0) else 1
        channels = weight.dims[1] * attribute(node, "group", 1)
        if node.op_type == "Gemm":
            channels = weight.dims[1 if attribute(node, "transB", 0) else 0]
        repeated = replace(grid, scales=grid.scales * channels, axis=axis)
        prefix = f"{node.name}/input"
        result = f"{prefix}_dequantized"
        _reconnect(node, grid.tensor, result)
        constants = self._add_grid(prefix, repeated)
        return _dequantize(prefix, result, constants, axis, source=f"{grid.tensor}_quantized")

    def _add_grid(self, prefix: str, grid: TensorGrid) -> list[str]:
        """The names of new constants that hold the grid's scale and zero point, each a scalar where it has no axis."""
        zero_point = np.full(len(grid.scales), grid.zero_point, NUMPY_TYPES[grid.datatype])
        for name, value in (("scale", np.asarray(grid.scales, np.float32)), ("zero_point", zero_point)):
            self._add_constant(f"{prefix}_{name}", value.reshape(()) if grid.axis is None else value)
        return [f"{prefix}_scale", f"{prefix}_zero_point"]

    def _add_constant(self, name: str, values: Array) -> None:
        self._model.graph.initializer.append(numpy_helper.from_array(values, name))

    def _write_nodes(self) -> None:
        nodes = list(self._before)
        for node in self._graph.nodes:
            nodes += [node, *self._after[node.name]]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._model.graph.node[:]
        self._model.graph.node.extend(copies)

    def _drop_unread_constants(self) -> None:
        graph = Graph(self._model)
        read = {name for node in graph.nodes for name in node.input} | graph.read_inside | graph.outputs
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(kept)


def _reconnect(node: NodeProto, tensor: str, replacement: str) -> None:
    renamed = [replacement if name == tensor else name for name in node.input]
    del node.input[:]
    node.input.extend(renamed)


def _dequantize(
    prefix: str, result: str, constants: list[str], axis: int | None, source: str | None = None
) -> NodeProto:
    inputs = [source or f"{prefix}_quantized", *constants]
    node = helper.make_node("DequantizeLinear", inputs, [result], f"{prefix}/dequantize")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node
