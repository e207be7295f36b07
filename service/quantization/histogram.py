"""Fixed-size histograms that take a stream of values in one pass, however its range grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]
BINS = 8192
_PART = 1 << 20


class Histogram:
    """Equal bins over [-reach, reach]. A value outside doubles `reach`, and pairs of bins merge into one: no value is
    ever seen twice, and memory stays BINS counters a tensor. Exact zeros are counted apart.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.reach = 0.0
        self.zeros = 0
        self.low = 0.0
        self.high = 0.0
        self.total = 0
        self.not_finite = 0

    def add(self, values: Array) -> None:
        """Counts every element of a float array of any shape; NaN and infinity are counted apart."""
        flat = values.reshape(-1)
        for start in range(0, flat.size, _PART):
            self._add_part(flat[start : start + _PART])

    def _add_part(self, part: Array) -> None:
        finite = np.isfinite(part)
        if not finite.all():
            self.not_finite += int(part.size - np.count_nonzero(finite))
            part = part[finite]
        part = part[part != 0].astype(np.float64)
        self.zeros += int(np.count_nonzero(finite)) - part.size
        if part.size:
            low, high = float(part.min()), float(part.max())
            first = self.total == 0
            self.low, self.high = (low, high) if first else (min(self.low, low), max(self.high, high))
            self._reach_to(max(abs(low), abs(high)))
            places = np.floor(part / self.reach * (BINS / 2)).astype(np.int64) + BINS // 2
            self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
            self.total += part.size

    def _reach_to(self, magnitude: float) -> None:
        if self.reach == 0.0:
            self.reach = magnitude
        while self.reach < magnitude:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 * 3] = pairs
            self.reach *= 2

    @property
    def minimum(self) -> float:
        return min(self.low, 0.0) if self.zeros else self.low

    @property
    def maximum(self) -> float:
        return max(self.high, 0.0) if self.zeros else self.high

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The BINS + 1 borders between bins."""
        return np.linspace(-self.reach, self.reach, BINS + 1)

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2


class MagnitudeHistogram:
    """Bins of equal ratio over 1e-12 to 1e12, for percentiles of absolute errors of any size to within 1 %."""

    _LOWEST = -12.0
    _HIGHEST = 12.0
    _BINS = 2784

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(self._BINS, np.int64)
        self._tiny = 0
        self._total = 0
        self.maximum = 0.0

    def add(self, magnitudes: Array) -> None:
        """Counts finite values that are zero or more."""
        flat = magnitudes.reshape(-1)
        if flat.size == 0:
            return
        counted = flat[flat > 10.0**self._LOWEST].astype(np.float64)
        scale = self._BINS / (self._HIGHEST - self._LOWEST)
        places = ((np.log10(counted) - self._LOWEST) * scale).astype(np.int64)
        self._counts += np.bincount(np.clip(places, 0, self._BINS - 1), minlength=self._BINS)
        self._tiny += flat.size - counted.size
        self._total += flat.size
        self.maximum = max(self.maximum, float(flat.max()))

    def percentile(self, percent: float) -> float:
        """The value that `percent` % of those counted do not exceed; 0 where nothing was counted."""
        rank = percent / 100 * self._total
        if self._total == 0 or rank <= self._tiny:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts) + self._tiny, rank))
        width = (self._HIGHEST - self._LOWEST) / self._BINS
        return min(self.maximum, float(10.0 ** (self._LOWEST + (index + 0.5) * width)))
