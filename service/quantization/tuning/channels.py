"""What inner tensors hold: the power of each channel, and the histogram of all values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from onnx import ModelProto

from service.quantization.histogram import Histogram
from service.quantization.tuning.exposure import Exposure
from service.quantization.tuning.layer import Array, Floats, Layer

# Tensors exposed at once: what one block of rows holds of them is held in memory.
_MOST_EXPOSED = 8
Batches = Callable[[], Iterable[dict[str, Array]]]


def channel_power(model: ModelProto, tensors: Sequence[str], batches: Batches, threads: int) -> dict[str, Floats]:
    """The mean square of each channel: axis 1 of what has positions, else the last axis."""
    sums: dict[str, Floats] = {}
    counts: dict[str, int] = {}
    for name, values in _exposed(model, tensors, batches, threads):
        rows = _by_channel(values)
        sums[name] = sums.get(name, np.zeros(len(rows))) + np.einsum("cv,cv->c", rows, rows, dtype=np.float64)
        counts[name] = counts.get(name, 0) + rows.shape[1]
    return {name: total / counts[name] for name, total in sums.items()}


def column_power(layer: Layer, power: Floats) -> Floats:
    """The mean square of each column's input, [groups, columns], from that of the input's channels."""
    per_channel = power.reshape(layer.groups, -1)
    return np.repeat(per_channel, layer.columns // per_channel.shape[1], axis=1)


def histograms(model: ModelProto, tensors: Sequence[str], batches: Batches, threads: int) -> dict[str, Histogram]:
    seen = {name: Histogram() for name in tensors}
    for name, values in _exposed(model, tensors, batches, threads):
        seen[name].add(values)
    return seen


def _exposed(model: ModelProto, tensors: Sequence[str], batches: Batches, threads: int) -> Iterator[tuple[str, Array]]:
    for start in range(0, len(tensors), _MOST_EXPOSED):
        exposure = Exposure(model, tensors[start : start + _MOST_EXPOSED], threads)
        for batch in batches():
            yield from exposure.run(batch).items()


def _by_channel(values: Array) -> Array:
    """[channels, values of each]. Sequences of vectors, of rank 3, have their channels last."""
    axis = 1 if values.ndim >= 4 else values.ndim - 1
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)
