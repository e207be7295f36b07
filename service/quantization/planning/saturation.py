"""How large weight integers may be where a CPU adds pairs of UINT8 x INT8 products in 16 bits: x86 without VNNI.

The kernels of ONNX Runtime add neighbours along the reduction axis, input channels innermost, and clip each pair's sum
to 16 bits (vpmaddubsw). Only channels with a pair that can leave 16 bits get smaller integers, and none smaller than
needed. Depthwise convolutions multiply in 32 bits and need none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from service.domain.plan import TensorGrid
from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.placement import Placement

WEIGHT_LIMIT = 127
_LARGEST_SUM = 2**15 - 1
_LARGEST_ACTIVATION = 255
_DOT_PRODUCT_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimd"})

Floats = npt.NDArray[np.float64]


def saturates(cpu_flags: tuple[str, ...]) -> bool:
    """Whether 8-bit products overflow their 16-bit sum on this CPU: x86 without VNNI."""
    return not _DOT_PRODUCT_FLAGS & set(cpu_flags)


@dataclass(frozen=True, slots=True)
class Products:
    """What is multiplied: the placement's weights with activations on these grids, of these calibrated ranges."""

    graph: Graph
    placement: Placement
    grids: Mapping[str, TensorGrid]
    ranges: Mapping[str, tuple[float, float]]


def weight_limits(products: Products, cpu_flags: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The largest weight integer of each output channel, for operators with a channel that needs less than 127.

    Empty on a CPU that adds products in 32 bits.
    """
    if not saturates(cpu_flags):
        return {}
    nodes = {node.name: node for node in products.graph.nodes}
    limits: dict[str, tuple[int, ...]] = {}
    for operator in products.placement.weighted:
        weight = products.graph.constant(operator.weight)
        assert weight is not None
        root = products.placement.grids[operator.activation]
        pair = largest_pair(products.grids[root], products.ranges[root])
        node = nodes[operator.name]
        pairs = [kernel_pairs(weight, node, padded) for padded in (False, True)]
        found = _channel_limits(np.concatenate(pairs, axis=1), pair)
        if (found < WEIGHT_LIMIT).any():
            limits[operator.name] = tuple(int(limit) for limit in found)
    return limits


def largest_pair(grid: TensorGrid, extent: tuple[float, float]) -> int:
    """The largest sum of two weight integers of one sign whose products with this activation stay within 16 bits."""
    if grid.datatype != "UINT8":
        return _LARGEST_SUM // _LARGEST_ACTIVATION
    highest = grid.zero_point + int(np.ceil(max(0.0, extent[1]) / grid.scales[0] - 1e-3))
    return _LARGEST_SUM // max(1, min(highest, _LARGEST_ACTIVATION))


def kernel_pairs(weight: npt.NDArray[np.generic], node: NodeProto, padded: bool = False) -> npt.NDArray[np.generic]:
    """The weight as [output channel, pair, 2] in the kernel's order; no pair at all for a depthwise convolution.

    ONNX Runtime's pairs run on from one kernel position to the next. OpenVINO's convolutions are `padded`: an odd
    last channel of a position has no neighbour.
    """
    if node.op_type == "Conv":
        if attribute(node, "group", 1) == len(weight) and weight.shape[1] == 1:
            return np.zeros((len(weight), 0, 2), weight.dtype)
        moved = np.moveaxis(weight, 1, -1)
        if padded:
            moved = np.pad(moved, (*[(0, 0)] * (moved.ndim - 1), (0, moved.shape[-1] % 2)))
        rows = moved.reshape(len(weight), -1)
    else:
        rows = weight if attribute(node, "transB", 0) else weight.T
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return even.reshape(len(rows), -1, 2)


def _channel_limits(pairs: npt.NDArray[np.generic], largest: int) -> npt.NDArray[np.int64]:
    """Rounding adds half an integer to each of the two: the real sum has to stay one below `largest`."""
    values = pairs.astype(np.float64)
    sums = np.maximum(values.clip(0, None).sum(axis=2), (-values).clip(0, None).sum(axis=2)).max(axis=1, initial=0.0)
    tops = np.abs(values).max(axis=(1, 2), initial=0.0)
    held = np.divide(tops * (largest - 1), sums, out=np.full(len(tops), np.inf), where=sums > 0)
    # Two equal integers need no such allowance: half of `largest` is always safe.
    limits: npt.NDArray[np.int64] = np.floor(held.clip(largest // 2, None).clip(None, WEIGHT_LIMIT)).astype(np.int64)
    return limits


def held_pairs(integers: npt.NDArray[np.int8], node: NodeProto, largest: int) -> npt.NDArray[np.int8]:
    """Weight integers whose pairs of one sign all stay within `largest`: the larger of an offending pair gives way.

    For weights that were rounded by another rule than to the nearest.
    """
    # Integers only shrink, so what the second order holds leaves the first one held.
    return _held(_held(integers, node, (largest, False)), node, (largest, True))


def _held(integers: npt.NDArray[np.int8], node: NodeProto, form: tuple[int, bool]) -> npt.NDArray[np.int8]:
    """For one order of the pairs: `form` is (largest, padded)."""
    largest, padded = form
    pairs = kernel_pairs(integers, node, padded).astype(np.int64)
    if not pairs.shape[1]:
        return integers
    sizes = np.abs(pairs)
    smaller = np.minimum(sizes.min(axis=2), largest // 2)
    larger = np.minimum(sizes.max(axis=2), largest - smaller)
    first_is_larger = sizes[..., 0] >= sizes[..., 1]
    kept = np.stack([np.where(first_is_larger, larger, smaller), np.where(first_is_larger, smaller, larger)], axis=2)
    same_sign = (pairs[..., 0] * pairs[..., 1] > 0)[..., None]
    return _from_pairs(np.where(same_sign, np.sign(pairs) * kept, pairs), integers, node).astype(np.int8)


def _from_pairs(pairs: npt.NDArray[np.int64], like: npt.NDArray[np.int8], node: NodeProto) -> npt.NDArray[np.int64]:
    rows = pairs.reshape(len(pairs), -1)
    if node.op_type == "Conv":
        moved = np.moveaxis(like, 1, -1)
        positions = moved[0].size // moved.shape[-1]
        by_position = rows[:, : rows.shape[1] // positions * positions].reshape(*moved.shape[:-1], -1)
        return np.moveaxis(by_position[..., : moved.shape[-1]], -1, 1)
    return rows[:, : like.shape[1]] if attribute(node, "transB", 0) else rows[:, : like.shape[0]].T
