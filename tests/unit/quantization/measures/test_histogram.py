"""One pass, fixed memory, and the same counts as if all values had been there at once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.quantization.measures.histogram import BINS, Histogram, MagnitudeHistogram
from tests.unit.quantization.small_models import fp32

Values = npt.NDArray[np.float32]
FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def filled(*parts: Values) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def test_extremes_are_exact_and_every_value_is_counted_once() -> None:
    values = np.random.default_rng(0).normal(0, 3, 10_000).astype(np.float32)
    histogram = filled(*np.split(values, 10))
    assert histogram.minimum == values.min()
    assert histogram.maximum == values.max()
    assert histogram.counts.sum() == 10_000
    assert histogram.not_finite == 0


def test_a_range_that_grows_merges_bins_and_loses_nothing() -> None:
    histogram = filled(fp32([0.5, -0.25]), fp32([1000.0]))
    assert histogram.counts.sum() == 3
    assert len(histogram.counts) == BINS
    width = histogram.edges[1] - histogram.edges[0]
    held = histogram.centers[histogram.counts > 0]
    assert np.abs(np.sort(np.repeat(held, histogram.counts[histogram.counts > 0])) - [-0.25, 0.5, 1000]).max() <= width


def plainly_counted(values: Values, reach: float) -> npt.NDArray[np.int64]:
    """One value at a time, in Python's own numbers."""
    counts = np.zeros(BINS, np.int64)
    for value in values[values != 0].tolist():
        counts[min(math.floor(value * (BINS // 2) / reach) + BINS // 2, BINS - 1)] += 1
    return counts


@given(st.lists(arrays(np.float32, st.integers(1, 20), elements=FLOATS), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_counts_are_exact_and_the_same_in_any_order_and_in_any_parts(parts: list[Values]) -> None:
    values = np.concatenate(parts)
    reference = filled(values)
    assert reference.reach >= np.abs(values).max()
    if reference.reach:
        assert np.array_equal(reference.counts, plainly_counted(values, reference.reach))
    for histogram in (filled(*parts), filled(*parts[::-1])):
        assert np.array_equal(histogram.bins, reference.bins)
        for name in ("total", "zeros", "minimum", "maximum", "reach"):
            assert getattr(histogram, name) == getattr(reference, name)


def test_parts_longer_than_the_scratch_are_counted_to_the_last_value() -> None:
    values = np.random.default_rng(2).normal(0, 1, 300_001).astype(np.float32)
    values[::3] = 0
    histogram = filled(values.reshape(1, -1))
    assert histogram.zeros == 100_001
    assert np.array_equal(histogram.counts, plainly_counted(values, histogram.reach))


def test_values_on_the_border_of_the_reach_stay_exact_when_it_grows() -> None:
    histogram = filled(fp32([1.0, -1.0]), fp32([3.0]))
    assert histogram.reach == 4
    assert np.array_equal(histogram.counts, plainly_counted(fp32([1.0, -1.0, 3.0]), 4))


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-20, 3e38])
def test_the_smallest_and_the_largest_numbers_are_counted(size: float) -> None:
    histogram = filled(fp32([size, -size, size]))
    assert histogram.total == 3
    assert histogram.counts.sum() == 3
    assert histogram.maximum == np.float32(size)


def test_the_tail_is_the_magnitude_that_so_many_values_stay_below() -> None:
    values = np.random.default_rng(3).normal(0, 1, 200_000).astype(np.float32)
    assert filled(values).tail(99.0) == pytest.approx(np.percentile(np.abs(values), 99), abs=0.01)
    rectified = np.maximum(values, 0)
    assert filled(rectified).tail(99.0) == pytest.approx(np.percentile(rectified, 99), abs=0.01)
    assert filled(np.zeros(4, np.float32)).tail(99.0) == 0


def test_zeros_are_counted_apart() -> None:
    histogram = filled(fp32([0, 0, 5]))
    assert histogram.zeros == 2
    assert histogram.counts.sum() == 1
    assert histogram.minimum == 0


def test_values_that_are_not_finite_are_counted_apart() -> None:
    histogram = filled(fp32([np.nan, np.inf, -np.inf, 2]))
    assert histogram.not_finite == 3
    assert histogram.maximum == 2


def test_nothing_but_zeros_has_no_reach() -> None:
    histogram = filled(np.zeros(5, np.float32))
    assert histogram.reach == 0
    assert (histogram.minimum, histogram.maximum) == (0, 0)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e6])
def test_percentiles_of_magnitudes_are_within_a_percent_at_any_scale(scale: float) -> None:
    values = np.abs(np.random.default_rng(1).normal(0, scale, 50_000))
    histogram = MagnitudeHistogram()
    for part in np.split(values, 5):
        histogram.add(part)
    for percent in (50, 90, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.015)
    assert histogram.maximum == values.max()


def test_percentiles_of_exact_zeros_are_zero() -> None:
    histogram = MagnitudeHistogram()
    assert histogram.percentile(50) == 0
    histogram.add(np.array([0.0, 0.0, 0.0, 8.0]))
    assert histogram.percentile(50) == 0
    assert histogram.percentile(99) == pytest.approx(8, rel=0.01)
