"""ONNX Runtime's calibrator alone, in a process of its own: seconds to find the ranges, and the most memory held.

Run as `python -m benchmarks.static_calibrator MODEL ROWS.npz METHOD COUNT THREADS`; prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.calibration_reader import Reader
from benchmarks.process import peak_bytes
from benchmarks.quantize_static import METHODS


def main() -> None:
    """Calibrates the tensors that the quantizer would; reading the model and the rows is not counted."""
    model, rows, method, count, threads = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    with tempfile.TemporaryDirectory() as folder:
        prepared, augmented = (Path(folder) / name for name in ("prepared.onnx", "augmented.onnx"))
        quant_pre_process(model, str(prepared), skip_symbolic_shape=True)
        reader = Reader(rows, int(count))
        calibrator = create_calibrator(prepared, sorted(QDQRegistry), str(augmented), METHODS[method])
        started = time.perf_counter()
        calibrator.collect_data(reader)
        calibrator.compute_data()
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(os.getpid())}))


if __name__ == "__main__":
    main()
