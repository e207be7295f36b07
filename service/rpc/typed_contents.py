"""Tensors in InferTensorContents, an array of numbers for each kind. Refuses FP16 and BF16, which have none there."""

from __future__ import annotations

import numpy as np

from service.domain.inference import Array
from service.errors import InvalidTensor, Unsupported
from service.protocol.heads import TensorHead
from service.rpc.generated.inference_pb2 import InferTensorContents

# Values are taken one by one, while every other request waits: so many take a third of a second.
_MAX_VALUES = 2**23
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def array_from_contents(head: TensorHead) -> Array:
    """The input whose `data` is an InferTensorContents. Raises InvalidTensor naming the input."""
    contents: InferTensorContents = head.data
    field = _FIELDS.get(head.datatype)
    if field is None:
        raise InvalidTensor(
            f"receiving {head.datatype} data in contents is not supported. "
            f"Please use raw_input_contents for input {head.name!r}"
        )
    strangers = [found.name for found, _ in contents.ListFields() if found.name != field]
    if strangers:
        raise InvalidTensor(f"input {head.name!r} is {head.datatype} and has {strangers[0]}; send {field} alone")
    values = getattr(contents, field)
    if len(values) > _MAX_VALUES:
        raise InvalidTensor(
            f"input {head.name!r} has {len(values)} values in contents; send over {_MAX_VALUES} as raw_input_contents"
        )
    if len(values) != head.elements:
        raise InvalidTensor(
            f"input {head.name!r} has {len(values)} elements; its shape {list(head.shape)} has {head.elements}"
        )
    if head.dtype.kind == "O":
        array = np.empty(len(values), np.object_)
        array[:] = values
    elif field in ("int_contents", "uint_contents"):
        array = _narrowed(head, np.fromiter(values, np.int64, len(values)))
    else:
        array = np.fromiter(values, head.dtype, len(values))
    return array.reshape(head.shape)


def _narrowed(head: TensorHead, wide: Array) -> Array:
    narrow = wide.astype(head.dtype)
    wrong = np.flatnonzero(narrow != wide)
    if wrong.size:
        raise InvalidTensor(
            f"element {wrong[0]} of input {head.name!r} is {wide[wrong[0]]}, which {head.datatype} cannot hold"
        )
    return narrow


def contents_from_array(name: str, datatype: str, array: Array) -> InferTensorContents:
    """The values of output `name`, row-major. Raises Unsupported for a datatype that contents cannot hold."""
    field = _FIELDS.get(datatype)
    if field is None:
        raise Unsupported(f"output {name!r} is {datatype}, which contents cannot hold; leave 'binary_data' at true")
    values = array.reshape(-1).tolist()
    if datatype == "BYTES":
        values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    contents = InferTensorContents()
    getattr(contents, field).extend(values)
    return contents
