"""Unrolls a batch of an operator's inputs into rows of columns (im2col), keeping a bounded sample of the positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from service.quantization.graphs.graph import attribute
from service.quantization.tuning.layer import Array, Layer


def unrolled(layer: Layer, batch: Array, positions: int) -> Array:
    """FP32 [groups, samples, columns] from one batch of the operator's input.

    At most about `positions` output positions of each row are kept, evenly spread, the same for equal shapes.
    """
    if layer.node.op_type != "Conv":
        flat = batch.reshape(-1, batch.shape[-1]) if layer.node.op_type == "MatMul" else batch.reshape(len(batch), -1)
        step = max(1, len(flat) // max(1, positions * len(batch)))
        return flat[None, ::step].astype(np.float32)
    windows = _windows(layer, batch)
    rank = batch.ndim - 2
    counts = windows.shape[2 : 2 + rank]
    kept = _spread(counts, positions)
    places: tuple[Any, ...] = (slice(None), slice(None), *np.ix_(*kept))
    windows = windows[places]
    rows, channels = windows.shape[:2]
    windows = windows.reshape(rows, layer.groups, channels // layer.groups, math.prod(map(len, kept)), -1)
    grouped = windows.transpose(1, 0, 3, 2, 4)
    columns: Array = grouped.reshape(layer.groups, rows * grouped.shape[2], layer.columns).astype(np.float32)
    return columns


def _windows(layer: Layer, batch: Array) -> Array:
    """A view of [rows, channels, *output positions, *kernel]."""
    rank = batch.ndim - 2
    kernel = layer.shape[2:]
    strides = attribute(layer.node, "strides", [1] * rank)
    dilations = attribute(layer.node, "dilations", [1] * rank)
    reach = [(extent - 1) * dilation + 1 for extent, dilation in zip(kernel, dilations, strict=True)]
    padded = np.pad(batch, [(0, 0), (0, 0), *_pads(layer, batch.shape[2:], reach, strides)])
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    stepped = [slice(None, None, stride) for stride in strides]
    inside = [slice(None, None, dilation) for dilation in dilations]
    view: Array = windows[(slice(None), slice(None), *stepped, *inside)]
    return view


def _pads(layer: Layer, extents: tuple[int, ...], reach: list[int], strides: list[int]) -> list[tuple[int, int]]:
    rank = len(extents)
    mode = attribute(layer.node, "auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", "VALID"):
        pads = attribute(layer.node, "pads", [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))
    sides = []
    for extent, window, stride in zip(extents, reach, strides, strict=True):
        total = max(0, (math.ceil(extent / stride) - 1) * stride + window - extent)
        low = total // 2 if mode == "SAME_UPPER" else total - total // 2
        sides.append((low, total - low))
    return sides


def _spread(counts: tuple[int, ...], positions: int) -> list[Array]:
    """Indexes along each axis whose product is at most about `positions`."""
    share = min(1.0, (positions / max(1, math.prod(counts))) ** (1 / max(1, len(counts))))
    return [
        np.unique(np.linspace(0, count - 1, max(1, round(count * share))).round().astype(np.int64)) for count in counts
    ]
