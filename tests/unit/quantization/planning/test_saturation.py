"""Weights get smaller integers only where a pair of products could leave 16 bits, and then no pair ever does."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from service.domain.plan import TensorGrid
from service.quantization.emitters.qdq import quantized
from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.planning.planner import activation_grid, weight_grids
from service.quantization.planning.saturation import (
    Products,
    held_pairs,
    kernel_pairs,
    largest_pair,
    saturates,
    weight_limits,
)
from tests.unit.quantization.small_models import Array, fp32, model_of, value

AVX2 = ("avx2",)
FULL = {"x": (0.0, 1.0)}


def products_of(node: NodeProto, weight: Array, extent: tuple[float, float] = (0.0, 1.0)) -> Products:
    shape = ("n", 4, 6, 6) if node.op_type == "Conv" else ("n", "k")
    graph = Graph(model_of([node], [value("x", shape)], [value("y", None)], {"w": weight}))
    grid = activation_grid("x", extent, extent[0] < 0, float("inf"))
    return Products(graph, place(graph, ()), {"x": grid}, {"x": extent})


def conv(**more: Any) -> NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], "op", **more)


def matmul(**more: Any) -> NodeProto:
    kind = "Gemm" if more else "MatMul"
    return helper.make_node(kind, ["x", "w"], ["y"], "op", **more)


def added_in_pairs(activations: Array, pairs: Array) -> Array:
    """What vpmaddubsw and the additions behind it give: every pair's sum clipped to 16 bits, then added in 32."""
    products = activations.astype(np.int64).reshape(1, -1, 2) * pairs.astype(np.int64)
    result: Array = products.sum(axis=2).clip(-(2**15), 2**15 - 1).sum(axis=1)
    return result


@pytest.mark.parametrize(
    ("flags", "overflow"),
    [
        (("avx2",), True),
        (("avx2", "avx512f", "avx512bw"), True),
        ((), True),
        (("avx2", "avx512f", "avx512_vnni"), False),
        (("avx2", "avx_vnni"), False),
        (("asimd",), False),
    ],
)
def test_only_cpus_without_dot_products_overflow(flags: tuple[str, ...], overflow: bool) -> None:
    assert saturates(flags) is overflow
    limits = weight_limits(products_of(matmul(), np.ones((4, 3), np.float32)), flags)
    assert limits == ({"op": (64, 64, 64)} if overflow else {})


def test_pairs_are_neighbours_along_the_reduction_with_channels_innermost() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    pairs = kernel_pairs(weight, conv())
    # Position (0, 0) of channels 0, 1, 2, then position (0, 1) of channel 0, and so on.
    assert pairs[0].tolist() == [[0, 4], [8, 1], [5, 9], [2, 6], [10, 3], [7, 11]]
    assert kernel_pairs(np.arange(6).reshape(3, 2), matmul())[1].tolist() == [[1, 3], [5, 0]]
    assert kernel_pairs(np.arange(6).reshape(2, 3), matmul(transB=1))[1].tolist() == [[3, 4], [5, 0]]


def test_a_depthwise_convolution_keeps_all_its_integers() -> None:
    weight = np.ones((4, 1, 3, 3), np.float32)
    assert weight_limits(products_of(conv(group=4), weight), AVX2) == {}
    assert set(weight_limits(products_of(conv(group=2), np.ones((4, 2, 3, 3), np.float32)), AVX2)) == {"op"}


def test_weights_that_oppose_their_neighbours_keep_all_their_integers() -> None:
    weight = fp32([[1, -1, 1, -1], [1, 0, 0.5, 0.4]]).T.copy()
    assert weight_limits(products_of(matmul(), weight), AVX2) == {}


def test_a_tensor_that_leaves_its_grid_half_empty_allows_larger_pairs() -> None:
    grid = TensorGrid("x", "UINT8", (1.0,), 0)
    assert largest_pair(grid, (0.0, 255.0)) == 128
    assert largest_pair(grid, (0.0, 1e9)) == 128
    assert largest_pair(grid, (0.0, 127.0)) == 258
    assert largest_pair(TensorGrid("x", "UINT8", (1.0,), 128), (-127.0, 20.0)) == 221
    assert largest_pair(TensorGrid("x", "INT8", (1.0,)), (-1.0, 1.0)) == 128
    weight = np.ones((4, 3), np.float32)
    assert weight_limits(products_of(matmul(), weight, (-1.0, 0.0)), AVX2) == {}


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), columns=st.integers(1, 4), spread=st.floats(0.1, 3))
@settings(max_examples=60, deadline=None)
def test_no_weights_within_their_limits_ever_leave_16_bits(seed: int, rows: int, columns: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    weight = (random.normal(0, 1, (rows, columns)) * np.exp(random.normal(0, spread, (rows, 1)))).astype(np.float32)
    products = products_of(matmul(), weight)
    operator = products.placement.weighted[0]
    limits = weight_limits(products, AVX2).get("op", (127,) * columns)
    grids = weight_grids(products.graph, operator, 1 / 255, (limits, True))
    integers = quantized(weight, grids.weight)
    pairs = kernel_pairs(integers, matmul())
    for levels in itertools.product((0, 255), repeat=2):
        activations = np.tile(levels, pairs.shape[1])
        exact = (activations.reshape(1, -1, 2) * pairs.astype(np.int64)).sum(axis=(1, 2))
        assert (added_in_pairs(activations, pairs) == exact).all()


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["conv", "matmul", "gemm"]))
@settings(max_examples=30, deadline=None)
def test_held_pairs_fit_and_leave_all_others_alone(seed: int, kind: str) -> None:
    node = {"conv": conv(), "matmul": matmul(), "gemm": matmul(transB=1)}[kind]
    shape = (5, 4, 3, 3) if kind == "conv" else (5, 7)
    integers = np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)
    held = held_pairs(integers, node, 128)
    before, after = (kernel_pairs(array, node).astype(int) for array in (integers, held))
    one_sign = before[..., 0] * before[..., 1] > 0
    sizes = np.abs(after).sum(axis=2)
    assert (sizes[one_sign] <= 128).all()
    fits = ~one_sign | (np.abs(before).sum(axis=2) <= 128)
    assert (after[fits] == before[fits]).all()
    assert (after * before >= 0).all()


def test_padded_pairs_stay_within_a_kernel_position() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    pairs = kernel_pairs(weight, conv(), padded=True)
    # Channels 0 and 1 of each position, then its channel 2 alone.
    assert pairs[0].tolist() == [[0, 4], [8, 0], [1, 5], [9, 0], [2, 6], [10, 0], [3, 7], [11, 0]]


@pytest.mark.parametrize("padded", [False, True])
def test_an_odd_count_of_channels_is_held_in_both_orders_of_pairs(padded: bool) -> None:
    integers = np.random.default_rng(3).integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    pairs = kernel_pairs(held_pairs(integers, conv(), 128), conv(), padded).astype(int)
    one_sign = pairs[..., 0] * pairs[..., 1] > 0
    assert (np.abs(pairs).sum(axis=2)[one_sign] <= 128).all()


def test_a_pair_within_a_position_limits_its_channel_too() -> None:
    weight = np.zeros((1, 3, 1, 2), np.float32)
    # The second position's channels 0 and 1 are apart in the running order and together in the padded one.
    weight[0, :2, 0, 1] = 1
    assert weight_limits(products_of(conv(), weight), AVX2) == {"op": (64,)}
