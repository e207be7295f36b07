"""Reads a model that was uploaded with Q/DQ nodes into the float graph that it means, and the grids it was trained on.

From these any runtime's graph can be emitted again. Refuses integer operators and Q/DQ nodes that form no pairs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.domain.plan import QuantizationPlan, TensorGrid, WeightGrid
from service.errors import InvalidRecipe
from service.quantization.emitters.opset import constants_become_initializers
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.graphs.graph_checks import nodes_of
from service.quantization.preparation.signs import Signs

Array = npt.NDArray[Any]
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_INTEGER = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_NARROW = 127
# Least and greatest integer of the grids that are read.
_BOUNDS = {
    **{f"INT{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (4, 8, 16, 32)},
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in (4, 8, 16)},
}


@dataclass(frozen=True)
class QuantizedUpload:
    """`model` holds no Q/DQ; its weights are floats on their grids. `grids` are the activations', by tensor, as
    trained, and `weights` those of the constants, by the name that the constant has in `model`.
    """

    model: ModelProto
    grids: dict[str, TensorGrid]
    weights: dict[str, TensorGrid]

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) that each activation's grid holds, in real units: what a plan for another runtime has to keep."""
        return {tensor: _extent(grid) for tensor, grid in self.grids.items()}


def is_quantized(model: ModelProto) -> bool:
    return any(node.op_type.startswith((_QUANTIZE, _DEQUANTIZE, *_INTEGER)) for node in nodes_of(model))


def read_quantized(model: ModelProto) -> QuantizedUpload:
    """The float graph and the grids of a model with Q/DQ pairs. Raises InvalidRecipe for other forms."""
    copy = ModelProto()
    copy.CopyFrom(model)
    constants_become_initializers(copy)
    return _Reader(copy).read()


def as_trained(
    plan: QuantizationPlan, graph: Graph, upload: QuantizedUpload, reduced: Collection[str] = ()
) -> QuantizationPlan:
    """The plan with the weight scales of the upload, so that its integers come out again as they were trained.

    `graph` is the float graph that the plan is for. Operators in `reduced`, whose weights have fewer bits on this host,
    keep the plan's scales, and so do weights that were changed since.
    """
    nodes = {node.name: node for node in graph.nodes}
    scales = {grid.tensor: grid.scales[0] for grid in plan.activations}
    weights = []
    for entry in plan.weights:
        trained = upload.weights.get(entry.weight.tensor)
        if trained is None or entry.operator in reduced or not _fits(trained, entry.weight, graph):
            weights.append(entry)
        else:
            weights.append(_with_weight(entry, trained, scales.get(nodes[entry.operator].input[0])))
    return replace(plan, weights=tuple(weights))


def _with_weight(entry: WeightGrid, trained: TensorGrid, input_scale: float | None) -> WeightGrid:
    weight = replace(trained, tensor=entry.weight.tensor)
    if entry.bias is None or input_scale is None:
        return replace(entry, weight=weight)
    # An integer bias is added to products, so its scale is theirs.
    products = np.asarray(trained.scales, np.float32) * np.float32(input_scale)
    axis = None if trained.axis is None else 0
    return replace(entry, weight=weight, bias=replace(entry.bias, scales=tuple(map(float, products)), axis=axis))


def _fits(trained: TensorGrid, planned: TensorGrid, graph: Graph) -> bool:
    """Whether the trained grid is one that every runtime takes, and the weight still lies on it."""
    values = graph.constant(planned.tensor)
    if (
        values is None
        or trained.datatype != "INT8"
        or trained.zero_point != 0
        or trained.axis not in (None, planned.axis)
    ):
        return False
    steps = values.astype(np.float64) / _along(np.asarray(trained.scales), trained.axis, values.ndim)
    return bool(np.abs(steps).max(initial=0) <= _NARROW + 0.01 and np.abs(steps - np.rint(steps)).max(initial=0) < 0.01)


def _extent(grid: TensorGrid) -> tuple[float, float]:
    """What the grid holds; the one level that a signed grid has more below zero than above is left out."""
    low, high = (bound - grid.zero_point for bound in _BOUNDS[grid.datatype])
    if low == -high - 1:
        low = -high
    return min(0.0, low * max(grid.scales)), max(0.0, high * max(grid.scales))


