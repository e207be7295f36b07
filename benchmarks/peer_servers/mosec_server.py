"""Mosec: one worker a route, so that neither kind of request pays for telling them apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from bench_session import MAX_BATCH, ROW_SHAPE, BenchSession, protocol_answer
from mosec import Runtime, Server, Worker

_WAIT_MS = 1


class BinaryWorker(Worker):
    """The bytes of a tensor in, the bytes of its logits out."""

    def __init__(self) -> None:
        super().__init__()
        self._session = BenchSession()

    def deserialize(self, data: bytes) -> Any:
        return np.frombuffer(data, np.float32).reshape(ROW_SHAPE)

    def forward(self, data: list[Any]) -> list[Any]:
        return list(self._session.run(np.stack(data)))

    def serialize(self, data: Any) -> bytes:
        return bytes(data.tobytes())


class JsonWorker(BinaryWorker):
    """The Open Inference Protocol's JSON, without the line breaks of Mosec's own, which take a quarter of its speed."""

    def deserialize(self, data: bytes) -> Any:
        content = json.loads(data)
        return np.asarray(content["inputs"][0]["data"], np.float32).reshape(ROW_SHAPE)

    def serialize(self, data: Any) -> bytes:
        return json.dumps(protocol_answer(data)).encode()


class OctetWorker(BinaryWorker):
    """BinaryWorker, with the media type of what it answers."""

    resp_mime_type = "application/octet-stream"


if __name__ == "__main__":
    server = Server()
    server.register_runtime(
        {
            "/binary": [Runtime(OctetWorker, max_batch_size=MAX_BATCH, max_wait_time=_WAIT_MS)],
            "/json": [Runtime(JsonWorker, max_batch_size=MAX_BATCH, max_wait_time=_WAIT_MS)],
        }
    )
    server.run()
