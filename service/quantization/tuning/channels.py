"""What inner tensors hold: the power of each channel, and the histogram of all values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from onnx import ModelProto

from service.quantization.measures.histogram import Histogram
from service.quantization.tuning.exposure import Exposure
from service.quantization.tuning.layer import Array, Floats, Layer

# Tensors exposed at once: what one block of rows holds of them is held in memory.
_MOST_EXPOSED = 8
# A tensor and the axis of its channels: 1 for a convolution's, the last (-1) for a matrix product's.
Place = tuple[str, int]
Batches = Callable[[], Iterable[dict[str, Array]]]


def channel_power(model: ModelProto, places: Iterable[Place], batches: Batches, threads: int) -> dict[Place, Floats]:
    """The mean square of each channel of each tensor, by the tensor and the axis that its channels are along."""
    axes: dict[str, list[int]] = {}
    for name, axis in dict.fromkeys(places):
        axes.setdefault(name, []).append(axis)
    sums: dict[Place, Floats] = {}
    counts: dict[Place, int] = {}
    for name, values in _exposed(model, list(axes), batches, threads):
        for axis in axes[name]:
            place, rows = (name, axis), _by_channel(values, axis)
            sums[place] = sums.get(place, np.zeros(len(rows))) + np.einsum("cv,cv->c", rows, rows, dtype=np.float64)
            counts[place] = counts.get(place, 0) + rows.shape[1]
    return {place: total / counts[place] for place, total in sums.items()}


def input_place(layer: Layer) -> Place:
    """Where the channels of a layer's input are."""
    return layer.operator.activation, 1 if layer.node.op_type == "Conv" else -1


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


def _by_channel(values: Array, axis: int) -> Array:
    """[channels, values of each]"""
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)
