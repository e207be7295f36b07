"""What the rows of a dataset look like, input by input: extremes, spread, dead channels, constant rows, grain.

At most `SAMPLED_ROWS` rows, spread evenly, are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.quantization.data.rows import Array, Rows

SAMPLED_ROWS = 256
# An axis this short beside longer ones is taken for the channels of a picture.
_MOST_CHANNELS = 16
_SMALLEST_SIDE = 8
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class InputStatistics:
    """One numeric input over the sampled rows. `dead` lists channels that are zero throughout; `grain` is the
    correlation of neighbouring pixels, beside or below each other, whichever is larger; None where it is no picture.
    """

    low: float
    high: float
    mean: float
    deviation: float
    dead: tuple[int, ...]
    grain: float | None


@dataclass(frozen=True)
class RowStatistics:
    """Statistics by input, and the sampled rows of which every input holds one value only."""

    inputs: dict[str, InputStatistics]
    constant_rows: tuple[int, ...]


def row_statistics(rows: Rows, limit: int) -> RowStatistics:
    """Looks at the first `limit` rows, or at some of them spread evenly."""
    count = min(limit, len(rows))
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLED_ROWS)).astype(np.int64)).tolist()
    gathered = {name: _Gathered(array.shape[1:]) for name, array in rows.arrays.items() if array.dtype.kind in "fiu"}
    constant = []
    for row in chosen:
        flat = [gathered[name].add(np.asarray(rows.arrays[name][row])) for name in gathered]
        if flat and all(flat):
            constant.append(row)
        rows.forget()
    return RowStatistics({name: found.result() for name, found in gathered.items()}, tuple(constant))


class _Gathered:
    """Running sums over the rows of one input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._channel_axis = _channel_axis(shape)
        self._elements = 0
        self._sum = self._squares = 0.0
        self._low, self._high = float("inf"), -float("inf")
        self._used: npt.NDArray[np.bool_] | None = None
        # Of pairs beside and below each other: how many, their sum, the sum of their squares and of their products.
        self._pairs: Floats = np.zeros((2, 4))

    def add(self, row: Array) -> bool:
        """Whether the row holds one value only, and more than one element."""
        values = row.astype(np.float64)
        low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._elements += values.size
        self._sum += float(values.sum())
        self._squares += float(np.square(values).sum())
        if self._channel_axis is not None:
            channels = np.moveaxis(values, self._channel_axis, 0)
            used = np.asarray(channels.reshape(len(channels), -1).any(axis=1), np.bool_)
            self._used = used if self._used is None else np.logical_or(self._used, used)
            self._pairs[0] += _neighbours(channels)
            self._pairs[1] += _neighbours(channels.swapaxes(1, 2))
        return values.size > 1 and low == high

    def result(self) -> InputStatistics:
        count = max(self._elements, 1)
        mean = self._sum / count
        deviation = float(np.sqrt(max(self._squares / count - mean**2, 0.0)))
        dead = () if self._used is None else tuple(int(channel) for channel in np.flatnonzero(~self._used))
        return InputStatistics(self._low, self._high, mean, deviation, dead, self._grain())

    def _grain(self) -> float | None:
        found = [grain for grain in map(_correlation, self._pairs) if grain is not None]
        return max(found, key=abs, default=None)


def _correlation(pairs: Floats) -> float | None:
    count, total, squares, products = pairs
    if not count:
        return None
    mean = total / (2 * count)
    variance = squares / (2 * count) - mean**2
    return float((products / count - mean**2) / variance) if variance > 0 else None


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Where the channels of [C, H, W] or [H, W, C] are, or None for anything else."""
    if len(shape) != 3:
        return None
    for axis, sides in ((0, shape[1:]), (2, shape[:2])):
        if shape[axis] <= _MOST_CHANNELS and min(sides) >= _SMALLEST_SIDE:
            return axis
    return None


def _neighbours(channels: Floats) -> Floats:
    """Sums over all pairs of pixels beside each other in a row, of [C, H, W]."""
    left, right = channels[:, :, :-1], channels[:, :, 1:]
    total = left.sum() + right.sum()
    squares = np.square(left).sum() + np.square(right).sum()
    return np.array([left.size, total, squares, (left * right).sum()])
