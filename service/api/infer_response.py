"""From an answer to the bytes of an infer response: JSON, and behind it the outputs that were asked for as binary."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from service.api.json_tensors import dump_json, json_text, json_values
from service.domain.inference import Array, InferResult
from service.protocol.classification import class_strings
from service.protocol.heads import OutputHead, RequestHead
from service.protocol.tensor_codec import binary_from_array
from service.router.route import Route

# From here on outputs are written from their own memory; joining shorter ones costs less than a second write.
_JOINED_BYTES = 64 * 1024
# Beginnings of answers that one head is noted for: one for each route, and shape of outputs where that varies.
_NOTED_ENVELOPES = 8
# Where a value goes: JSON writes this byte in no other way than escaped.
_HOLE = b"\0"


class EncodedResponse(NamedTuple):
    """Body parts in order, their bytes in all, and the length of the JSON part where binary follows."""

    parts: list[bytes | memoryview]
    length: int
    header_length: int | None


def encode_response(
    route: Route, datatypes: Mapping[str, str], head: RequestHead, result: InferResult
) -> EncodedResponse:
    """Outputs in the order asked for, or the model's own; `datatypes` by output. Raises InvalidTensor.

    `route` is the one that answered: it knows the names of the classes.
    """
    if head.only_binary:
        return _framed(*_of_binary(route, datatypes, head, result))
    if head.only_json:
        return _framed(_of_json(route, datatypes, head, result), [])
    if head.outputs is None:
        wanted: Iterable[OutputHead] = [OutputHead(name, False) for name in result.outputs]
    else:
        wanted = head.outputs
    blobs: list[bytes | memoryview] = []
    outputs: list[dict[str, Any]] = []
    for name, binary, classes in wanted:
        array, datatype = result.outputs[name], datatypes[name]
        if classes:
            array = class_strings(array, datatype, classes, route.labels, route.batched)
            datatype = "BYTES"
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary:
            blob = binary_from_array(array)
            blobs.append(blob)
            output["parameters"] = {"binary_data_size": len(blob)}
        else:
            output["data"] = json_values(array, datatype)
        outputs.append(output)
    times = {"queue_us": result.queue_us, "compute_us": result.compute_us}
    response = _origin(route)
    response["parameters"] |= times
    return _framed(dump_json(response | _answered(head, outputs)), blobs)


def _of_binary(
    route: Route, datatypes: Mapping[str, str], head: RequestHead, result: InferResult
) -> tuple[bytes, list[bytes | memoryview]]:
    """The JSON part and the blobs where all is binary: mostly only the times differ from one answer to the next."""
    arrays = _wanted(head, result)
    blobs = [binary_from_array(array) for array in arrays.values()]
    known = (route, *[array.shape for array in arrays.values()], *map(len, blobs))
    envelope = head.envelopes.get(known)
    if envelope is None:
        fields: list[dict[str, Any]] = [{"parameters": {"binary_data_size": len(blob)}} for blob in blobs]
        envelope = _noted(head, known, _envelope(route, datatypes, head, arrays, fields))
    return b'%b,"queue_us":%d,"compute_us":%d%b' % (envelope[0], result.queue_us, result.compute_us, envelope[1]), blobs


def _of_json(route: Route, datatypes: Mapping[str, str], head: RequestHead, result: InferResult) -> bytes:
    """The response where all is JSON: times and values within a text that is known."""
    arrays = _wanted(head, result)
    known = (route, *[array.shape for array in arrays.values()])
    envelope = head.envelopes.get(known)
    if envelope is None:
        fields: list[dict[str, Any]] = [{"data": orjson.Fragment(_HOLE)}] * len(arrays)
        envelope = _noted(head, known, _envelope(route, datatypes, head, arrays, fields))
    parts = [b'%b,"queue_us":%d,"compute_us":%d%b' % (envelope[0], result.queue_us, result.compute_us, envelope[1])]
    for (name, array), behind in zip(arrays.items(), envelope[2:], strict=True):
        parts += json_text(array, datatypes[name]), behind
    return b"".join(parts)


def _wanted(head: RequestHead, result: InferResult) -> dict[str, Array]:
    names = head.output_names
    return result.outputs if names is None else {name: result.outputs[name] for name in names}


def _envelope(
    route: Route,
    datatypes: Mapping[str, str],
    head: RequestHead,
    arrays: Mapping[str, Array],
    fields: list[dict[str, Any]],
) -> tuple[bytes, ...]:
    """The text before the times and the one behind, with `fields` of each output; the latter in parts, at its holes."""
    outputs = [
        {"name": name, "datatype": datatypes[name], "shape": array.shape} | more
        for (name, array), more in zip(arrays.items(), fields, strict=True)
    ]
    before = dump_json(_origin(route) | {"outputs": []}).removesuffix(b'},"outputs":[]}')
    behind = b"}," + dump_json(_answered(head, outputs))[1:]
    return before, *behind.split(_HOLE)


def _noted(head: RequestHead, known: Hashable, envelope: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if len(head.envelopes) >= _NOTED_ENVELOPES:
        head.envelopes.clear()
    head.envelopes[known] = envelope
    return envelope


def _origin(route: Route) -> dict[str, Any]:
    parameters = {"variant": route.variant, "route": route.name}
    return {"model_name": route.model, "model_version": str(route.version), "parameters": parameters}


def _answered(head: RequestHead, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"outputs": outputs} if head.id is None else {"outputs": outputs, "id": head.id}


def _framed(text: bytes, blobs: list[bytes | memoryview]) -> EncodedResponse:
    if not blobs:
        return EncodedResponse([text], len(text), None)
    head = len(text)
    length = head + sum(map(len, blobs))
    header_length = head if length > head else None
    if length <= _JOINED_BYTES:
        return EncodedResponse([b"".join((text, *blobs))], length, header_length)
    return EncodedResponse([text, *blobs], length, header_length)
