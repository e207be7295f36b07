"""ONNX Runtime's own static quantizer in a process of its own: the reference for Octavo's.

Run as `python -m benchmarks.quantize_static MODEL ROWS.npz OUTPUT`; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.calibration_reader import Reader
from benchmarks.process import peak_bytes

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def main() -> None:
    """Prepares, calibrates and writes an INT8 QDQ model, and prints the most memory that it held."""
    arguments = _parser().parse_args()
    # The calibrator makes its own session, with as many threads as there are cores; held to the same number of cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    symmetric = arguments.scheme == "s8s8"
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(arguments.model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            arguments.output,
            Reader(arguments.rows, arguments.count),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=arguments.reduce_range,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[arguments.method],
            extra_options={"ActivationSymmetric": symmetric},
        )
    print(json.dumps({"peak_bytes": peak_bytes(os.getpid())}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "rows", "output"):
        parser.add_argument(name)
    parser.add_argument("--method", choices=sorted(METHODS), default="minmax")
    parser.add_argument("--count", type=int, required=True, help="calibration rows")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--scheme", choices=("u8s8", "s8s8"), default="u8s8", help="types of activations and weights")
    parser.add_argument("--reduce-range", action="store_true", help="weights of 7 bits")
    return parser


if __name__ == "__main__":
    main()