def _along(values: Array, axis: int | None, dimensions: int) -> Array:
    """The values shaped such that they go along `axis` of a tensor of so many dimensions."""
    shape = [1] * dimensions
    if axis is not None:
        shape[axis] = -1
    return values.reshape(shape)


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph = Graph(model)
        self._grids: dict[str, TensorGrid] = {}
        self._weights: dict[str, TensorGrid] = {}
        self._sources: dict[str, str] = {}
        self._signs = Signs(self._graph)
        self._rectified: dict[str, str] = {}

    def read(self) -> QuantizedUpload:
        kept: list[NodeProto] = []
        for node in self._graph.nodes:
            if node.op_type == _DEQUANTIZE:
                kept += self._dequantize(node)
            elif node.op_type == _QUANTIZE:
                self._check_pair(node)
            elif node.op_type.startswith(_INTEGER):
                raise InvalidRecipe(
                    f"node {_shown(node)!r:.120} is {node.op_type}, an integer operator; export the model with "
                    "QuantizeLinear and DequantizeLinear around float operators, or upload its float version"
                )
            else:
                kept.append(node)
            self._signs.follow(node)
        self._write(kept)
        return QuantizedUpload(self._model, self._grids, self._weights)

    def _check_pair(self, node: NodeProto) -> None:
        result = node.output[0]
        odd = [reader.op_type for reader in self._graph.readers[result] if reader.op_type != _DEQUANTIZE]
        if odd or result in self._graph.outputs or result in self._graph.read_inside:
            raise InvalidRecipe(
                f"what QuantizeLinear {_shown(node)!r:.120} makes is read by {odd[0] if odd else 'the caller'} and not "
                "by DequantizeLinear alone; export the model with Q/DQ pairs, or upload its float version"
            )

    def _dequantize(self, node: NodeProto) -> list[NodeProto]:
        """Takes the node out; gives what stands in its place, if anything must."""
        source, result = node.input[0], node.output[0]
        integers = self._graph.constant(source)
        if integers is not None:
            self._add_weight(node, result, integers)
            return []
        maker = self._graph.producer.get(source)
        if maker is None or maker.op_type != _QUANTIZE:
            raise InvalidRecipe(
                f"DequantizeLinear {_shown(node)!r:.120} reads {source!r:.120}, which no QuantizeLinear makes; export "
                "the model with Q/DQ pairs and float inputs, or upload its float version"
            )
        self._check_one_grid(maker, node)
        values = self._graph.constant(maker.input[0])
        if values is not None:
            grid = self._grid(maker, maker.input[0])
            self._add_weight(node, result, _rounded(values, grid))
            return []
        tensor = self._sources.get(maker.input[0], maker.input[0])
        grid = self._grid(maker, tensor)
        if _extent(grid)[0] == 0:
            self._signs.never_negative.add(result)
            # What is fed is as its grid says; a Relu on it would only cost time.
            if tensor not in self._graph.inputs and maker.input[0] not in self._signs.never_negative:
                return self._rectify(node, grid)
        self._add_grid(grid)
        if result in self._graph.outputs or result in self._graph.read_inside:
            # Whoever simplifies the graph keeps one of the two names.
            self._grids.setdefault(result, self._grid(maker, result))
            return [helper.make_node("Identity", [tensor], [result], node.name)]
        self._sources[result] = tensor
        return []

    def _rectify(self, node: NodeProto, grid: TensorGrid) -> list[NodeProto]:
        """Writes out the Relu that a grid without negative values is: quantizers take one out that stood there."""
        result = node.output[0]
        rectified = self._rectified.setdefault(grid.tensor, result)
        self._add_grid(replace(grid, tensor=rectified))
        if rectified == result:
            return [helper.make_node("Relu", [grid.tensor], [result], node.name)]
        if result in self._graph.outputs or result in self._graph.read_inside:
            self._grids.setdefault(result, replace(grid, tensor=result))
            return [helper.make_node("Identity", [rectified], [result], node.name)]
        self._sources[result] = rectified
        return []

    def _add_grid(self, grid: TensorGrid) -> None:
        """Of several grids of one tensor, the widest: it clips what no reader was trained without."""
        known = self._grids.setdefault(grid.tensor, grid)
        if sum(map(abs, _extent(grid))) > sum(map(abs, _extent(known))):
            self._grids[grid.tensor] = grid

    def _check_one_grid(self, quantize: NodeProto, dequantize: NodeProto) -> None:
        ours, theirs = (self._grid(node, quantize.input[0], "any") for node in (quantize, dequantize))
        # One scale for all channels may be spelled as one each.
        alike = len({*ours.scales, *theirs.scales}) == 1 or (ours.scales, ours.axis) == (theirs.scales, theirs.axis)
        if not alike or ours.zero_point != theirs.zero_point:
            first, second = _shown(quantize), _shown(dequantize)
            raise InvalidRecipe(
                f"DequantizeLinear {second!r:.120} has another scale, zero point or axis than QuantizeLinear "
                f"{first!r:.120} before it; export the model with pairs of one grid, or upload its float version"
            )

    def _add_weight(self, node: NodeProto, result: str, integers: Array) -> None:
        # A name of its own, for an emitter may want the one that the pair's result had.
        name = result
        if result not in self._graph.outputs | self._graph.read_inside:
            name = self._sources[result] = f"{result}/trained"
        grid = self._grid(node, name, integers.dtype.name.upper())
        if grid.axis is not None:
            grid = replace(grid, axis=grid.axis % integers.ndim)
        scales = _along(np.asarray(grid.scales), grid.axis, integers.ndim)
        values = (integers.astype(np.float64) - grid.zero_point) * scales
        self._weights[name] = grid
        # A pair's float type is that of its scale.
        element = self._graph.constants[node.input[1]].data_type
        typed = values.astype(helper.tensor_dtype_to_np_dtype(element))
        self._model.graph.initializer.append(numpy_helper.from_array(typed, name))

    def _grid(self, node: NodeProto, tensor: str, datatype: str | None = None) -> TensorGrid:
        """The node's grid, for `tensor`."""
        scales = self._graph.constant(node.input[1])
        zeros: Array | None = np.zeros(1, helper.tensor_dtype_to_np_dtype(_unstated_type(node)))
        if len(node.input) > 2 and node.input[2]:
            zeros = self._graph.constant(node.input[2])
        if scales is None or zeros is None or scales.ndim > 1 or len(set(zeros.reshape(-1).tolist())) != 1:
            raise InvalidRecipe(
                f"{node.op_type} {_shown(node)!r:.120} has a scale or zero point that is computed, by blocks, or "
                "differs between channels; export the model with constant ones, or upload its float version"
            )
        if not (np.isfinite(scales.astype(np.float32)) & (scales.astype(np.float32) > 0)).all():
            raise InvalidRecipe(
                f"{node.op_type} {_shown(node)!r:.120} has the scale {float(scales.min()):g}; export the model with "
                "positive, finite scales, or upload its float version"
            )
        if zeros.dtype.name.upper() not in _BOUNDS:
            raise InvalidRecipe(
                f"{node.op_type} {_shown(node)!r:.120} quantizes to {zeros.dtype.name}, which is no grid of integers; "
                "ask for fp16, or upload its float version"
            )
        # One scale in a vector is one for the whole tensor.
        axis = attribute(node, "axis", 1) if scales.size > 1 else None
        kept = tuple(float(scale) for scale in scales.astype(np.float32).reshape(-1))
        return TensorGrid(tensor, datatype or zeros.dtype.name.upper(), kept, int(zeros.reshape(-1)[0]), axis)

    def _write(self, kept: list[NodeProto]) -> None:
        for node in kept:
            for index, name in enumerate(node.input):
                node.input[index] = self._sources.get(name, name)
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        graph = self._model.graph
        read = {name for node in nodes for name in node.input} | self._graph.read_inside | self._graph.outputs
        constants = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)


def _shown(node: NodeProto) -> str:
    """The node's name for messages; many exporters name none."""
    return node.name or node.output[0]


def _unstated_type(node: NodeProto) -> int:
    """The integers of a node without a zero point."""
    stated = attribute(node, "output_dtype", 0) if node.op_type == _QUANTIZE else 0
    return int(stated) or int(TensorProto.UINT8)


def _rounded(values: Array, grid: TensorGrid) -> Array:
    """Float constants to the integers of their grid."""
    steps = np.rint(values.astype(np.float64) / _along(np.asarray(grid.scales), grid.axis, values.ndim))
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(grid.datatype))
    return np.asarray((steps + grid.zero_point).clip(*_BOUNDS[grid.datatype]).astype(dtype))
