"""How fast a call, or a server, is at its best: the fastest of a few bursts one after another.

A runtime's threads spin while they wait for each other, and lose a third of their speed for seconds when anything else
comes onto their cores; the best burst is what the runtime can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_WARM_UP_RUNS = 5
BURSTS = 3


def best_burst(run: Callable[[], object], rows: int, seconds: float) -> dict[str, float]:
    """Calls `run`, a batch of `rows` rows, for `seconds`: rows/s and the median time of a batch in the best burst."""
    for _ in range(_WARM_UP_RUNS):
        run()
    return max((_burst(run, rows, seconds / BURSTS) for _ in range(BURSTS)), key=_rows_per_second)


def _burst(run: Callable[[], object], rows: int, seconds: float) -> dict[str, float]:
    durations: list[float] = []
    started = now = time.perf_counter()
    while now - started < seconds:
        run()
        then, now = now, time.perf_counter()
        durations.append(now - then)
    return {
        "rows_per_second": rows * len(durations) / (now - started),
        "median_ms": float(np.median(durations)) * 1e3,
    }


def _rows_per_second(burst: dict[str, float]) -> float:
    return burst["rows_per_second"]
