"""BentoML: one service process, its adaptive batching on."""

from __future__ import annotations

import bentoml
import numpy as np
from bench_session import MAX_BATCH, BenchSession


@bentoml.service(workers=1, traffic={"timeout": 30})
class Service:
    """An array in JSON in, an array in JSON out."""

    def __init__(self) -> None:
        self._session = BenchSession()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run(rows.astype(np.float32))
