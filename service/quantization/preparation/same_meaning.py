"""Whether a graph that was raised to a newer opset still computes what the upload computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization.data.rows import Feed

# Sums in another order differ by far less, a pixel beside the right one by far more.
_TOLERATED = 0.01
# What roundings leave of an output that is zero.
_NOTHING = 1e-6


def check_same_meaning(reference: Engine, prepared: Path, feed: Feed, threads: int) -> None:
    """Runs both on the first rows. Raises StageFailed naming the output that differs by over 1 % of its RMS."""
    batch = feed.take(0, feed.batch_rows(1))
    meant, found = reference.infer(batch), OnnxRuntimeEngine.load(prepared, threads).infer(batch)
    differing = [name for name, values in meant.items() if not _alike(values, found[name])]
    # What is drawn by chance differs from itself.
    again = reference.infer(batch) if differing else {}
    for name in differing:
        if _alike(meant[name], again[name]):
            raise StageFailed(
                f"output {name!r} is another one once the model is raised to the opset that INT8 needs; export it "
                "with opset 13 or newer, or ask for fp16"
            )


def _alike(meant: npt.NDArray[np.generic], found: npt.NDArray[np.generic]) -> bool:
    if meant.shape != found.shape:
        return False
    if meant.dtype.kind != "f":
        # Places and classes of nearly equal numbers may change.
        return True
    left, right = meant.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return False
    return bool(_rms(left[finite] - right[finite]) <= _TOLERATED * _rms(left[finite]) + _NOTHING)


def _rms(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
