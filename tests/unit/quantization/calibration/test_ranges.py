"""Each method finds the range that it promises, holding zero, never wider than what was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.domain.recipe import METHODS, Calibration
from service.quantization.calibration.ranges import find_range
from service.quantization.measures.histogram import Histogram
from service.quantization.planning.planner import activation_grid
from tests.unit.quantization.small_models import fp32

NORMAL = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32(40))


def histogram_of(values: npt.NDArray[Any]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


def found(values: npt.NDArray[Any], method: str, symmetric: bool = False, **more: Any) -> tuple[float, float]:
    return find_range(histogram_of(values), Calibration(method=method, **more), symmetric)


def grid_error(values: npt.NDArray[Any], extent: tuple[float, float]) -> float:
    """The error of the grid that the plan makes of the range."""
    wide = values.astype(np.float64)
    grid = activation_grid("x", extent, -extent[0] == extent[1], np.inf)
    levels = np.clip(np.rint(wide / grid.scales[0]) + grid.zero_point, 0, 255)
    return float(((wide - (levels - grid.zero_point) * grid.scales[0]) ** 2).mean())


def test_minmax_is_the_extremes() -> None:
    assert found(NORMAL, "minmax") == (NORMAL.min(), NORMAL.max())
    assert found(np.abs(NORMAL), "minmax")[0] == 0


def test_symmetric_ranges_of_signed_values_mirror_the_larger_side() -> None:
    values = fp32([-1, 3])
    assert found(values, "minmax", symmetric=True) == (-3, 3)
    assert found(fp32([1, 3]), "minmax", symmetric=True) == (0, 3)


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_percentile_clips_the_share_that_it_names(percent: float) -> None:
    low, high = found(NORMAL, "percentile", percentile=percent)
    clipped = ((low > NORMAL) | (high < NORMAL)).mean() * 100
    assert clipped == pytest.approx(100 - percent, abs=0.15)
    mirrored_low, mirrored_high = found(NORMAL, "percentile", symmetric=True, percentile=percent)
    assert mirrored_low == -mirrored_high
    assert (np.abs(NORMAL) > mirrored_high).mean() * 100 == pytest.approx(100 - percent, abs=0.15)


def test_percentile_counts_zeros_as_values_and_cuts_a_rectified_tensor_at_its_top_only() -> None:
    rectified = np.maximum(NORMAL, 0)
    low, high = found(rectified, "percentile", percentile=99.0)
    assert low == 0
    assert (rectified > high).mean() == pytest.approx(0.01, abs=0.002)


def test_the_whole_percentile_is_the_extremes() -> None:
    assert found(NORMAL, "percentile", percentile=100.0) == pytest.approx((NORMAL.min(), NORMAL.max()))


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_outlier_does_not_take_the_levels_from_all_others(method: str, symmetric: bool) -> None:
    low, high = found(OUTLIER, method, symmetric)
    assert high < 35
    assert low < -2.5


def test_mse_has_the_smallest_error_of_all_methods() -> None:
    errors = {method: grid_error(OUTLIER, found(OUTLIER, method)) for method in METHODS}
    assert errors["mse"] == min(errors.values())
    assert errors["mse"] < errors["minmax"] * 0.8


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("reach", [40.0, 1e3, 1e6])
def test_mse_clips_an_outlier_only_where_the_plans_own_grid_gains_by_it(reach: float, symmetric: bool) -> None:
    values = np.append(NORMAL, np.float32(reach))
    chosen = grid_error(values, found(values, "mse", symmetric))
    assert chosen <= grid_error(values, found(values, "minmax", symmetric)) * 1.01


def test_entropy_keeps_nearly_all_of_a_well_behaved_tensor() -> None:
    uniform = np.random.default_rng(0).uniform(0, 1, 100_000).astype(np.float32)
    assert found(uniform, "entropy")[1] > 0.95


@pytest.mark.parametrize("count", [200, 1000, 4000])
def test_entropy_of_too_few_values_for_a_density_is_judged_by_squared_error(count: int) -> None:
    assert found(NORMAL[:count], "entropy") == found(NORMAL[:count], "mse")
    assert found(NORMAL, "entropy") != found(NORMAL, "mse")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [np.zeros(4, np.float32), fp32([2.5]), fp32([-2.5, 0])])
def test_degenerate_tensors_keep_what_they_hold(method: str, values: npt.NDArray[Any]) -> None:
    low, high = found(values, method, percentile=99.99)
    assert low <= min(0.0, float(values.min())) * 0.99
    assert high >= max(0.0, float(values.max())) * 0.99


@given(
    values=arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e5, 1e5, width=32)),
    method=st.sampled_from(METHODS),
    symmetric=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_range_holds_zero_and_stays_within_the_extremes(
    values: npt.NDArray[Any], method: str, symmetric: bool
) -> None:
    low, high = found(values, method, symmetric)
    widest = float(np.abs(values).max()) * (1 + 1e-6)
    assert -widest <= low <= 0 <= high <= widest
    if symmetric and low < 0:
        assert low == -high


@given(
    values=arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e5, 1e5, width=32)),
    percents=st.tuples(st.floats(51, 100), st.floats(51, 100)).map(sorted),
    symmetric=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_higher_percentile_never_narrows_and_minmax_holds_all_others(
    values: npt.NDArray[Any], percents: list[float], symmetric: bool
) -> None:
    widest = found(values, "minmax", symmetric)
    lower, higher = (found(values, "percentile", symmetric, percentile=percent) for percent in percents)
    slack = max(-widest[0], widest[1]) * 1e-6
    assert higher[0] <= lower[0] <= lower[1] <= higher[1]
    for method in METHODS:
        low, high = found(values, method, symmetric, percentile=percents[1])
        assert widest[0] - slack <= low <= high <= widest[1] + slack, method
