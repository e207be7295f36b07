"""OpenVINO's quantizer NNCF, in a process and a virtual environment of its own.

Run as `PYTHON -m benchmarks.nncf_quantize MODEL ROWS.npz COUNT OUTPUT.xml`, with nncf, openvino and numpy alone.
"""

from __future__ import annotations

import sys

import nncf  # type: ignore[import-not-found]
import numpy as np
import openvino


def main() -> None:
    """Quantizes with the preset that NNCF recommends for CPUs, symmetric weights and asymmetric activations."""
    model, rows, count, output = sys.argv[1:]
    with np.load(rows) as arrays:
        batches = [
            {name: arrays[name][row : row + 1] for name in arrays.files if name != "labels"}
            for row in range(int(count))
        ]
    quantized = nncf.quantize(
        openvino.Core().read_model(model),
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=int(count),
    )
    openvino.save_model(quantized, output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
