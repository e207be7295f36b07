"""From an answer to the bytes of an infer response: JSON, and behind it the outputs that were asked for as binary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from service.api.json_tensors import dump_json, json_values
from service.domain.inference import InferResult
from service.protocol.classification import class_strings
from service.protocol.heads import RequestHead
from service.protocol.tensor_codec import binary_from_array
from service.router.route import Route

# From here on outputs are written from their own memory; joining shorter ones costs less than a second write.
_JOINED_BYTES = 64 * 1024


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
    if head.outputs is None:
        wanted: Iterable[tuple[str, bool, int]] = [(name, head.binary_default, 0) for name in result.outputs]
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
    envelope = {
        "model_name": route.model,
        "model_version": str(result.version),
        "parameters": {
            "variant": result.variant,
            "route": result.route,
            "queue_us": result.queue_us,
            "compute_us": result.compute_us,
        },
        "outputs": outputs,
    }
    if head.id is not None:
        envelope["id"] = head.id
    return _framed(dump_json(envelope), blobs)


def _framed(text: bytes, blobs: list[bytes | memoryview]) -> EncodedResponse:
    if not blobs:
        return EncodedResponse([text], len(text), None)
    binary_bytes = sum([len(blob) for blob in blobs])
    length = len(text) + binary_bytes
    header_length = len(text) if binary_bytes else None
    if length <= _JOINED_BYTES:
        return EncodedResponse([b"".join((text, *blobs))], length, header_length)
    return EncodedResponse([text, *blobs], length, header_length)
