"""What a given noise on a model's outputs will cost in the budget's metric, before any engine is built."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from service.quantization.data.rows import Array

_DRAWS = 64
_SEED = 20
_TOP = {"top5": 5}


def predicted_loss(metric: str | None, outputs: Array, noise: float) -> float:
    """The loss of `metric` where Gaussian noise of `noise` times their variance is added to float outputs.

    Rankings of outputs [rows, scores] are lost where the noise changes the first of a row (or takes it out of the first
    five); `mae` is in the output's units; of `cosine` it is the distance from one, as it is where outputs rank nothing.
    """
    values = outputs.astype(np.float64)
    sound = values[np.isfinite(values)]
    if not sound.size:
        return 0.0
    # Scores that a mask took out are never the first.
    values = np.where(np.isfinite(values), values, sound.min())
    deviation = sqrt(max(noise, 0.0)) * float(sound.std())
    if metric == "mae":
        return deviation * sqrt(2 / pi)
    if metric == "cosine" or values.ndim != 2 or values.shape[1] < 2:
        power = float(np.mean(values**2))
        return 1 - 1 / sqrt(1 + deviation**2 / power) if power > 0 else 0.0
    kept = min(_TOP.get(metric or "", 1), values.shape[1] - 1)
    return _lost_firsts(values, deviation, kept)


def _lost_firsts(values: Array, deviation: float, kept: int) -> float:
    """The share of rows and draws in which the first score falls out of the `kept` largest."""
    random = np.random.default_rng(_SEED)
    rows = np.arange(len(values))
    first = values.argmax(axis=1)
    lost = 0
    for _ in range(_DRAWS):
        noisy = values + random.normal(0, deviation, values.shape)
        lost += int(((noisy > noisy[rows, first][:, None]).sum(axis=1) >= kept).sum())
    return lost / (len(values) * _DRAWS)
