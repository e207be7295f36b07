"""An engine for faults and timing: it blocks, fails or miscounts when a test says so, and notes every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event, Lock, get_ident

import numpy as np

from service.domain.inference import Array
from service.domain.tensor import TensorSpec
from service.errors import DeviceFailed, EngineFailed

ROW = TensorSpec("x", "FP32", (-1, 2))
SUM = TensorSpec("y", "FP32", (-1, 1))
WAIT_SECONDS = 10.0


class FakeEngine:
    """Answers the sum of each row of `x`, as `y` [rows, 1]. A row that begins with `poison` fails its batch."""

    def __init__(self, inputs: Sequence[TensorSpec] = (ROW,), outputs: Sequence[TensorSpec] = (SUM,)) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.gate = Event()
        self.gate.set()
        self.running = Event()
        self.batches: list[list[float]] = []
        self.threads: set[int] = set()
        self.poison = float("nan")
        self.bias = 0.0
        self.extra_rows = 0
        self.closed = False
        self.device_lost = False
        self.inside = 0
        self._lock = Lock()

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        with self._lock:
            self.inside += 1
        self.running.set()
        try:
            return self._infer(inputs)
        finally:
            with self._lock:
                self.inside -= 1

    def _infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self.gate.wait(WAIT_SECONDS), "the test never opened the gate"
        assert not self.closed, "the engine was used after it was closed"
        rows = inputs["x"].reshape(len(inputs["x"]), -1)
        if self.device_lost:
            raise DeviceFailed("the GPU failed: an illegal memory access; restart the server")
        self.threads.add(get_ident())
        self.batches.append([float(row[0]) for row in rows])
        if (rows[:, 0] == self.poison).any():
            raise EngineFailed("a row is poisoned")
        sums = rows.sum(axis=1, keepdims=True) + np.float32(self.bias)
        return {"y": np.concatenate([sums, np.zeros((self.extra_rows, 1), np.float32)])}

    def close(self) -> None:
        self.closed = True

    def block(self) -> None:
        """Makes the next run wait for `gate`; `running` tells when one has begun."""
        self.running.clear()
        self.gate.clear()


def row(value: float) -> dict[str, Array]:
    """One row whose sum is `value` and that begins with it."""
    return {"x": np.array([[value, 0]], np.float32)}


def rows(*values: float) -> dict[str, Array]:
    return {"x": np.array([[value, 0] for value in values], np.float32)}
