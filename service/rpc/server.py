"""The gRPC server beside the HTTP server, on the same event loop. Without TLS: a proxy in front of both ends that."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from service.processes.ports import grpc_refused
from service.rpc.health import Health
from service.rpc.inference import Inference
from service.rpc.methods import method_handlers
from service.rpc.queries import Queries
from service.rpc.stream import Streams

SERVICE = "inference.GRPCInferenceService"
# Of one connection, at once; its client lets further ones wait.
_MAX_CALLS = 1024
# A caller whose calls are under way is asked whether it is still there; a network that fails closes no connection.
_PING_SECONDS, _PONG_SECONDS = 60.0, 20.0
# A round trip to a caller, twice in a stop.
_HOLD_SECONDS = 0.05
# What gRPC's own option can hold.
_MAX_MESSAGE_BYTES = 2**31 - 1


class GrpcServer:
    """Made on the event loop that it serves on; `bind`, `start` and `stop` are called once each, in this order."""

    def __init__(self, inference: Inference, queries: Queries, max_message_bytes: int, shared: bool = False) -> None:
        """`shared`: the port is reserved for several processes, of which this is one."""
        self._shared = shared
        self._inference = inference
        self._streams = Streams(inference)
        options = [
            # Another server on the same port would take half of the calls unnoticed; this one's siblings are to.
            ("grpc.so_reuseport", int(shared)),
            ("grpc.keepalive_time_ms", int(_PING_SECONDS * 1000)),
            # 0 is no bound: two pings would be all that an idle stream ever gets.
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.ping_timeout_ms", int(_PONG_SECONDS * 1000)),
            ("grpc.max_concurrent_streams", _MAX_CALLS),
            ("grpc.max_receive_message_length", min(max_message_bytes, _MAX_MESSAGE_BYTES)),
        ]
        self._server = grpc.aio.server(options=options)
        handlers = method_handlers(inference, self._streams, queries)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._health = Health([SERVICE], queries.is_ready)
        add_HealthServicer_to_server(self._health, self._server)

    def bind(self, host: str, port: int) -> int:
        """Takes the address, and gives its port. Raises InvalidInput where it cannot be listened on."""
        try:
            if not self._shared:
                _check_free(host, port)
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except (OSError, RuntimeError) as error:
            raise grpc_refused(host, port, error) from error
        return bound

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, drain_seconds: float) -> None:
        """Refuses new calls, and waits up to `drain_seconds` for those in flight; then they are cancelled.

        gRPC answers what comes as it stops by CANCELLED, as if its caller had, who does not send it elsewhere then.
        """
        self._streams.stop()
        self._health.stop()
        async with self._inference.holding():
            # What is on its way comes in, and nobody who waits for an answer sends more.
            await asyncio.sleep(_HOLD_SECONDS)
            stopping = asyncio.create_task(self._server.stop(drain_seconds))
            # Callers are told of the end before they are answered.
            await asyncio.sleep(_HOLD_SECONDS)
        await stopping


def _check_free(host: str, port: int) -> None:
    """Raises OSError where the address is taken: gRPC would not say why."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
