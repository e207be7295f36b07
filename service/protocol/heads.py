"""The JSON head of an inference request, checked by hand: the hot path cannot pay for a general validator.

Refuses unknown shapes of every field by name; knows nothing of any model.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from service.domain.inference import Array, InferRequest
from service.domain.tensor import NUMPY_TYPES
from service.errors import InvalidInput, InvalidTensor, Unsupported

MAX_DIMENSIONS = 32
MAX_TENSORS = 1024
# Names of tensors are told in errors, whole.
_MAX_NAME = 1000
# Strings are taken one by one, while every other request waits: so many take a tenth of a second.
MAX_STRINGS = 2**18
_MAX_EXTENT = 2**40
# With a 0 among them the extents hold no element, and no limit on bytes bounds the others: numpy's own does.
_MAX_SPAN = 2**59
# The protocol's microseconds, priorities and counts are 64 bits.
_MAX_UNSIGNED = 2**64
_SOURCES = ("data", "binary_data_size", "shared_memory_region")
NO_DATA = object()
_SHOWN_CHARACTERS, _SHOWN_VALUES = 100, 40


class TensorHead(NamedTuple):
    """One input as its sender describes it. `size` is its bytes in the binary part, None where `data` holds it."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    elements: int
    size: int | None
    data: Any


class OutputHead(NamedTuple):
    """One output that the sender asks for, whether as binary, and as its so many best classes (0: as it is)."""

    name: str
    binary: bool
    classes: int = 0


