"""Smaller weight ranges where rounding all weights finer gains more than clipping the largest ones loses.

A grid search for each output channel's scale, the squared error weighted by how large each column's input is.
"""

from __future__ import annotations

import numpy as np

from service.quantization.tuning.layer import Floats

_SMALLEST_FRACTION = 0.5
_CANDIDATES = 32


def clipped(matrix: Floats, steps: Floats, importance: Floats | None = None) -> Floats:
    """`matrix` [groups, outputs, columns] within the best range.

    `steps` is its present grid, [groups, outputs, 1] or one for all; `importance` is [groups, columns], the diagonal
    of the input's second moments. The largest integer of each channel stays what plain rounding makes it.
    """
    weights = np.ones(matrix.shape[::2]) if importance is None else importance
    limits = np.maximum(np.rint(np.abs(matrix).max(axis=2, keepdims=True) / steps), 1.0)
    if steps.size == 1:
        limits = limits.max(keepdims=True)
    best = np.full(steps.shape, np.inf)
    chosen = steps.astype(np.float64).copy()
    for fraction in np.linspace(1.0, _SMALLEST_FRACTION, _CANDIDATES):
        scale = steps * fraction
        error = matrix - np.rint(matrix / scale).clip(-limits, limits) * scale
        costs = np.einsum("goc,gc->go", error**2, weights)[..., None]
        cost = costs.sum(keepdims=True) if steps.size == 1 else costs
        chosen = np.where(cost < best, scale, chosen)
        best = np.minimum(cost, best)
    return matrix.clip(-limits * chosen, limits * chosen)
