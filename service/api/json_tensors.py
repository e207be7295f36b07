"""Tensors in JSON: numbers straight into a numpy buffer, strings by the list. Refuses what a datatype cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import orjson
import simdjson

from service.api.tensor_space import TensorSpace, is_shared
from service.domain.inference import Array
from service.errors import InvalidInput, InvalidTensor
from service.protocol.heads import MAX_TENSORS, TensorHead, shown
from service.protocol.tensor_codec import float_from_bf16

# How simdjson hands numbers out: doubles, and 64-bit integers of either sign.
_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], np.dtype[Any]]] = {
    "f": ("d", np.dtype(np.float64)),
    "i": ("i", np.dtype(np.int64)),
    "u": ("u", np.dtype(np.uint64)),
}
# What is read from a list; of any other datatype simdjson's own array is read.
_LISTED = ("BOOL", "BYTES")
_MAX_DEPTH = 100
# simdjson counts an array's elements in 24 bits, and what makes a list of a longer one writes beyond its end. No
# body below this length, of digits and commas, has such an array.
_COUNTED_BYTES = 2 * (2**24 - 1)
# Of a longer body: what may stand in it beside the numbers of tensors.
_MAX_VALUES = 2**20
# A member is found by looking at those before it.
_MAX_MEMBERS = 1024


def parse_json(body: bytes | memoryview) -> Any:
    """JSON whose tensors' `data` stay simdjson arrays, unread; plain lists where the text holds NaN, Infinity or NUL.

    Raises InvalidInput with the parser's reason, for an object of too many members, and for a long body of much else.
    """
    try:
        document = simdjson.Parser().parse(body)
        return _opened(document, _walked if len(body) >= _COUNTED_BYTES else _plain)
    except KeyError:
        # simdjson looks a name up as C does, only as far as its first NUL, and does not find what it listed.
        return _parse_plainly(bytes(body))
    except UnicodeDecodeError as error:
        raise InvalidInput("the JSON is not UTF-8; send UTF-8") from error
    except (ValueError, RuntimeError, TypeError) as error:
        text = bytes(body)
        if b"NaN" in text or b"Infinity" in text:
            return _parse_plainly(text)
        raise InvalidInput(f"the body is not JSON: {error}; send an object as JSON") from error


def _parse_plainly(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}; send an object as JSON") from error


def _opened(document: Any, plain: Callable[[Any], Any]) -> Any:
    """Python values, as `plain` makes them, but for the inputs' `data`."""
    if not isinstance(document, simdjson.Object):
        return plain(document)
    value = _members(document)
    inputs = value.get("inputs")
    for key, item in value.items():
        if key != "inputs":
            value[key] = plain(item)
    if isinstance(inputs, simdjson.Array) and len(inputs) <= MAX_TENSORS:
        value["inputs"] = [_opened_input(item, plain) for item in inputs]
    else:
        value["inputs"] = plain(inputs)
    return value


def _opened_input(item: Any, plain: Callable[[Any], Any]) -> Any:
    if not isinstance(item, simdjson.Object):
        return plain(item)
    opened = _members(item)
    for key, value in opened.items():
        # An object is no data, and is refused by what it holds.
        if key != "data" or isinstance(value, simdjson.Object):
            opened[key] = plain(value)
    if opened.get("datatype") in _LISTED and "data" in opened:
        opened["data"] = plain(opened["data"])
    return opened


def _members(value: Any) -> dict[str, Any]:
    if len(value) > _MAX_MEMBERS:
        raise InvalidInput(f"an object of the request has {len(value)} members; send at most {_MAX_MEMBERS}")
    return {key: value[key] for key in value}


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _walked(value: Any) -> Any:
    """As `_plain`, one by one. Raises InvalidInput for too many values, or too deep ones."""
    left = [_MAX_VALUES]

    def walk(item: Any, depth: int) -> Any:
        if not isinstance(item, simdjson.Array | simdjson.Object):
            return item
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"the request is nested over {_MAX_DEPTH} deep; send it flat")
        left[0] -= len(item)
        if left[0] < 0:
            raise InvalidInput(
                f"a request of {_COUNTED_BYTES} bytes of JSON or more may hold {_MAX_VALUES} values beside the numbers "
                "of its tensors; send tensors as binary data"
            )
        if isinstance(item, simdjson.Array):
            return [walk(element, depth + 1) for element in item]
        return {key: walk(member, depth + 1) for key, member in _members(item).items()}

    return walk(value, 1)


def array_from_json(head: TensorHead, space: TensorSpace | None = None) -> Array:
    """The input's `data`, nested or flat, as an array of its shape, in `space`. Raises InvalidTensor naming it."""
    if head.datatype in ("FP16", "BF16"):
        raise InvalidTensor(
            f"receiving {head.datatype} data via JSON is not supported. "
            f"Please use the binary data format for input {head.name!r}"
        )
    values = _numbers(head, head.data, space) if head.dtype.kind in _BUFFERS else _plain_values(head)
    _check_count(head, values.size)
    return values.reshape(head.shape)


def array_from_numbers(head: TensorHead, text: bytes, space: TensorSpace | None = None) -> Array:
    """As `array_from_json`, of numbers that are all of `text`. Also raises ValueError or RuntimeError for no JSON."""
    values = _numbers(head, simdjson.Parser().parse(text), space)
    _check_count(head, values.size)
    return values.reshape(head.shape)


def _check_count(head: TensorHead, count: int) -> None:
    if count != head.elements:
        raise InvalidTensor(
            f"input {head.name!r} has {count} elements; its shape {list(head.shape)} has {head.elements}"
        )