@dataclass(slots=True, eq=False)
class RequestHead:
    """The whole head. `outputs` None asks for all of them, as binary where `binary_default` says so.

    What is needed of it for each request is worked out once: datatypes by input, names of the outputs, whether all of
    them go out as binary, or all as plain JSON where requests may share the head, and notes of who admitted a request
    of this head and what its answers have in common.
    """

    id: str | None
    variant: str | None
    timeout_seconds: float | None
    binary_default: bool
    inputs: tuple[TensorHead, ...]
    outputs: tuple[OutputHead, ...] | None
    priority: int = 0
    datatypes: dict[str, str] = field(init=False)
    output_names: tuple[str, ...] | None = field(init=False)
    only_binary: bool = field(init=False)
    only_json: bool = field(init=False)
    admitted: dict[Hashable, tuple[int, object]] = field(init=False, default_factory=dict)
    envelopes: dict[Hashable, tuple[bytes, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.datatypes = {tensor.name: tensor.datatype for tensor in self.inputs}
        if self.outputs is None:
            self.output_names, self.only_binary = None, self.binary_default
            plain = not self.binary_default
        else:
            self.output_names = tuple([output.name for output in self.outputs])
            self.only_binary = all(output.binary and not output.classes for output in self.outputs)
            plain = not any(output.binary or output.classes for output in self.outputs)
        # A head with an id, or with the values themselves, is of one request.
        self.only_json = plain and self.id is None and self.inputs[0].data is NO_DATA


def request_of(head: RequestHead, arrays: Mapping[str, Array]) -> InferRequest:
    """What the router is asked: the arrays by input, and what the head says of them."""
    timeout, priority = head.timeout_seconds, head.priority
    return InferRequest(arrays, head.datatypes, head.output_names, head.variant, timeout, head.admitted, priority)


def read_head(value: Any) -> RequestHead:
    """A head from decoded JSON. Raises InvalidInput, InvalidTensor or Unsupported, naming the field and its value."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"the request is {shown(value)}; send a JSON object with 'inputs'")
    parameters = _parameters(value, "the request")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or not 0 < len(inputs) <= MAX_TENSORS:
        raise InvalidInput(f"'inputs' is {shown(inputs)}; send a list of 1 to {MAX_TENSORS} tensors")
    heads = tuple([_tensor(item) for item in inputs])
    if len({head.name for head in heads}) < len(heads):
        raise InvalidInput("'inputs' names a tensor twice; send each input once")
    strings = sum([head.elements for head in heads if head.datatype == "BYTES"])
    if strings > MAX_STRINGS:
        raise InvalidTensor(f"the request has {strings} BYTES elements; send at most {MAX_STRINGS} in one request")
    identity = value.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidInput(f"'id' is {shown(identity)}; send a string, or none")
    variant, timeout, binary, priority = _options(parameters) if parameters else (None, None, False, 0)
    outputs = _outputs(value.get("outputs"))
    return RequestHead(identity or None, variant, timeout, binary, heads, outputs, priority)


def _tensor(item: Any) -> TensorHead:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"an input is {shown(item)}; send an object with name, shape, datatype and data")
    name = item.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        raise InvalidInput(f"an input's 'name' is {shown(name)}; send a string of 1 to {_MAX_NAME} characters")
    datatype = item.get("datatype")
    dtype = NUMPY_TYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None or not isinstance(datatype, str):
        known = ", ".join(NUMPY_TYPES)
        raise InvalidTensor(f"the datatype of input {name!r} is {shown(datatype)}; send one of {known}")
    shape = _shape(name, item.get("shape"))
    parameters = _parameters(item, f"input {name!r}")
    size = parameters.get("binary_data_size")
    data = item.get("data", NO_DATA)
    given = (data is not NO_DATA) + (size is not None) + ("shared_memory_region" in parameters)
    if given != 1:
        raise InvalidTensor(f"input {name!r} has {given} of {', '.join(_SOURCES)}; send exactly one")
    if "shared_memory_region" in parameters:
        raise Unsupported(f"input {name!r} is in shared memory, which is not offered; send it in the request's body")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidTensor(f"'binary_data_size' of input {name!r} is {shown(size)}; send its count of bytes")
    return TensorHead(name, datatype, dtype, shape, math.prod(shape), size, data)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise InvalidTensor(f"the shape of input {name!r} is {shown(value)}; send at most {MAX_DIMENSIONS} integers")
    for extent in value:
        if type(extent) is not int or not 0 <= extent <= _MAX_EXTENT:
            raise InvalidTensor(f"the shape of input {name!r} holds {shown(extent)}; send integers from 0")
    if 0 in value and math.prod(extent or 1 for extent in value) > _MAX_SPAN:
        raise InvalidTensor(f"the shape of input {name!r} is {shown(value)}, too wide for any tensor; send it smaller")
    return tuple(value)


def _outputs(value: Any) -> tuple[OutputHead, ...] | None:
    if not value and (value is None or value == []):
        return None
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise InvalidInput(f"'outputs' is {shown(value)}; send a list of at most {MAX_TENSORS} outputs, or none")
    heads = tuple([_output(item) for item in value])
    if len({head.name for head in heads}) < len(heads):
        raise InvalidInput("'outputs' names a tensor twice; ask for each output once")
    return heads


def _output(item: Any) -> OutputHead:
    name = item.get("name") if isinstance(item, Mapping) else None
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        raise InvalidInput(f"an output is {shown(item)}; send an object with a name of 1 to {_MAX_NAME} characters")
    parameters = _parameters(item, f"output {name!r}")
    if "shared_memory_region" in parameters:
        raise Unsupported(f"output {name!r} asks for shared memory, which is not offered; have it sent in the answer")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or not 0 <= classes < _MAX_UNSIGNED:
        raise InvalidInput(f"'classification' of output {name!r} is {shown(classes)}; send how many classes, from 1")
    return OutputHead(name, _flag(parameters, "binary_data"), classes)


def _options(parameters: Mapping[str, Any]) -> tuple[str | None, float | None, bool, int]:
    """Variant, timeout in seconds, whether unlisted outputs are binary, and priority. The unknown passes unread."""
    for key in parameters:
        if key.startswith("triton_"):
            raise InvalidInput(f"parameter {key[:80]!r} is reserved; choose a name that does not begin with 'triton_'")
    for key in ("sequence_id", "sequence_start", "sequence_end"):
        if parameters.get(key):
            raise Unsupported(f"{key!r} asks for a stateful model, and models here are stateless; leave it out")
    priority = parameters.get("priority", 0)
    if type(priority) is not int or not 0 <= priority < _MAX_UNSIGNED:
        raise InvalidInput(f"parameter 'priority' is {shown(priority)}; send an integer from 0, which is the default")
    variant = parameters.get("variant")
    if variant is not None and not isinstance(variant, str):
        raise InvalidInput(f"parameter 'variant' is {shown(variant)}; send a string")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or not 0 <= timeout < _MAX_UNSIGNED):
        raise InvalidInput(f"parameter 'timeout' is {shown(timeout)}; send a count of microseconds")
    return variant, timeout / 1e6 if timeout else None, _flag(parameters, "binary_data_output"), priority


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r} is {shown(value)}; send true or false")
    return value


def _parameters(item: Mapping[str, Any], owner: str) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise InvalidInput(f"'parameters' of {owner} is {shown(parameters)}; send an object")
    return parameters


class _Repr(reprlib.Repr):
    """Looks at no more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxdict = _SHOWN_VALUES
        self.maxstring = self.maxlong = self.maxother = _SHOWN_CHARACTERS

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        # The library's sorts them all first.
        return super().repr_dict(dict(islice(value.items(), _SHOWN_VALUES)), level)


_repr = _Repr()


def shown(value: Any) -> str:
    """A value as an error tells it: its beginning."""
    text = _repr.repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
