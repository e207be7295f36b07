"""The mean of a value of each row, with a normal 95 % interval, from running sums."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from service.quantization.measures.histogram import MagnitudeHistogram

CONFIDENCE = 1.959964
Floats = npt.NDArray[np.float64]


class RowMean:
    """Also the lowest value, and the distribution of the values' magnitudes."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._magnitudes = MagnitudeHistogram()
        self._low = math.inf

    def add(self, values: Floats) -> None:
        self.count += values.size
        self._sum += float(values.sum())
        self._squares += float((values**2).sum())
        self._magnitudes.add(np.abs(values))
        self._low = min(self._low, float(values.min(initial=math.inf)))

    def percentile(self, percent: float) -> float:
        """Of the values' magnitudes, over rows."""
        return self._magnitudes.percentile(percent)

    @property
    def low(self) -> float:
        """The smallest value; 0 where there is none, as the mean."""
        return self._low if self.count else 0.0

    @property
    def high(self) -> float:
        """The largest magnitude."""
        return self._magnitudes.maximum

    @property
    def mean(self) -> float:
        return self._sum / max(self.count, 1)

    @property
    def half_interval(self) -> float:
        variance = max(self._squares / max(self.count, 1) - self.mean**2, 0.0)
        return CONFIDENCE * math.sqrt(variance / max(self.count, 1))

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.half_interval, self.mean + self.half_interval
