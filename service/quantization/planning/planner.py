"""From placement, ranges and recipe to the quantization plan for one runtime's kernels.

Where the runtime's activations are UINT8, `symmetric` means a fixed zero point: 128 for tensors with negative values, 0
for tensors without, so that a rectifier still fuses; `asymmetric` puts the zero point where the range asks for it. INT8
activations have zero point 0 in both schemes. Weights are INT8 and symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from service.domain.plan import OperatorPrecision, QuantizationPlan, TensorGrid, WeightGrid
from service.domain.recipe import Recipe
from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import Placement, WeightedOperator
from service.quantization.planning.rules import GridRules
from service.quantization.planning.saturation import WEIGHT_LIMIT, Products, weight_limits

_SMALLEST_SCALE = float(np.float32(1e-12))
# A bias of INT32 keeps half its range free, for the kernel adds products to it.
_LARGEST_BIAS = 2**30

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan is made from. `ranges` holds (low, high) of every observed tensor of the placement; `cpu_flags` are
    those of the CPU whose kernels limit the weights, None where no kernel does.
    """

    graph: Graph
    placement: Placement
    ranges: Mapping[str, tuple[float, float]]
    cpu_flags: tuple[str, ...] | None = None


def make_plan(parts: Planned, recipe: Recipe, rules: GridRules) -> QuantizationPlan:
    """The plan for a runtime of these rules."""
    placement = parts.placement
    made = _activation_grids(parts, recipe, rules)
    activations = tuple(replace(made[root], tensor=tensor) for tensor, root in placement.grids.items())
    products = Products(parts.graph, placement, made, parts.ranges)
    limits = {} if parts.cpu_flags is None else weight_limits(products, parts.cpu_flags)
    per_channel = recipe.granularity == "per_channel"
    weights = []
    for operator in placement.weighted:
        scale = made[placement.grids[operator.activation]].scales[0]
        grids = weight_grids(parts.graph, operator, scale, (limits.get(operator.name, (WEIGHT_LIMIT,)), per_channel))
        weights.append(grids if rules.integer_bias else replace(grids, bias=None))
    operators = tuple(_with_limit(operator, limits.get(operator.name)) for operator in placement.operators)
    return QuantizationPlan(activations, tuple(weights), operators)


def _activation_grids(parts: Planned, recipe: Recipe, rules: GridRules) -> dict[str, TensorGrid]:
    fixed = rules.mirrored(recipe.scheme)
    if rules.activation != "UINT8":
        return {name: signed_grid(name, parts.ranges[name]) for name in parts.placement.observed}
    ceilings = parts.placement.ceilings
    return {
        name: activation_grid(name, parts.ranges[name], fixed, ceilings.get(name, float("inf")))
        for name in parts.placement.observed
    }


def _with_limit(operator: OperatorPrecision, limit: Sequence[int] | None) -> OperatorPrecision:
    """The operator with a word on its smaller integers, where it has any."""
    if limit is None:
        return operator
    limits = np.asarray(limit)
    words = (
        f"weights within {limits.min()} in {np.count_nonzero(limits < WEIGHT_LIMIT)} of {limits.size} channels: larger "
        "ones could leave the 16 bits in which this CPU adds two products"
    )
    return replace(operator, reason=f"{operator.reason}; {words}")


def signed_grid(tensor: str, extent: tuple[float, float]) -> TensorGrid:
    """The INT8 grid around zero that holds low..high."""
    scale = max(-extent[0], extent[1], 0.0) / WEIGHT_LIMIT
    return TensorGrid(tensor, "INT8", (_stored_scale(scale, None),))


def activation_grid(tensor: str, extent: tuple[float, float], symmetric: bool, ceiling: float) -> TensorGrid:
    """The UINT8 grid over low..high. The scale is rounded down to FP32 so that the top level stays below `high` and
    `ceiling`: only then does ONNX Runtime see that a Clip is redundant.
    """
    low, high = min(0.0, extent[0]), min(max(0.0, extent[1]), ceiling)
    if symmetric and low < 0:
        zero_point, scale = 128, max(-low, high) / 127
    else:
        scale = (high - low) / 255
        zero_point = 0 if scale < _SMALLEST_SCALE else int(np.clip(np.rint(-low / scale), 0, 255))
    return TensorGrid(tensor, "UINT8", (_stored_scale(scale, high if zero_point == 0 else None),), zero_point)


def _stored_scale(scale: float, top: float | None) -> float:
    """The scale as FP32, rounded so that level 255 of a grid without negative values does not exceed `top`."""
    if scale < _SMALLEST_SCALE:
        return _SMALLEST_SCALE if scale > 0 else 1.0
    rounded = np.float32(scale)
    if top is not None and rounded * np.float32(255) > np.float32(top):
        rounded = np.nextafter(rounded, np.float32(0))
    return float(rounded)


def weight_grids(
    graph: Graph, operator: WeightedOperator, input_scale: float, form: tuple[Sequence[int], bool]
) -> WeightGrid:
    """INT8 grid of the weight and INT32 grid of the bias, whose scale is input scale times weight scale.

    A channel with a bias too large for that scale gets a coarser weight scale instead of a clipped bias.
    `form` is (largest integer of each channel or of all, whether there is a scale for each channel).
    """
    limit, per_channel = form
    weight = graph.constant(operator.weight)
    assert weight is not None
    bias = None if operator.bias is None else graph.constant(operator.bias)
    axes = tuple(axis for axis in range(weight.ndim) if axis != operator.axis)
    largest = np.abs(weight.astype(np.float64)).max(axis=axes, initial=0.0)
    needed = np.maximum(largest / np.asarray(limit), _SMALLEST_SCALE)
    if bias is not None:
        needed = np.maximum(needed, np.abs(bias.astype(np.float64)) / (input_scale * _LARGEST_BIAS))
    scales = (needed if per_channel else np.full(1, needed.max())).astype(np.float32)
    axis = operator.axis if per_channel else None
    kept = tuple(float(scale) for scale in scales)
    bias_grid = None
    if operator.bias is not None:
        products = scales * np.float32(input_scale)
        bias_scales = tuple(float(scale) for scale in products)
        bias_grid = TensorGrid(operator.bias, "INT32", bias_scales, 0, 0 if per_channel else None)
    return WeightGrid(operator.name, TensorGrid(operator.weight, "INT8", kept, 0, axis), bias_grid)
