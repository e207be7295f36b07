"""Calibration rows as ONNX Runtime's quantizer takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

_BATCH = 8


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The first `count` rows of each array of a .npz but its labels, in batches."""

    def __init__(self, path: str, count: int) -> None:
        with np.load(path) as arrays:
            self._arrays = {name: arrays[name][:count] for name in arrays.files if name != "labels"}
        self._starts = iter(range(0, count, _BATCH))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        start = next(self._starts, None)
        if start is None:
            return None
        return {name: array[start : start + _BATCH] for name, array in self._arrays.items()}
