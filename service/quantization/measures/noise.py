"""How much noise a graph's answers hold, as a share of the signal: the squared error over the variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def noise_share(expected: Array, given: Array) -> float:
    """All noise (1) where the shape depends on the values and came out differently, or other values are not finite.

    Values that are not finite on both sides, as those that a mask makes, count for nothing.
    """
    if expected.shape != given.shape:
        return 1.0
    sound = np.isfinite(expected)
    if not np.array_equal(sound, np.isfinite(given)):
        return 1.0
    left, right = expected[sound].astype(np.float64), given[sound].astype(np.float64)
    if left.size == 0:
        return 0.0
    power, error = float(np.var(left)), float(np.mean((left - right) ** 2))
    return error / power if power > 0 else float(error > 0)


def joined(batches: Sequence[Array]) -> Array:
    """One output over several batches, laid flat where its shape depends on the values."""
    parts = [np.atleast_1d(values) for values in batches]
    if len({part.shape[1:] for part in parts}) > 1:
        parts = [part.reshape(-1) for part in parts]
    return np.concatenate(parts)
