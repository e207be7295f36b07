"""What is counted of one operator of a quantized graph while rows stream by, and the cause that the counts name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.quantization.graphs.emitted_graph import Pair

Array = npt.NDArray[Any]
# A channel is an outlier, or a tensor mostly clipped, beyond these; below so many levels a typical value is coarse.
_OUTLIER_RATIO = 8.0
_MOSTLY = 0.5
_SPREAD_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Weights:
    """What the constants of a weighted operator show: channels' ranges where one scale holds all, and a bias that
    fills its INT32, for which the weight's scale was raised.
    """

    outlier_ratio: float | None
    raised_channels: int


class StepFigures:
    """Sums over elements: powers of the signal and of each noise, values outside the grid, and each channel's reach."""

    def __init__(self, pair: Pair | None) -> None:
        self._pair = pair
        self._elements = 0
        self._outside = 0
        self._typical = 0.0
        self.signal = self.local = self.weights = self.grid = self.clipped = 0.0
        self.accumulated = self.kernel = 0.0
        self._reach: Array = np.zeros(0)

    def add(self, expected: Array, raw: Array, result: Array, simulated: Array) -> None:
        """Float output; the operator's own output on float inputs, before and behind its grid; output in the graph."""
        expected, raw, result, simulated = (np.asarray(x, np.float32) for x in (expected, raw, result, simulated))
        self._elements += expected.size
        self._typical += float(np.abs(expected).sum(dtype=np.float64))
        self.signal += _power(expected)
        self.local += _power(result - expected)
        self.weights += _power(raw - expected) if raw is not expected else 0.0
        self.accumulated += _power(simulated - expected)
        if self._pair is not None:
            self.grid += _power(result - raw)
            self._add_outside(raw, self._pair)
        self._add_reach(expected)

    def _add_outside(self, raw: Array, pair: Pair) -> None:
        if pair.bounds is None or pair.scale is None or (raw.min() >= pair.bounds[0] and raw.max() <= pair.bounds[1]):
            return
        over = raw - raw.clip(*pair.bounds)
        # Within a step beyond the last level is rounding.
        self._outside += int((np.abs(over) > pair.scale).sum())
        self.clipped += _power(over)

    def add_kernel(self, engine: Array, simulated: Array) -> None:
        """The engine's output beside the simulated one of the very same inputs."""
        self.kernel += _power(np.asarray(engine, np.float32) - simulated)

    def _add_reach(self, expected: Array) -> None:
        axis = 1 if expected.ndim >= 4 else expected.ndim - 1
        if expected.ndim < 2:
            return
        reach = np.abs(expected).max(axis=tuple(i for i in range(expected.ndim) if i != axis), initial=0.0)
        if self._reach.shape == reach.shape:
            self._reach = np.maximum(self._reach, reach)
        elif not self._reach.size:
            self._reach = reach

    @property
    def relative(self) -> float:
        """Noise power that the operator adds by itself, in the engine where it was seen, as a share of its signal's."""
        noise = self.local + self.kernel
        return noise / self.signal if self.signal > 0 else math.inf if noise > 0 else 0.0

    def cause(self, weights: Weights, saturates: bool) -> tuple[str, str]:
        """The cause's name and the measurement behind it."""
        if self.kernel > self.local:
            share = f"the engine's kernel adds {_decibels(self.kernel, self.local):.1f} dB more than rounding does"
            return ("saturation" if saturates else "kernel"), share
        if self.local == 0:
            return "none", "no error"
        if self.weights >= self.grid:
            return self._weight_cause(weights)
        if self.clipped > _MOSTLY * self.grid:
            return "clipping", f"{self._outside / self._elements:.3%} of the values lie outside the grid"
        return self._grid_cause()

    def _grid_cause(self) -> tuple[str, str]:
        used = np.sort(self._reach[self._reach > 0])
        ratio = float(used[-1] / np.median(used)) if used.size >= _SPREAD_CHANNELS else 1.0
        if ratio >= _OUTLIER_RATIO:
            return "outlier_channel", f"one channel reaches {ratio:.1f} times as far as the median channel"
        scale = self._pair.scale if self._pair is not None else None
        if scale is None:
            return "range_spread", "rounding of the output"
        levels = self._typical / self._elements / scale
        return "range_spread", f"a typical value spans {levels:.1f} levels of its grid"

    def _weight_cause(self, weights: Weights) -> tuple[str, str]:
        if weights.raised_channels:
            return "bias_overflow", f"the bias raised the weight scale of {weights.raised_channels} channels"
        if weights.outlier_ratio is not None and weights.outlier_ratio >= _OUTLIER_RATIO:
            ratio = weights.outlier_ratio
            return "outlier_channel", f"one scale for all weights, and one channel {ratio:.1f} times the median channel"
        left = _shown(self.signal, self.weights) or 0.0
        return "weight_rounding", f"the output keeps {left:.1f} dB behind rounded weights"

    def to_json(self) -> dict[str, Any]:
        return {
            "local_sqnr_db": _shown(self.signal, self.local),
            "accumulated_sqnr_db": _shown(self.signal, self.accumulated),
            "weight_sqnr_db": _shown(self.signal, self.weights),
            "kernel_sqnr_db": _shown(self.signal, self.kernel),
            "outside_share": self._outside / self._elements if self._elements else 0.0,
        }


def _power(values: Array) -> float:
    # FP32 holds squares of 1e-20 to 1e19 alone.
    flat = values.reshape(-1).astype(np.float64)
    return float(np.dot(flat, flat))


def _decibels(more: float, less: float) -> float:
    return 10 * math.log10(more / less) if less > 0 else math.inf


def _shown(signal: float, noise: float) -> float | None:
    """None where there is none of either, or where one is not finite: JSON has no infinity."""
    told = 0 < signal < math.inf and 0 < noise < math.inf
    return _decibels(signal, noise) if told else None
