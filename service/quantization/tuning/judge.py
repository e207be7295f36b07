"""Scores a quantized graph, simulated in float, against the float one on rows that no step has learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.measures.noise import joined, noise_share
from service.quantization.measures.simulation import simulated
from service.quantization.tuning.layer import Array, Floats

# What a graph without any error scores, so that scores stay numbers.
_BEST_DECIBELS = 200.0


@dataclass(frozen=True)
class Score:
    """Signal to quantization noise in dB, the mean over outputs of their noise shares; and for outputs of scores, the
    share of rows whose largest one is the float model's.
    """

    sqnr_db: float
    agreement: float | None

    def __str__(self) -> str:
        share = "" if self.agreement is None else f", agreement {self.agreement:.1%}"
        return f"{self.sqnr_db:.1f} dB{share}"


class Judge:
    """Holds the float model's answers on the held rows."""

    def __init__(self, reference: OnnxRuntimeEngine, batches: Sequence[dict[str, Array]], threads: int) -> None:
        self._batches = batches
        self._threads = threads
        self._expected = self._answers(reference)

    def score(self, model: ModelProto) -> Score:
        given = self._answers(simulated(model, self._threads))
        noise = [noise_share(expected, answer) for expected, answer in zip(self._expected, given, strict=True)]
        mean = sum(noise) / max(1, len(noise))
        decibels = _BEST_DECIBELS if mean <= 0 else min(_BEST_DECIBELS, -10 * math.log10(mean))
        return Score(decibels, _agreement(self._expected, given))

    def _answers(self, engine: Engine) -> list[Floats]:
        """Every floating-point output over all rows."""
        parts = [list(engine.infer(batch).values()) for batch in self._batches]
        return [joined(values).astype(np.float64) for values in zip(*parts, strict=True) if values[0].dtype.kind == "f"]


def _agreement(expected: list[Floats], given: list[Floats]) -> float | None:
    """Of the first output with rows of several scores."""
    for wanted, got in zip(expected, given, strict=True):
        if wanted.ndim == 2 and wanted.shape[1] > 1 and wanted.shape == got.shape:
            return float((wanted.argmax(axis=1) == got.argmax(axis=1)).mean())
    return None
