"""Every method of the service by name. All take and give bytes: what is no message is refused as any other error is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from service.errors import InvalidInput, Unsupported
from service.metrics import GRPC_REQUESTS
from service.rpc.generated import inference_pb2 as messages
from service.rpc.inference import Context, Inference
from service.rpc.queries import Queries
from service.rpc.status import refusal_of
from service.rpc.stream import Streams

SHARED_MEMORY = tuple(
    f"{kind}SharedMemory{action}" for kind in ("System", "Cuda") for action in ("Status", "Register", "Unregister")
)
Query = Callable[[Any], Awaitable[Message]]


def method_handlers(
    inference: Inference, streams: Streams, queries: Queries
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    table: dict[str, tuple[type[Message], Query]] = {
        "ServerLive": (messages.ServerLiveRequest, queries.server_live),
        "ServerReady": (messages.ServerReadyRequest, queries.server_ready),
        "ModelReady": (messages.ModelReadyRequest, queries.model_ready),
        "ServerMetadata": (messages.ServerMetadataRequest, queries.server_metadata),
        "ModelMetadata": (messages.ModelMetadataRequest, queries.model_metadata),
        "ModelConfig": (messages.ModelConfigRequest, queries.model_config),
        "ModelStatistics": (messages.ModelStatisticsRequest, queries.model_statistics),
        "RepositoryIndex": (messages.RepositoryIndexRequest, queries.repository_index),
        "RepositoryModelLoad": (messages.RepositoryModelLoadRequest, queries.load),
        "RepositoryModelUnload": (messages.RepositoryModelUnloadRequest, queries.unload),
        "TraceSetting": (messages.TraceSettingRequest, queries.trace_setting),
        "LogSettings": (messages.LogSettingsRequest, queries.log_settings),
    }
    # Their requests are not looked at, so any message stands for them.
    table |= dict.fromkeys(SHARED_MEMORY, (messages.ServerLiveRequest, _refuse_shared_memory))
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        method: grpc.unary_unary_rpc_method_handler(_counted(method, kind, query))
        for method, (kind, query) in table.items()
    }
    handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(inference.infer)
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(streams.infer)
    return handlers


async def _refuse_shared_memory(_: Message) -> Message:
    raise Unsupported("shared memory is not offered: it opens the host to callers; send tensors in requests")


def _counted(method: str, kind: type[Message], query: Query) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(request: bytes, context: Context) -> bytes:
        try:
            response = (await query(_parsed(kind, request))).SerializeToString()
            GRPC_REQUESTS.labels(method, StatusCode.OK.name).inc()
            return response
        except Exception as error:  # noqa: BLE001 (answered, and logged where it is no refusal of ours)
            refusal = refusal_of(error, method)
        GRPC_REQUESTS.labels(method, refusal.status.name).inc()
        # The context keeps the error that ends the call, and with it this frame.
        del request
        await context.abort(refusal.status, refusal.message, refusal.metadata)

    return answer


def _parsed(kind: type[Message], request: bytes) -> Message:
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise InvalidInput(f"the bytes are no {kind.__name__}: {error}; send it as the protocol has it") from error
