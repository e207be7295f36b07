"""From a ModelInferRequest to the head and arrays that HTTP's requests become too, by the same checks.

Refuses what those refuse, and tensors that are both in raw_input_contents and in contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from service.domain.inference import Array, InferRequest
from service.errors import InvalidInput, InvalidTensor
from service.protocol.heads import MAX_DIMENSIONS, MAX_TENSORS, RequestHead, read_head, request_of
from service.protocol.metadata import version_number
from service.protocol.recording import Target
from service.protocol.tensor_codec import array_from_binary
from service.rpc.generated.inference_pb2 import InferParameter, ModelInferRequest
from service.rpc.typed_contents import array_from_contents
from service.rpc.wire import InferMessage

_CACHED_HEADS = 512
_CACHED_HEAD_BYTES = 2048
# Set by clients of streams. Every response here is its request's last one, and says so.
_EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"


class InferHead(NamedTuple):
    """Whom the request is for, and its head; `typed` is whether the answer's tensors go into contents."""

    target: Target
    head: RequestHead
    typed: bool


class HeadReader:
    """Reads heads, and remembers short ones: a client sends the same head with every tensor that it sends."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], InferHead] = {}

    def read(self, request: InferMessage) -> InferHead:
        """Raises InvalidInput, InvalidTensor, NotFound or Unsupported, naming the field and its value."""
        key = (request.head, *[size for _, size in request.raw])
        known = self._seen.get(key)
        if known is not None:
            return known
        message = _parsed(request.head)
        head = _infer_head(message, [size for _, size in request.raw])
        if request.raw and len(request.head) <= _CACHED_HEAD_BYTES:
            if len(self._seen) >= _CACHED_HEADS:
                self._seen.clear()
            self._seen[key] = head
        return head


def target_of(request: InferMessage) -> Target:
    """Whom a request is for whose head cannot be used, as far as it tells."""
    try:
        message = _parsed(request.head)
        return message.model_name, version_number(message.model_name, message.model_version or None)
    except Exception:  # noqa: BLE001 (the request was refused already, for whatever this is)
        return "", None


def decode_request(head: RequestHead, request: InferMessage) -> InferRequest:
    """Arrays view the message where they can. Raises InvalidTensor naming the input."""
    arrays: dict[str, Array] = {}
    places = iter(request.raw)
    for tensor in head.inputs:
        if tensor.size is None:
            arrays[tensor.name] = array_from_contents(tensor)
        else:
            arrays[tensor.name] = array_from_binary(tensor, request.message, next(places)[0])
    return request_of(head, arrays)


def _parsed(head: bytes) -> ModelInferRequest:
    try:
        return ModelInferRequest.FromString(head)
    except DecodeError as error:
        raise InvalidInput(f"the bytes are no ModelInferRequest: {error}; send it as the protocol has it") from error


def _infer_head(message: ModelInferRequest, sizes: list[int]) -> InferHead:
    target = message.model_name, version_number(message.model_name, message.model_version or None)
    parameters = _values(message.parameters, "the request")
    parameters.pop(_EMPTY_FINAL_RESPONSE, None)
    binary = parameters.setdefault("binary_data_output", True)
    outputs = [_output(output, binary) for output in message.outputs]
    head = read_head({"parameters": parameters, "inputs": _inputs(message, sizes), "outputs": outputs})
    return InferHead(target, head, _wants_typed(head))


def _inputs(message: ModelInferRequest, sizes: list[int]) -> list[dict[str, Any]]:
    inputs = []
    rest = iter(sizes)
    for tensor in message.inputs:
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise InvalidTensor(
                f"input {tensor.name[:80]!r} has {len(tensor.shape)} dimensions; send at most {MAX_DIMENSIONS}"
            )
        parameters = _values(tensor.parameters, f"input {tensor.name[:80]!r}")
        item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        item["parameters"] = parameters
        inputs.append(item)
        parameters.pop("binary_data_size", None)
        if "shared_memory_region" in parameters:
            continue
        if not sizes:
            item["data"] = tensor.contents
        elif tensor.HasField("contents"):
            raise InvalidTensor(
                "contents field must not be specified when using raw_input_contents "
                f"for {tensor.name!r} for model {message.model_name[:80]!r}"
            )
        else:
            parameters["binary_data_size"] = next(rest, None)
    wanted = sum("shared_memory_region" not in item["parameters"] for item in inputs)
    if sizes and wanted != len(sizes):
        raise InvalidTensor(
            f"expected number of raw input contents to be {wanted}, got {len(sizes)}, "
            f"for model {message.model_name[:80]!r}; send one for each input, in their order"
        )
    return inputs


def _output(output: ModelInferRequest.InferRequestedOutputTensor, binary: Any) -> dict[str, Any]:
    parameters = _values(output.parameters, f"output {output.name[:80]!r}")
    return {"name": output.name, "parameters": {"binary_data": binary} | parameters}


def _values(parameters: Mapping[str, InferParameter], owner: str) -> dict[str, Any]:
    if len(parameters) > MAX_TENSORS:
        raise InvalidInput(f"{owner} has {len(parameters)} parameters; send at most {MAX_TENSORS}")
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"parameter {name[:80]!r} of {owner} has no value; set one, or leave it out")
        values[name] = getattr(parameter, choice)
    return values


def _wants_typed(head: RequestHead) -> bool:
    """A response has its tensors in one form: its outputs and raw_output_contents go by the same order."""
    binary = {output.binary for output in head.outputs} if head.outputs is not None else {head.binary_default}
    if len(binary) > 1:
        raise InvalidInput("'binary_data' is true for some outputs and false for others; ask for all of them alike")
    return False in binary
