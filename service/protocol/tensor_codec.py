"""Tensors in the binary extension: views on the request's bytes in, views of the outputs' memory out, no copies.

Refuses sizes that do not fit datatype and shape, and BYTES elements that run past their end.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from service.domain.inference import Array
from service.errors import InvalidTensor
from service.protocol.heads import TensorHead

_LENGTH = struct.Struct("<I")
# Copying so few costs less than making a view of them.
_COPIED_BYTES = 4096


def array_from_binary(head: TensorHead, body: bytes | memoryview, start: int) -> Array:
    """The input whose `head.size` bytes begin at `start` of `body`. Raises InvalidTensor naming the input."""
    size = head.size
    assert size is not None
    if head.dtype.kind == "O":
        return _from_bytes_elements(head, memoryview(body)[start : start + size])
    if size != head.elements * head.dtype.itemsize:
        raise InvalidTensor(
            f"unexpected size for input {head.name!r}: {size} bytes, where {head.datatype} "
            f"{list(head.shape)} has {head.elements * head.dtype.itemsize}"
        )
    array = np.frombuffer(body, head.dtype, head.elements, start) if size else np.empty(0, head.dtype)
    if head.dtype.kind == "b" and size and array.view(np.uint8).max() > 1:
        raise InvalidTensor(f"input {head.name!r} is BOOL and holds a byte other than 0 and 1; send one of these")
    return array.reshape(head.shape)


def _from_bytes_elements(head: TensorHead, data: memoryview) -> Array:
    elements: list[bytes] = []
    at = 0
    # One more than there may be is enough to refuse them all.
    while at < len(data) and len(elements) <= head.elements:
        if at + 4 > len(data):
            raise _cut(head, len(elements))
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4 + length
        if at > len(data):
            raise _cut(head, len(elements))
        elements.append(bytes(data[at - length : at]))
    if len(elements) != head.elements:
        found = len(elements) if at == len(data) else f"over {head.elements}"
        raise InvalidTensor(
            f"input {head.name!r} has {found} elements; its shape {list(head.shape)} has {head.elements}"
        )
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(head.shape)


def _cut(head: TensorHead, index: int) -> InvalidTensor:
    return InvalidTensor(
        f"element {index} of input {head.name!r} runs past the tensor's end; "
        "send a 32-bit little-endian length before each element"
    )


def float_from_bf16(words: Array) -> Array:
    """The values of BF16 in its raw 16-bit words, FP32: its upper half."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def binary_from_array(array: Array) -> bytes | memoryview:
    """The array's bytes, little-endian and row-major: its own memory, unless it is BYTES or small."""
    if array.dtype.kind == "O":
        return b"".join(_element(value) for value in array.reshape(-1))
    if array.nbytes <= _COPIED_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _element(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode()
    return _LENGTH.pack(len(data)) + data
