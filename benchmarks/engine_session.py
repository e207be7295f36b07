"""One engine of any runtime in a process of its own, which is asked for its outputs, its speed and its memory.

Run as `python -m benchmarks.engine_session RUNTIME FILE THREADS`; takes one JSON command a line on stdin and answers
one JSON line each. RUNTIME is onnxruntime or openvino, bare, or octavo-RUNTIME for Octavo's engine of it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bursts import best_burst
from benchmarks.process import resident_bytes

Batch = dict[str, NDArray[Any]]
Run = Callable[[Batch], NDArray[Any]]
_BATCH = 8
# What OpenVINO appends to the name of an operator that it splits into several.
_ORIGIN = re.compile(r"(/WithoutBiases|/DequantizationMultiply)+$")


def _load_onnxruntime(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run(None, batch)[0])


def _load_openvino(path: str, threads: int) -> Run:
    request = _compile_openvino(path, threads).create_infer_request()
    return lambda batch: np.array(next(iter(request.infer(batch).values())))


def _compile_openvino(path: str, threads: int) -> Any:
    # The package does without its model converter, whose import alone sends usage data away.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Without it, FP32 layers run in BF16 where the CPU can.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(path, "CPU", settings)


def _load_octavo(runtime: str, path: str, threads: int) -> Run:
    from service.quantization.builders.builder import builder_for

    engine = builder_for(runtime).load(Path(path), threads)
    return lambda batch: next(iter(engine.infer(batch).values()))


class EngineSession:
    """The commands, each a method taking and giving JSON values."""

    def __init__(self, runtime: str, path: str, threads: int) -> None:
        self._runtime, self._path, self._threads = runtime, path, threads
        self._rows: Batch = {}
        self._run: Run = lambda batch: np.empty(0)

    def load(self, rows: str) -> dict[str, Any]:
        """Loads the engine and runs it once on the first of the rows saved at `rows`: by how much the process grew.

        The rows and the runtime's library are read before, so that they do not count.
        """
        with np.load(rows) as arrays:
            self._rows = {name: arrays[name] for name in arrays.files if name != "labels"}
        __import__(self._runtime.removeprefix("octavo-"))
        before = resident_bytes(os.getpid())
        self._run = self._loaded()
        self._run(self._batch(0, _BATCH))
        return {"resident_bytes": max(0, resident_bytes(os.getpid()) - before)}

    def _loaded(self) -> Run:
        if self._runtime.startswith("octavo-"):
            return _load_octavo(self._runtime.removeprefix("octavo-"), self._path, self._threads)
        load = {"onnxruntime": _load_onnxruntime, "openvino": _load_openvino}[self._runtime]
        return load(self._path, self._threads)

    def outputs(self, target: str) -> dict[str, Any]:
        """Saves the first output for all rows, in order, to the path `target`."""
        count = len(next(iter(self._rows.values())))
        np.save(target, np.concatenate([self._run(self._batch(start, _BATCH)) for start in range(0, count, _BATCH)]))
        return {"rows": count}

    def int8_names(self) -> dict[str, Any]:
        """Which of the graph's operators OpenVINO runs in INT8, by the names that it remembers of them."""
        names: set[str] = set()
        for layer in _compile_openvino(self._path, self._threads).get_runtime_model().get_ordered_ops():
            told = {key: layer.rt_info[key].astype(str) for key in ("runtimePrecision", "originalLayersNames")}
            if told["runtimePrecision"] in ("i8", "u8"):
                names.update(_ORIGIN.sub("", name) for name in told["originalLayersNames"].split(","))
        return {"names": sorted(names)}

    def measure(self, rows: int, seconds: float) -> dict[str, float]:
        """Rows/s and the median time of a batch of `rows` rows in the best burst."""
        batch = self._batch(0, rows)
        return best_burst(lambda: self._run(batch), rows, seconds)

    def _batch(self, start: int, count: int) -> Batch:
        return {name: rows[start : start + count] for name, rows in self._rows.items()}


def main() -> None:
    """Serves commands until stdin ends."""
    session = EngineSession(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(session, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
