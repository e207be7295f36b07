"""LitServe: one worker process, its batching on."""

from __future__ import annotations

from typing import Any

import litserve
import numpy as np
from bench_session import MAX_BATCH, PORT, ROW_SHAPE, BenchSession, protocol_answer


class BenchApi(litserve.LitAPI):
    """The Open Inference Protocol's JSON over LitServe's route."""

    def setup(self, device: str) -> None:
        self._session = BenchSession()

    # LitServe reads the body as JSON itself only when the argument has no annotation.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return np.asarray(request["inputs"][0]["data"], np.float32).reshape(ROW_SHAPE)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return protocol_answer(output)


if __name__ == "__main__":
    api = BenchApi(max_batch_size=MAX_BATCH, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False)
