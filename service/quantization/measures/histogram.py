"""Fixed-size histograms that take a stream of values in one pass, however its range grows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]
BINS = 8192
_MIDDLE = BINS // 2
# Scratch arrays of a part this long stay in the cache of one core.
_PART = 1 << 16
# Smaller magnitudes all fall into the middle bins, so that the factor from value to bin stays finite in FP32.
_SMALLEST_REACH = 2.0**-100


class Histogram:
    """Equal bins over [-reach, reach], where reach is a power of two. A value outside doubles `reach`, and pairs of
    bins merge into one: no value is ever seen twice, and memory stays BINS counters a tensor. As bins of such widths
    nest exactly, the counts depend on the values alone, never on their order (subnormal numbers may fall on either side
    of zero). Exact zeros are counted apart.
    """

    def __init__(self, bins: Counts | None = None) -> None:
        """`bins` is where to count, BINS + 1 zeros; the last counts values that are exactly `reach`."""
        self.bins: Counts = np.zeros(BINS + 1, np.int64) if bins is None else bins
        self.reach = 0.0
        self.zeros = 0
        self.total = 0
        self.not_finite = 0
        self.minimum = 0.0
        self.maximum = 0.0

    def add(self, values: Array) -> None:
        """Counts every element of a float array of any shape; NaN and infinity are counted apart."""
        flat = values.reshape(-1)
        flat = flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float32)
        scratch = _Scratch(min(flat.size, _PART), flat.dtype)
        for start in range(0, flat.size, _PART):
            self._add_part(flat[start : start + _PART], scratch)

    def _add_part(self, part: Array, scratch: _Scratch) -> None:
        low, high = float(part.min()), float(part.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            sound = part[np.isfinite(part)]
            self.not_finite += part.size - sound.size
            if sound.size:
                self._add_part(sound, scratch)
            return
        seen = self.total + self.zeros > 0
        self.minimum, self.maximum = (min(self.minimum, low), max(self.maximum, high)) if seen else (low, high)
        zeros = scratch.count_zeros(part) if low <= 0.0 <= high else 0
        self.zeros += zeros
        self.total += part.size - zeros
        if low != 0.0 or high != 0.0:
            self._reach_to(max(-low, high))
            self.bins += scratch.count(part, _MIDDLE / self.reach)
            self.bins[_MIDDLE] -= zeros

    def _reach_to(self, magnitude: float) -> None:
        mantissa, exponent = math.frexp(max(magnitude, _SMALLEST_REACH))
        wanted = math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)
        if self.reach == 0.0:
            self.reach = wanted
        while self.reach < wanted:
            pairs, top = self.bins[:BINS].reshape(-1, 2).sum(axis=1), self.bins[BINS]
            self.bins[:] = 0
            self.bins[BINS // 4 : BINS // 4 * 3] = pairs
            self.bins[BINS // 4 * 3] += top
            self.reach *= 2

    @property
    def counts(self) -> Counts:
        """A copy of the BINS counters, left to right; the last bin holds its right border too."""
        folded = self.bins[:BINS].copy()
        folded[-1] += self.bins[BINS]
        return folded

    def tail(self, percent: float) -> float:
        """The magnitude that `percent` % of all values do not exceed, to within one bin."""
        counts = self.counts
        folded = counts[_MIDDLE:] + counts[:_MIDDLE][::-1]
        rank = percent / 100 * (self.total + self.zeros) - self.zeros
        index = min(int(np.searchsorted(np.cumsum(folded), rank)), _MIDDLE - 1)
        top = (index + 1) * self.reach / _MIDDLE
        return 0.0 if rank <= 0 else min(top, max(-self.minimum, self.maximum))

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The BINS + 1 borders between bins."""
        return np.linspace(-self.reach, self.reach, BINS + 1)

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2


class _Scratch:
    """Arrays that every part of one tensor is worked on in, so that none is made twice."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._scaled = np.empty(size, dtype)
        self._places = np.empty(size, np.int32)
        self._flags = np.empty(size, np.bool_)

    def count_zeros(self, part: Array) -> int:
        return int(np.count_nonzero(np.equal(part, 0, out=self._flags[: part.size])))

    def count(self, part: Array, factor: float) -> Counts:
        """BINS + 1 counts of finite values within the reach. A factor that is a power of two rounds nothing."""
        scaled, places = self._scaled[: part.size], self._places[: part.size]
        np.multiply(part, part.dtype.type(factor), out=scaled)
        np.floor(scaled, out=scaled)
        np.add(scaled, part.dtype.type(_MIDDLE), out=scaled)
        np.copyto(places, scaled, casting="unsafe")
        return np.bincount(places, minlength=BINS + 1)


class MagnitudeHistogram:
    """Bins of equal ratio over the magnitudes that occurred, for percentiles of errors of any size to within 1 %."""

    _BINS_A_DECADE = 116

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(0, np.int64)
        # Which bin the first counter is: bin 0 begins at 1.
        self._first = 0
        self._zeros = 0
        self._total = 0
        self.maximum = 0.0

    def add(self, magnitudes: Array) -> None:
        """Counts finite values that are zero or more."""
        flat = magnitudes.reshape(-1)
        if flat.size == 0:
            return
        counted = flat[flat > 0].astype(np.float64)
        if counted.size:
            places = np.floor(np.log10(counted) * self._BINS_A_DECADE).astype(np.int64)
            first = int(places.min())
            self._merge(first, np.bincount(places - first))
        self._zeros += flat.size - counted.size
        self._total += flat.size
        self.maximum = max(self.maximum, float(flat.max()))

    def _merge(self, first: int, counts: Counts) -> None:
        parts = [(self._first, self._counts), (first, counts)] if self._counts.size else [(first, counts)]
        self._first = min(start for start, _ in parts)
        self._counts = np.zeros(max(start + part.size for start, part in parts) - self._first, np.int64)
        for start, part in parts:
            self._counts[start - self._first :][: part.size] += part

    def percentile(self, percent: float) -> float:
        """The value that `percent` % of those counted do not exceed; 0 where nothing was counted."""
        rank = percent / 100 * self._total
        if self._total == 0 or rank <= self._zeros:
            return 0.0
        index = self._first + int(np.searchsorted(np.cumsum(self._counts) + self._zeros, rank))
        return min(self.maximum, float(10.0 ** ((index + 0.5) / self._BINS_A_DECADE)))
