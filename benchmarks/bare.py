"""ONNX Runtime with nothing around it, in a process of its own: the reference that servers are compared with.

Run as `python -m benchmarks.bare MODEL THREADS`; takes one JSON command a line on stdin and answers one JSON line each.
Imports little more than numpy and onnxruntime, so that its resident memory is that of a bare session.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.bursts import best_burst


class BareSession:
    """One session and the commands that it knows, each a method taking and giving JSON values."""

    def __init__(self, path: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]

    def describe(self) -> dict[str, Any]:
        """The input's name and the shape of one row; the model must have one FP32 input with rows first."""
        if self._input.type != "tensor(float)" or len(self._session.get_inputs()) != 1:
            raise ValueError("the benchmarks work on models with one FP32 input")
        return {"input": self._input.name, "row_shape": self._input.shape[1:]}

    def answer(self, row: str) -> dict[str, Any]:
        """The first output for the row saved at the path `row`, as a flat list."""
        output = self._session.run(None, {self._input.name: np.load(row)[None]})[0]
        return {"values": np.asarray(output).ravel().tolist()}

    def measure(self, rows: int, seconds: float) -> dict[str, Any]:
        """Runs batches of `rows` rows one after another: rows/s and the median time of a batch in the best burst."""
        batch = self._batch(rows)
        return best_burst(lambda: self._session.run(None, batch), rows, seconds)

    def repeat(self, rows: int, runs: int) -> dict[str, Any]:
        """Runs `runs` batches of `rows` rows: the same inferences as a server was given."""
        batch = self._batch(rows)
        for _ in range(runs):
            self._session.run(None, batch)
        return {}

    def _batch(self, rows: int) -> dict[str, np.ndarray[Any, Any]]:
        shape = (rows, *self._input.shape[1:])
        return {self._input.name: np.random.default_rng(0).random(shape, dtype=np.float32)}


def main() -> None:
    """Serves commands until stdin ends."""
    session = BareSession(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(session, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
