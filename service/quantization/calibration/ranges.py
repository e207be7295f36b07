"""From one histogram to the range worth covering with 8 bits: min-max, percentile, MSE, or entropy.

Every range holds zero, for padding and clipped values must stay exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from service.domain.recipe import Calibration
from service.quantization.measures.histogram import BINS, Histogram

LEVELS = 256
_CANDIDATES = 96
_SMALLEST_FRACTION = 0.15
# With fewer values a histogram is no density, and entropy clips at random; the squared error needs none.
_VALUES_A_LEVEL = 16
Floats = npt.NDArray[np.float64]
Cost = Callable[[Histogram, float, float], float]


def find_range(histogram: Histogram, calibration: Calibration, symmetric: bool) -> tuple[float, float]:
    """(low, high) with low <= 0 <= high, in real units. `symmetric` ranges of signed tensors have low = -high."""
    low, high = min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    if histogram.total == 0 or low == high:
        return low, high
    if calibration.method == "percentile":
        return _percentile(histogram, calibration.percentile, symmetric)
    if symmetric and low < 0:
        low, high = -max(-low, high), max(-low, high)
    if calibration.method == "minmax":
        return low, high
    dense = histogram.total >= _VALUES_A_LEVEL * LEVELS
    cost = _divergence if calibration.method == "entropy" and dense else _squared_error
    return _search(histogram, (low, high), cost, symmetric)


def _percentile(histogram: Histogram, percent: float, symmetric: bool) -> tuple[float, float]:
    """Keeps `percent` % of all values: by magnitude where symmetric, else half of the rest falls off each end."""
    counts = histogram.counts.copy()
    counts[BINS // 2] += histogram.zeros
    total = counts.sum()
    if symmetric:
        folded = counts[BINS // 2 :] + counts[: BINS // 2][::-1]
        index = int(np.searchsorted(np.cumsum(folded), percent / 100 * total))
        top = float(histogram.edges[BINS // 2 + 1 + min(index, BINS // 2 - 1)])
        high = min(top, max(-histogram.minimum, histogram.maximum))
        return (-high if histogram.minimum < 0 else 0.0), high
    # A side that holds no values loses none: what a rectifier gives is cut at the top only.
    sides = 2 if histogram.minimum < 0 < histogram.maximum else 1
    cut = (1 - percent / 100) / sides * total
    cumulative = np.cumsum(counts)
    low_index = int(np.searchsorted(cumulative, cut, side="right"))
    high_index = int(np.searchsorted(cumulative, total - cut))
    low = max(float(histogram.edges[low_index]), histogram.minimum) if histogram.minimum < 0 else 0.0
    high = min(float(histogram.edges[high_index + 1]), histogram.maximum) if histogram.maximum > 0 else 0.0
    return min(0.0, low), max(0.0, high)


def _search(histogram: Histogram, full: tuple[float, float], cost: Cost, symmetric: bool) -> tuple[float, float]:
    """The cheapest of `_CANDIDATES` fractions of the full range: of both ends together where symmetric, else of one
    end after the other.
    """
    low, high = full
    fractions = np.linspace(1.0, _SMALLEST_FRACTION, _CANDIDATES)
    if symmetric or low == 0 or high == 0:
        costs = [cost(histogram, low * fraction, high * fraction) for fraction in fractions]
        best = float(fractions[int(np.argmin(costs))])
        return low * best, high * best
    best_high = high * float(fractions[int(np.argmin([cost(histogram, low, high * f) for f in fractions]))])
    best_low = low * float(fractions[int(np.argmin([cost(histogram, low * f, best_high) for f in fractions]))])
    return best_low, best_high


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    """Sum of squared rounding and clipping errors of the grid over [low, high], one of whose levels is zero."""
    centers = histogram.centers
    # As the planner makes grids: of a range that mirrors itself the lowest level stays unused.
    steps = LEVELS - 2 if low == -high else LEVELS - 1
    scale = (high - low) / steps
    lowest = np.rint(low / scale)
    rounded = np.rint(centers / scale).clip(lowest, lowest + steps) * scale
    return float(((centers - rounded) ** 2 * histogram.counts).sum())


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the values from what LEVELS levels over [low, high] can tell apart.

    The reference keeps clipped values in its outermost bins, so that clipping costs; each level spreads its mass evenly
    over its bins that held values (Migacz, "8-bit inference with TensorRT", 2017). Exact zeros are left out: every grid
    holds zero.
    """
    centers = histogram.centers
    inside = np.flatnonzero((centers >= low) & (centers <= high))
    if inside.size < LEVELS:
        return float("inf")
    kept = histogram.counts[inside].astype(np.float64)
    reference = kept.copy()
    reference[0] += histogram.counts[: inside[0]].sum()
    reference[-1] += histogram.counts[inside[-1] + 1 :].sum()
    scale = (high - low) / (LEVELS - 1)
    level = np.rint((centers[inside] - low) / scale).astype(np.int64)
    mass = np.bincount(level, weights=kept, minlength=LEVELS)
    held = np.bincount(level, weights=kept > 0, minlength=LEVELS)
    spread = np.where(kept > 0, mass[level] / np.maximum(held[level], 1), 0.0)
    return _relative_entropy(reference, spread)


def _relative_entropy(reference: Floats, model: Floats) -> float:
    """Sum of p log(p / q) of two unnormalised histograms; bins that the model calls impossible cost a lot, not all."""
    p = reference / reference.sum()
    q = model / max(model.sum(), 1.0)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-10))).sum())
