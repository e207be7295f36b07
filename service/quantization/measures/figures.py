"""How far an engine's outputs are from the reference's: running sums and histograms, in the outputs' real units.

The error is e = reference - engine. Values that are NaN or infinite on either side are counted and left out, and so are
those too large to be squared, which only FP64 has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from service.quantization.measures.histogram import BINS, Histogram, MagnitudeHistogram
from service.quantization.measures.row_mean import RowMean
from service.quantization.measures.row_similarity import RowSimilarity

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
_PERCENTILES = (50, 90, 99)
_SHOWN_BINS = 64
# The sum of very many squares of these is finite still.
_LARGEST = 1e140


class ErrorFigures:
    """E[e], E|e| and the distribution of |e| over whatever is added."""

    def __init__(self) -> None:
        self.elements = 0
        self._sum = 0.0
        self._absolute = 0.0
        self._magnitudes = MagnitudeHistogram()

    def add(self, error: Floats) -> None:
        magnitude = np.abs(error)
        self.elements += error.size
        self._sum += float(error.sum())
        self._absolute += float(magnitude.sum())
        self._magnitudes.add(magnitude)

    def to_json(self) -> dict[str, Any]:
        count = max(self.elements, 1)
        percentiles = {f"p{percent}": self._magnitudes.percentile(percent) for percent in _PERCENTILES}
        errors = {"mean_error": self._sum / count, "mean_absolute_error": self._absolute / count}
        return errors | percentiles | {"max": self._magnitudes.maximum}


class OutputFigures:
    """Every figure of one output, over all rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.engine_not_finite = 0
        self.reference_not_finite = 0
        self._rows = 0
        self._errors = ErrorFigures()
        self._histogram = Histogram()
        self._signal = 0.0
        self._noise = 0.0
        self.row_errors = RowMean()
        self.row_cosines = RowSimilarity()

    def add(self, reference: Floats, engine: Floats) -> None:
        """Takes rows as FP64 [rows, elements]."""
        sound, engine_sound = np.abs(reference) <= _LARGEST, np.abs(engine) <= _LARGEST
        self.reference_not_finite += int(reference.size - np.count_nonzero(sound))
        # An engine may be infinite where the reference is, towards the same side; where that is NaN nothing is known.
        excused = np.isnan(reference) | (~sound & (np.sign(reference) == np.sign(engine)))
        self.engine_not_finite += int(np.count_nonzero(~engine_sound & ~excused))
        both = sound & engine_sound
        left, right = np.where(both, reference, 0.0), np.where(both, engine, 0.0)
        error = left - right
        self._errors.add(error[both])
        self._histogram.add(error[both])
        self._signal += float((left**2).sum())
        self._noise += float((error**2).sum())
        # A row of which nothing can be compared is no row without error.
        told = both.any(axis=1) | (both.shape[1] == 0)
        self._rows += len(told)
        self.row_errors.add((np.abs(error).sum(axis=1) / np.maximum(both.sum(axis=1), 1))[told])
        self.row_cosines.add(left[told], right[told])

    @property
    def counted(self) -> dict[str, int]:
        """How many rows the figures rest on, and how many hold nothing that can be compared. An output without a row
        axis is one row a batch.
        """
        told = self.row_errors.count
        return {"rows": told, "rows_left_out": self._rows - told}

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            **self.counted,
            **self._errors.to_json(),
            "histogram": _shown_histogram(self._histogram),
            "sqnr_db": _decibels(self._signal, self._noise),
            "cosine": self.row_cosines.mean,
            "cosine_min": self.row_cosines.low,
            "compared": self._errors.elements,
            "engine_not_finite": self.engine_not_finite,
            "reference_not_finite": self.reference_not_finite,
        }


def _decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal power / noise power); None where there is no noise, or nothing but noise."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _shown_histogram(histogram: Histogram) -> dict[str, Any]:
    """At most `_SHOWN_BINS` equal bins over the errors that occurred, zero among them."""
    reach = histogram.reach or 1.0
    counts = histogram.counts.copy()
    counts[BINS // 2] += histogram.zeros
    used = np.flatnonzero(counts)
    middle = BINS // 2
    # Symmetric about zero and a multiple of the shown bins, so that each shown bin holds as many of ours.
    half = max(int(np.abs(used - middle).max(initial=0)) + 1, _SHOWN_BINS // 2)
    half = min(-(-half // (_SHOWN_BINS // 2)) * (_SHOWN_BINS // 2), middle)
    merged = counts[middle - half : middle + half].reshape(_SHOWN_BINS, -1).sum(axis=1)
    extent = reach * half / middle
    return {"low": -extent, "high": extent, "counts": merged.tolist()}
