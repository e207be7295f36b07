"""The cosine between a reference's and an engine's output: row by row, or over all rows where a row is one number.

One number has no direction: its cosine is 1 whatever an engine makes of it, so such rows are one vector together.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from service.quantization.measures.row_mean import CONFIDENCE, RowMean

Floats = npt.NDArray[np.float64]


class RowSimilarity:
    """Takes rows as FP64 [rows, elements]; the mean, the lowest and the mean's normal 95 % interval; 0 without any."""

    def __init__(self) -> None:
        self._rows = RowMean()
        self._numbers: list[Floats] = []

    def add(self, left: Floats, right: Floats) -> None:
        if left.shape[1] == 1:
            self._numbers.append(np.concatenate([left, right], axis=1))
        else:
            self._rows.add(_cosines(left, right))

    @property
    def mean(self) -> float:
        """The lower of the two kinds, where an output has rows of both."""
        return min(self._found())[0]

    @property
    def low(self) -> float:
        lowest = [low for low, _ in self._found()]
        return min([self._rows.low, *lowest] if self._rows.count else lowest)

    @property
    def interval(self) -> tuple[float, float]:
        mean, half = min(self._found())
        return mean - half, mean + half

    def _found(self) -> list[tuple[float, float]]:
        """(cosine, half of its interval) of each kind of row that came."""
        found = [(self._rows.mean, self._rows.half_interval)] if self._rows.count else []
        if sum(map(len, self._numbers)):
            found.append(_cosine_over(np.concatenate(self._numbers)))
        return found or [(0.0, 0.0)]


def _cosine_over(pairs: Floats) -> tuple[float, float]:
    """The cosine of two columns and half of its interval, from what each row does to it (the delta method)."""
    # Ratios alone matter, and squares of very large or small numbers leave FP64.
    scaled = pairs / np.maximum(np.abs(pairs).max(axis=0, initial=0.0), np.finfo(np.float64).tiny)
    left, right = scaled.T
    cosine = float(_cosines(left[np.newaxis], right[np.newaxis])[0])
    ours, theirs = float(left @ left), float(right @ right)
    if not (ours > 0 and theirs > 0):
        # One side is all zero, and the scales that were taken out may tell them apart.
        return float((pairs[:, 0] == pairs[:, 1]).all()), 0.0
    influence = left * right / math.sqrt(ours * theirs) - cosine * (left**2 / ours + right**2 / theirs) / 2
    return cosine, CONFIDENCE * float(np.sqrt(np.square(influence).sum()))


def _cosines(left: Floats, right: Floats) -> Floats:
    """Cosine similarity of each row; 1 where both rows are all zero, 0 where one is."""
    products = (left * right).sum(axis=1)
    lengths = np.sqrt((left**2).sum(axis=1)) * np.sqrt((right**2).sum(axis=1))
    equal = (left == right).all(axis=1)
    cosines: Floats = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1.0), equal.astype(np.float64))
    return cosines.clip(-1, 1)
