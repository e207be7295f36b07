"""Writes out constants that a model keeps sparse, as ONNX Runtime does: ONNX's inference and the quantizer want that.

What is checked here is their size; that places lie inside is for ONNX's checker, which has to have seen the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from service.errors import InvalidModel
from service.quantization.graphs.graph_checks import graphs_of, nodes_of

# A file of some bytes may state an extent of any size, and checking takes four times as much.
MAX_DENSE_BYTES = 2**28


def has_sparse_constants(model: ModelProto) -> bool:
    return any(graph.sparse_initializer for graph in graphs_of(model)) or any(map(_sparse_value, nodes_of(model)))


def write_out_sparse_constants(model: ModelProto) -> bool:
    """In place, of every graph; tells whether there were any. Raises InvalidModel where together they take over
    MAX_DENSE_BYTES, or hold text.
    """
    if not has_sparse_constants(model):
        return False
    _check_sizes(model)
    for graph in graphs_of(model):
        graph.initializer.extend(_written_out(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in nodes_of(model):
        tensor = _sparse_value(node)
        if tensor is not None:
            dense = _written_out(tensor, "")
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", dense))
    return True


def _sparse_value(node: NodeProto) -> SparseTensorProto | None:
    named = (entry.sparse_tensor for entry in node.attribute if entry.name == "sparse_value")
    return next(named, None) if node.op_type == "Constant" else None


def _sparse_constants(model: ModelProto) -> Iterator[tuple[str, SparseTensorProto]]:
    for graph in graphs_of(model):
        yield from ((tensor.values.name, tensor) for tensor in graph.sparse_initializer)
    for node in nodes_of(model):
        tensor = _sparse_value(node)
        if tensor is not None:
            yield node.output[0], tensor


def _check_sizes(model: ModelProto) -> None:
    taken = 0
    for name, tensor in _sparse_constants(model):
        if tensor.values.data_type == TensorProto.STRING:
            raise InvalidModel(f"sparse constant {name!r:.120} holds STRING; store it as a plain constant")
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.values.data_type).itemsize
        size = math.prod(tensor.dims) * itemsize
        taken += size
        if taken > MAX_DENSE_BYTES:
            raise InvalidModel(
                f"sparse constant {name!r:.120} takes {size} bytes written out, with those before it more than "
                f"{MAX_DENSE_BYTES}; split the model"
            )


def _written_out(tensor: SparseTensorProto, name: str) -> TensorProto:
    values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return numpy_helper.from_array(dense, name)
