"""Grids cover their ranges, keep zero exact, and never overflow an accumulator or a bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from service.domain.plan import QuantizationPlan
from service.domain.recipe import Recipe
from service.quantization.emitters.qdq import quantized
from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.planning.planner import Planned, activation_grid, make_plan
from service.quantization.planning.rules import rules_of
from tests.unit.quantization.small_models import Array, fp32, model_of, value

NO_CEILING = float("inf")


def plan_for(
    weight: Array, bias: Array | None, recipe: Recipe, extent: tuple[float, float] = (-1.0, 1.0), reduce: bool = False
) -> QuantizationPlan:
    constants = {"w": weight} | ({} if bias is None else {"b": bias})
    inputs = ["x", "w", *([] if bias is None else ["b"])]
    gemm = helper.make_node("Gemm", inputs, ["y"], "gemm", transB=1)
    model = model_of([gemm], [value("x", ("n", weight.shape[1]))], [value("y", None)], constants)
    graph = Graph(model)
    placement = place(graph, ())
    cpu_flags = ("avx2",) if reduce else None
    return make_plan(Planned(graph, placement, {"x": extent}, cpu_flags), recipe, rules_of("onnxruntime").grids)


@pytest.mark.parametrize(
    ("extent", "symmetric", "zero_point"),
    [
        ((-1.0, 1.0), True, 128),
        ((-0.2, 1.0), True, 128),
        ((0.0, 1.0), True, 0),
        ((0.0, 1.0), False, 0),
        ((-1.0, 0.0), False, 255),
        ((-1.0, 3.0), False, 64),
    ],
)
def test_the_zero_point_follows_scheme_and_sign(extent: tuple[float, float], symmetric: bool, zero_point: int) -> None:
    grid = activation_grid("t", extent, symmetric, NO_CEILING)
    assert (grid.datatype, grid.zero_point) == ("UINT8", zero_point)


@given(low=st.floats(-1e6, 0, width=32), high=st.floats(0, 1e6, width=32), symmetric=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_grid_spans_its_range_and_holds_zero_exactly(low: float, high: float, symmetric: bool) -> None:
    grid = activation_grid("t", (low, high), symmetric, NO_CEILING)
    scale = grid.scales[0]
    assert scale > 0
    assert np.float32(scale) == scale
    assert 0 <= grid.zero_point <= 255
    spanned = (-grid.zero_point * scale, (255 - grid.zero_point) * scale)
    if high - low > 1e-6:
        assert spanned[0] <= low + scale
        assert spanned[1] >= high - scale
    assert quantized(np.zeros(1), grid)[0] == grid.zero_point


def test_the_top_level_of_a_rectified_tensor_stays_within_the_clip() -> None:
    for high in (6.0, 1.0, 0.1, 123.456, 5.3, 1 / 3, *np.geomspace(1e-8, 1e8, 200)):
        grid = activation_grid("t", (0.0, high * 1.5), True, high)
        assert np.float32(np.float32(grid.scales[0]) * np.float32(255)) <= np.float32(high)
        assert grid.scales[0] * 255 == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize("extent", [(0.0, 0.0), (0.0, 1e-30), (-1e-30, 1e-45), (-1e-40, 0.0)])
def test_a_tensor_that_hardly_moves_still_gets_a_sound_grid(extent: tuple[float, float]) -> None:
    for symmetric in (True, False):
        grid = activation_grid("t", extent, symmetric, NO_CEILING)
        assert grid.scales[0] >= 9e-13
        assert quantized(np.zeros(1), grid)[0] == grid.zero_point


def test_weights_get_a_scale_for_each_output_channel_or_one_for_all() -> None:
    weight = fp32([[1, -2], [100, 50], [0.001, 0]])
    fine = plan_for(weight, None, Recipe(granularity="per_channel")).weights[0].weight
    assert fine.axis == 0
    assert np.allclose(fine.scales, fp32([2, 100, 0.001]) / 127)
    coarse = plan_for(weight, None, Recipe(granularity="per_tensor")).weights[0].weight
    assert coarse.axis is None
    assert np.allclose(coarse.scales, [100 / 127])


def test_only_channels_whose_pairs_of_products_would_overflow_get_smaller_integers() -> None:
    weight = fp32([[1, 1], [1, -1], [1, 0.2]])
    full, reduced = (plan_for(weight, None, Recipe(), reduce=reduce) for reduce in (False, True))
    assert np.abs(quantized(weight, full.weights[0].weight)).max(axis=1).tolist() == [127, 127, 127]
    assert np.abs(quantized(weight, reduced.weights[0].weight)).max(axis=1).tolist() == [64, 127, 105]
    assert full.operators[0].reason in reduced.operators[0].reason
    assert "weights within 64 in 2 of 3 channels" in reduced.operators[0].reason


def test_a_bias_is_int32_on_the_product_of_both_scales() -> None:
    plan = plan_for(fp32([[1, 2], [3, 4]]), fp32([0.5, -7]), Recipe())
    grids = plan.weights[0]
    assert grids.bias is not None
    assert grids.bias.datatype == "INT32"
    products = fp32(grids.weight.scales) * np.float32(plan.activations[0].scales[0])
    assert grids.bias.scales == tuple(float(scale) for scale in products)
    assert np.allclose(quantized(fp32([0.5, -7]), grids.bias) * products, [0.5, -7], atol=1e-4)


def test_a_bias_too_large_for_its_scale_makes_the_weight_scale_coarser_instead_of_being_clipped() -> None:
    bias = fp32([1.0, 1e5])
    plan = plan_for(fp32([[1e-9, 0], [1, 1]]), bias, Recipe(), extent=(0.0, 1e-4))
    grid = plan.weights[0].bias
    assert grid is not None
    integers = quantized(bias, grid)
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 + 1
    assert np.allclose(integers * np.asarray(grid.scales), bias, rtol=1e-6)


def test_a_dead_channel_gets_a_positive_scale() -> None:
    grids = plan_for(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), Recipe()).weights[0]
    assert all(scale > 0 for scale in grids.weight.scales)
    assert grids.bias is not None
    assert all(scale > 0 for scale in grids.bias.scales)


def test_a_plan_survives_the_way_through_json() -> None:
    plan = plan_for(fp32([[1, 2], [3, 4]]), fp32([0.5, -7]), Recipe())
    assert QuantizationPlan.from_json(plan.to_json()) == plan
