"""A stream that opens while the server stops, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import InternalError

from service.domain.limits import InferLimits
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.router.router import Router
from service.rpc.inference import Inference
from service.rpc.stream import Streams


class Aborted(Exception):
    """What the library raises where a call is aborted."""


class FakeContext:
    """A call whose caller sends nothing and never leaves."""

    def __init__(self) -> None:
        self.status: StatusCode | None = None

    async def abort(self, status: StatusCode, message: str) -> None:
        self.status = status
        raise Aborted(message)


async def silence() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_stream_that_waits_for_requests_ends_when_the_server_stops(tmp_path: Path, opened: str) -> None:
    async def main() -> None:
        router = Router(InferLimits(), lambda _: pytest.fail("nothing is loaded here"))
        streams = Streams(Inference(router, Tracer(TraceFile(tmp_path / "traces.json"))))
        context: Any = FakeContext()
        if opened == "after":
            streams.stop()
        call = asyncio.create_task(streams.infer(silence(), context))
        await asyncio.sleep(0)
        if opened == "before":
            streams.stop()
        with pytest.raises(Aborted, match="Server is stopping"):
            await asyncio.wait_for(call, 10)
        assert context.status is StatusCode.UNAVAILABLE
        await router.close(0)

    asyncio.run(main())


def test_a_caller_that_leaves_while_it_is_written_to_ends_its_stream_and_nothing_fails(tmp_path: Path) -> None:
    class Leaving(FakeContext):
        def time_remaining(self) -> float | None:
            return None

        async def write(self, message: bytes) -> None:
            raise InternalError("the library's words")

    async def one() -> AsyncIterator[bytes]:
        yield b"no message"
        await asyncio.Event().wait()

    async def main() -> None:
        router = Router(InferLimits(), lambda _: pytest.fail("nothing is loaded here"))
        streams = Streams(Inference(router, Tracer(TraceFile(tmp_path / "traces.json"))))
        context: Any = Leaving()
        call = asyncio.create_task(streams.infer(one(), context))
        await asyncio.wait([call], timeout=10)
        assert call.cancelled()
        await router.close(0)

    asyncio.run(main())
