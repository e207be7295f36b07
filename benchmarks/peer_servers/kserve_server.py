"""KServe's Python server: a custom model over its v2 protocol. It has no batching of its own."""

from __future__ import annotations

from typing import Any

from bench_session import PORT, BenchSession
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class BenchModel(Model):
    """Answers in the form that the request asks for, JSON or binary."""

    def __init__(self) -> None:
        super().__init__("model")
        self._session = BenchSession()
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        rows = self._session.run(payload.inputs[0].as_numpy())
        output = InferOutput("logits", list(rows.shape), "FP32")
        output.set_data_from_numpy(rows, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id or "", self.name, [output], use_binary_outputs=payload.use_binary_outputs)


if __name__ == "__main__":
    ModelServer(http_port=PORT, enable_grpc=False, access_log_format=None).start([BenchModel()])
