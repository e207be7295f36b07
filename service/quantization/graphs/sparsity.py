"""2:4 sparsity: of every four weights that one sum multiplies in a row, at most two are not zero.

Tensor cores since compute capability 8.0 skip the zeros. A convolution's four lie along its input channels, a product's
along the axis that it sums over. Refuses a model in which nothing can be pruned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from service.errors import InvalidRecipe
from service.quantization.graphs.graph import Graph, attribute

_GROUP, _KEPT = 4, 2
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
Array = npt.NDArray[Any]


def prune(model: ModelProto) -> None:
    """Zeroes, in place, the two smallest of every four weights of each operator that sparse kernels could run.

    Raises InvalidRecipe where there is none.
    """
    graph = Graph(model)
    pruned = 0
    for node in graph.nodes:
        axis = _summed_axis(node, graph)
        # A weight of several operators, or of a branch too, may be summed over in several ways.
        if axis is None or node.input[1] not in graph.constants or not graph.owned(node.input[1]):
            continue
        tensor = graph.constants[node.input[1]]
        if graph.type_name(tensor.name) not in _FLOATS:
            continue
        tensor.CopyFrom(numpy_helper.from_array(_pruned(numpy_helper.to_array(tensor), axis), tensor.name))
        pruned += 1
    if not pruned:
        raise InvalidRecipe(
            f"sparsity is '2:4', but the model has no Conv, Gemm or MatMul with constant weights that sums a "
            f"multiple of {_GROUP} products; leave sparsity out"
        )


def sparse_operators(model: ModelProto) -> list[str]:
    """The names of operators whose weights are 2:4 sparse, be they floating-point constants or INT8 behind a pair."""
    graph = Graph(model)
    return [node.name for node in graph.nodes if _is_sparse(node, graph)]


def _is_sparse(node: NodeProto, graph: Graph) -> bool:
    axis = _summed_axis(node, graph)
    if axis is None:
        return False
    weight = _weight(node, graph)
    assert weight is not None
    return bool((np.count_nonzero(_in_fours(weight, axis), axis=-1) <= _KEPT).all())


def _summed_axis(node: NodeProto, graph: Graph) -> int | None:
    """The weight's axis that the operator sums over in fours; None where it has none, or no constant weight."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or attribute(node, "group", 1) != 1:
        return None
    weight = _weight(node, graph)
    if weight is None or (node.op_type != "Conv" and weight.ndim != 2):
        return None
    axis = 1 if node.op_type == "Conv" or attribute(node, "transB", 0) else 0
    return axis if weight.shape[axis] % _GROUP == 0 and weight.size else None


def _weight(node: NodeProto, graph: Graph) -> Array | None:
    name = node.input[1]
    maker = graph.producer.get(name)
    if maker is not None and maker.op_type in ("DequantizeLinear", "Cast"):
        name = maker.input[0]
    return graph.constant(name)


def _in_fours(weight: Array, axis: int) -> Array:
    last = np.moveaxis(weight, axis, -1)
    return last.reshape(*last.shape[:-1], -1, _GROUP)


def _pruned(weight: Array, axis: int) -> Array:
    fours = _in_fours(weight, axis)
    order = np.argsort(np.abs(fours.astype(np.float64)), axis=-1, kind="stable")
    kept = np.ones(fours.shape, bool)
    np.put_along_axis(kept, order[..., : _GROUP - _KEPT], False, axis=-1)
    moved = np.moveaxis(weight, axis, -1)
    left = np.where(kept, fours, np.zeros((), weight.dtype)).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(left, -1, axis))
