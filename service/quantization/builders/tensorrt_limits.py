"""What TensorRT would take from a graph otherwise than it is written: refused before its parser sees it.

Its parser reads FP64 as FP32 and indices as INT32 without a word, and bounds shapes by a profile of batches alone.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from service.errors import InvalidModel
from service.quantization.graphs.graph import Graph
from service.quantization.lint.tensorrt import refusals

# Inputs that are extents or indices, by operator. A Slice's bounds are clamped to the axis, so theirs may be any.
_EXTENTS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "OneHot": (1,),
    "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (3,), "ScatterElements": (1,), "ScatterND": (1,),
    "Split": (1,), "Tile": (1,), "TopK": (1,),
}  # fmt: skip
_LIMITS = np.iinfo(np.int32)
_TAKEN = ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT32", "INT64", "BOOL")
_ELSE = "or build for runtime onnxruntime"


def check_limits(model: ModelProto) -> None:
    """Raises InvalidModel, naming the node or tensor, the value and the next step."""
    graph = Graph(model)
    for fed in model.graph.input:
        if fed.name not in graph.constants:
            _check_type("input", fed)
            _check_axes(fed)
    for made in model.graph.output:
        _check_type("output", made)
    for node in graph.nodes:
        _check_extents(node, graph)
    for reason in refusals(model):
        raise InvalidModel(f"TensorRT's parser refuses this graph: {reason}")


def _check_type(side: str, tensor: ValueInfoProto) -> None:
    kind = TensorProto.DataType.Name(tensor.type.tensor_type.elem_type)
    if kind not in _TAKEN:
        raise InvalidModel(
            f"{side} {tensor.name!r} is {kind}, which TensorRT does not take as it is; export the model with one of "
            f"{', '.join(_TAKEN)} there, {_ELSE}"
        )


def _check_axes(fed: ValueInfoProto) -> None:
    for axis, extent in enumerate(fed.type.tensor_type.shape.dim):
        if axis > 0 and not extent.HasField("dim_value"):
            name = f" ({extent.dim_param!r})" if extent.dim_param else ""
            raise InvalidModel(
                f"axis {axis}{name} of input {fed.name!r} is open, and TensorRT compiles for bounded shapes, of which "
                f"the recipe's batch gives the first axis alone; export the model with that axis fixed, {_ELSE}"
            )


def _check_extents(node: NodeProto, graph: Graph) -> None:
    for index in _EXTENTS.get(node.op_type, ()):
        name = node.input[index] if index < len(node.input) else ""
        value = graph.constant(name) if graph.type_name(name) == "INT64" else None
        if value is None or not value.size or (value.min() >= _LIMITS.min and value.max() <= _LIMITS.max):
            continue
        furthest = int(value.max()) if value.max() > _LIMITS.max else int(value.min())
        raise InvalidModel(
            f"node {node.name!r} ({node.op_type}) reads {furthest} from INT64 tensor {name!r}, which overflows the "
            f"INT32 of TensorRT's extents and indices; export the model with values up to {_LIMITS.max}, {_ELSE}"
        )
