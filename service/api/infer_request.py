"""From the bytes of an infer request to its head and arrays: JSON, JSON with binary tensors, or one raw tensor.

Refuses bytes too few or too many, and a head that is no valid JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import orjson

from service.api.json_tensors import array_from_json, parse_json
from service.api.tensor_space import TensorSpace
from service.domain.inference import Array, InferRequest
from service.domain.tensor import TensorSpec
from service.errors import InvalidInput, InvalidTensor
from service.protocol.heads import NO_DATA, RequestHead, TensorHead, read_head, request_of
from service.protocol.tensor_codec import array_from_binary

_CACHED_HEADS = 512
_CACHED_HEAD_BYTES = 2048


class HeadReader:
    """Reads heads, and remembers short ones without data: a client sends the same head with every batch it sends."""

    def __init__(self) -> None:
        self._seen: dict[bytes, RequestHead] = {}

    def read(self, text: bytes) -> RequestHead:
        """A head beside binary tensors. Raises InvalidInput, InvalidTensor or Unsupported."""
        head = self._seen.get(text)
        if head is not None:
            return head
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = parse_json(text)
        head = read_head(value)
        if len(text) <= _CACHED_HEAD_BYTES and all(tensor.data is NO_DATA for tensor in head.inputs):
            if len(self._seen) >= _CACHED_HEADS:
                self._seen.clear()
            self._seen[text] = head
        return head


def decode_request(
    head: RequestHead, body: bytes | memoryview, start: int, model: str, space: TensorSpace | None = None
) -> InferRequest:
    """The request whose binary tensors begin at `start` of `body`. Arrays view the body where they can.

    JSON's numbers are put into `space`.

    Raises InvalidTensor naming the input, also for missing and surplus bytes.
    """
    arrays: dict[str, Array] = {}
    at = start
    for tensor in head.inputs:
        if tensor.size is None:
            arrays[tensor.name] = array_from_json(tensor, space)
        else:
            if at + tensor.size > len(body):
                raise InvalidTensor(
                    f"unexpected size for input {tensor.name!r}, expecting {at + tensor.size - len(body)} "
                    f"additional bytes for model {model!r}"
                )
            arrays[tensor.name] = array_from_binary(tensor, body, at)
            at += tensor.size
    if at != len(body):
        raise InvalidTensor(f"unexpected additional input data for model {model!r}: {len(body) - at} bytes too many")
    return request_of(head, arrays)


def decode_raw(head: RequestHead, body: bytes | memoryview, model: str) -> InferRequest:
    """The request of a raw body under its `raw_head`. A BYTES body is one element, without a length before it."""
    (tensor,) = head.inputs
    if tensor.datatype != "BYTES":
        return decode_request(head, body, 0, model)
    element = np.empty(tensor.shape, np.object_)
    element[...] = bytes(body)
    return InferRequest({tensor.name: element}, head.datatypes)


def header_length(value: bytes | None, body_bytes: int) -> int | None:
    """The length of the JSON part; None where all the body is JSON. Raises InvalidInput for a wrong one."""
    if value is None:
        return None
    length = int(value) if value.isdigit() and len(value) < 20 else -1
    if not 0 <= length <= body_bytes:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {value[:40].decode('latin-1')!r}; "
            f"send the bytes of the JSON part, 0 to {body_bytes}"
        )
    return length


def raw_head(specs: Sequence[TensorSpec], body_bytes: int, model: str, batched: bool) -> RequestHead:
    """The head of a request that is nothing but one input's bytes: one row where the model is `batched`, and one axis
    found from the size.
    """
    if len(specs) != 1:
        raise InvalidTensor(f"model {model!r} has {len(specs)} inputs; a raw request fits models with exactly 1 input")
    spec = specs[0]
    shape = [1, *spec.shape[1:]] if batched and spec.batched else list(spec.shape)
    unknown = [axis for axis, extent in enumerate(shape) if extent == -1]
    if spec.datatype == "BYTES":
        shape = [1] * len(shape)
    elif len(unknown) == 1:
        known = math.prod(extent for extent in shape if extent != -1) * spec.dtype.itemsize
        shape[unknown[0]] = body_bytes // known if known else 0
    elif unknown:
        raise InvalidTensor(f"input {spec.name!r} of model {model!r} has {len(unknown)} open axes; send a JSON head")
    count = math.prod(shape)
    tensor = TensorHead(spec.name, spec.datatype, spec.dtype, tuple(shape), count, body_bytes, NO_DATA)
    return RequestHead(None, None, None, True, (tensor,), None)
