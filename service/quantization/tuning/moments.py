"""Second moments of the inputs of weighted operators, streamed over rows with positions subsampled.

Memory holds the moments of as many operators at once as fit `_MOMENT_BYTES`, never the activations of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from onnx import ModelProto

from service.quantization.data.rows import Array
from service.quantization.tuning.exposure import Exposure
from service.quantization.tuning.layer import Floats, Layer
from service.quantization.tuning.patches import unrolled

# A longer sum would need moments of more than 170 MB.
MOST_COLUMNS = 4608
_MOMENT_BYTES = 192 * 1024 * 1024
_MOST_EXPOSED = 8
_POSITIONS = 64


def parts_of(layers: Iterable[Layer]) -> Iterator[list[Layer]]:
    """The layers in order, cut into parts whose moments fit in memory together."""
    part: list[Layer] = []
    held = 0
    for layer in layers:
        size = 8 * layer.groups * layer.columns**2
        if part and (held + size > _MOMENT_BYTES or len(part) == _MOST_EXPOSED):
            yield part
            part, held = [], 0
        part.append(layer)
        held += size
    if part:
        yield part


def second_moments(
    model: ModelProto, layers: Sequence[Layer], batches: Iterable[dict[str, Array]], threads: int
) -> dict[str, Floats]:
    """E[x x^T] of each layer's unrolled input x, by operator name: FP64 [groups, columns, columns]."""
    tensors = list(dict.fromkeys(layer.operator.activation for layer in layers))
    exposure = Exposure(model, tensors, threads)
    sums: dict[str, Floats] = {}
    counts = dict.fromkeys((layer.operator.name for layer in layers), 0)
    for batch in batches:
        values = exposure.run(batch)
        for layer in layers:
            name = layer.operator.name
            columns = unrolled(layer, values[layer.operator.activation], _POSITIONS)
            product = (columns.transpose(0, 2, 1) @ columns).astype(np.float64)
            sums[name] = product if name not in sums else sums[name] + product
            counts[name] += columns.shape[1]
    return {name: total / max(1, counts[name]) for name, total in sums.items()}
