"""ONNX Runtime's own static quantizer in a process of its own: the reference for Octavo's first stages.

Run as `python -m benchmarks.quantize_static MODEL ROWS.npz METHOD COUNT THREADS OUTPUT`; prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_BATCH = 8
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """The first `count` rows of each array of a .npz, in batches."""

    def __init__(self, path: str, count: int) -> None:
        with np.load(path) as arrays:
            self._arrays = {name: arrays[name][:count] for name in arrays.files if name != "labels"}
        self._starts = iter(range(0, count, _BATCH))

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        start = next(self._starts, None)
        if start is None:
            return None
        return {name: array[start : start + _BATCH] for name, array in self._arrays.items()}


def main() -> None:
    """Prepares, calibrates and writes an INT8 QDQ model, and prints the most memory that it held."""
    model, rows, method, count, threads, output = sys.argv[1:]
    # The calibrator makes its own session, with as many threads as there are cores; held to the same number of cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            Rows(rows, int(count)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[method],
            extra_options={"ActivationSymmetric": True},
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak}))


if __name__ == "__main__":
    main()