def _numbers(head: TensorHead, data: Any, space: TensorSpace | None) -> Array:
    code, wide = _BUFFERS[head.dtype.kind]
    if not isinstance(data, simdjson.Array):
        return _numbers_from_list(head, wide)
    try:
        values = np.frombuffer(data.as_buffer(of_type=code), wide)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidTensor(f"input {head.name!r} holds a value that {head.datatype} cannot: {error}") from error
    return _narrowed(head, values, space)


def _numbers_from_list(head: TensorHead, wide: np.dtype[Any]) -> Array:
    """For text with NaN or Infinity, which only the standard library's parser reads."""
    if not isinstance(head.data, list):
        raise _not_a_list(head)
    flat = _leaves(head, head.data)
    _check_types(head, flat, {int, float} if wide.kind == "f" else {int}, "numbers")
    try:
        return _narrowed(head, np.array(flat, wide))
    except OverflowError as error:
        raise InvalidTensor(f"input {head.name!r} holds a number out of the range of {head.datatype}") from error


def _narrowed(head: TensorHead, values: Array, space: TensorSpace | None = None) -> Array:
    """64-bit values as the tensor's own type; never wraps around."""
    if values.dtype == head.dtype:
        return values
    try:
        with np.errstate(over="raise"):
            narrow = _empty(head, values.size, space)
            np.copyto(narrow, values, casting="unsafe")
        kept = head.dtype.kind == "f" or bool((narrow == values).all())
    except FloatingPointError:
        kept = False
    if not kept:
        raise InvalidTensor(f"input {head.name!r} holds a number out of the range of {head.datatype}; send it wider")
    return narrow


def _empty(head: TensorHead, count: int, space: TensorSpace | None) -> Array:
    size = count * head.dtype.itemsize
    if space is None or not is_shared(size):
        return np.empty(count, head.dtype)
    return np.frombuffer(space.take(size), head.dtype)


def _plain_values(head: TensorHead) -> Array:
    """BOOL and BYTES."""
    kind: type = bool if head.dtype.kind == "b" else str
    data = head.data
    if not isinstance(data, list):
        raise _not_a_list(head)
    leaves = _leaves(head, data)
    _check_types(head, leaves, {kind}, "true and false" if kind is bool else "strings")
    # Before the strings are taken one by one.
    _check_count(head, len(leaves))
    if kind is bool:
        return np.array(leaves, np.bool_)
    values = np.empty(len(leaves), np.object_)
    try:
        values[:] = [value.encode() for value in leaves]
    except UnicodeEncodeError as error:
        raise InvalidTensor(
            f"input {head.name!r} holds {error.object!r:.80}, half a surrogate pair; send whole characters"
        ) from error
    return values


def _check_types(head: TensorHead, leaves: list[Any], allowed: set[type], wanted: str) -> None:
    strange = set(map(type, leaves)) - allowed
    if strange:
        value = next(value for value in leaves if type(value) in strange)
        raise InvalidTensor(f"input {head.name!r} holds {value!r:.80}, which {head.datatype} cannot; send {wanted}")


def _leaves(head: TensorHead, data: list[Any], depth: int = 1) -> list[Any]:
    if depth > _MAX_DEPTH:
        raise InvalidTensor(f"the data of input {head.name!r} is nested over {_MAX_DEPTH} deep; send it flat")
    if list not in set(map(type, data)):
        return data
    flat: list[Any] = []
    for item in data:
        flat.extend(_leaves(head, item, depth + 1) if isinstance(item, list) else [item])
    return flat


def _not_a_list(head: TensorHead) -> InvalidTensor:
    return InvalidTensor(f"the data of input {head.name!r} is {shown(head.data)}; send a list")


def json_values(array: Array, datatype: str) -> Any:
    """An output as `dump_json` writes it: flat, row-major, BYTES as text, BF16 as numbers."""
    if array.dtype.kind == "O":
        return [_text(value) for value in array.reshape(-1)]
    if datatype == "BF16":
        array = float_from_bf16(array)
    return np.ascontiguousarray(array).reshape(-1)


def json_text(array: Array, datatype: str) -> bytes:
    """An output's values as JSON. NaN and infinities are written out, as clients of the protocol read them."""
    values = json_values(array, datatype)
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return _with_every_number(text, values) if b"null" in text else text


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def dump_json(response: dict[str, Any]) -> bytes:
    """A response as JSON, arrays as lists. NaN and infinities are written out, as clients of the protocol read them."""
    try:
        text = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        # An id with half a surrogate pair: UTF-8 has no bytes for it, an escape has.
        return dump_json(response | {"id": orjson.Fragment(json.dumps(response["id"]))})
    if b"null" not in text:
        return text
    # A null is how orjson writes what JSON has no number for; or it is part of a name.
    outputs = [output | _fragment(output.get("data")) for output in response["outputs"]]
    return orjson.dumps(response | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)


def _fragment(data: Any) -> dict[str, Any]:
    if not isinstance(data, np.ndarray):
        return {}
    return {"data": orjson.Fragment(_with_every_number(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), data))}


def _with_every_number(text: bytes, data: Any) -> bytes:
    """orjson's text of `data`, the nulls replaced that stand where JSON has no number for a value."""
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        return text
    words = [json.dumps(value).encode() for value in data[~np.isfinite(data)].tolist()]
    return b"".join(word for pair in zip(text.split(b"null"), [*words, b""], strict=True) for word in pair)
