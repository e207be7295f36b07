"""What every peer serves: the same ONNX file in a session of the same settings. Runs in the peers' environments."""

from __future__ import annotations

import os
from typing import Any

import onnxruntime as ort

PORT = int(os.environ.get("BENCH_PORT", "0"))
MAX_BATCH = int(os.environ["BENCH_MAX_BATCH"])
ROW_SHAPE = tuple(int(extent) for extent in os.environ["BENCH_ROW_SHAPE"].split(","))


class BenchSession:
    """One session; `run` maps a batch of rows to the rows of its first output."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, rows: Any) -> Any:
        return self._session.run(None, {self._input: rows})[0]


def protocol_answer(row: Any) -> dict[str, Any]:
    """The Open Inference Protocol's answer for one row of output."""
    output = {"name": "logits", "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
    return {"model_name": "model", "outputs": [output]}
