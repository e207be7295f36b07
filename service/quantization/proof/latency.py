"""Times the engine and the reference in turn on the same batches, so that a busy moment of the host hits both alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.engines.engine import Engine
from service.engines.huge_pages import gather_in_huge_pages
from service.quantization.data.rows import Array

MIN_ROUNDS = 10
MAX_ROUNDS = 200
SECONDS_PER_BATCH_SIZE = 1.5
_WARM_ROUNDS = 2


def measure_in_turn(engines: Mapping[str, Engine], batch: dict[str, Array], rows: int) -> dict[str, dict[str, Any]]:
    """Per engine: batch size, p50, p90, p99 seconds of one batch, rows a second, and how many runs these rest on."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_WARM_ROUNDS):
        for engine in engines.values():
            engine.infer(batch)
    # As a server does before it serves.
    gather_in_huge_pages()
    deadline = time.perf_counter() + SECONDS_PER_BATCH_SIZE
    order = list(engines)
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() >= deadline:
            break
        for name in order:
            started = time.perf_counter()
            engines[name].infer(batch)
            seconds[name].append(time.perf_counter() - started)
        order.reverse()
    return {name: _summary(taken, rows) for name, taken in seconds.items()}


def _summary(taken: list[float], rows: int) -> dict[str, Any]:
    p50, p90, p99 = (float(value) for value in np.percentile(taken, (50, 90, 99)))
    return {
        "batch": rows,
        "p50_seconds": p50,
        "p90_seconds": p90,
        "p99_seconds": p99,
        "rows_per_second": rows * len(taken) / sum(taken),
        "runs": len(taken),
    }
