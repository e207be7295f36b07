"""Infer requests as ASGI has them, where no answer can be given any more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from service.api.inference import InferenceEndpoint
from service.domain.limits import InferLimits
from service.protocol.trace_file import TraceFile
from service.protocol.tracing import Tracer
from service.router.router import Router


def test_a_request_that_outlasts_the_drain_is_told_that_the_server_stops(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def main() -> None:
        reading = asyncio.Event()

        async def receive() -> Any:
            reading.set()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        router = Router(InferLimits(), lambda _: pytest.fail("nothing is loaded here"))
        endpoint = InferenceEndpoint(router, 1024, Tracer(TraceFile(tmp_path / "traces.json")))
        scope = {"type": "http", "method": "POST", "path": "/v2/models/digits/infer", "headers": []}
        request = asyncio.create_task(endpoint(scope, receive, send))
        await reading.wait()
        # As uvicorn does at the end of the drain.
        request.cancel()
        await asyncio.wait([request], timeout=10)
        await router.close(0)

    asyncio.run(main())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["code"] == "stopping"
