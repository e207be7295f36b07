"""Engine and reference are timed in turn, in the same moments and as often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.engines.engine import Array, Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.measures.residency import loaded_with_growth
from service.quantization.proof.latency import measure_in_turn
from tests.large_memory import BYTES, fresh_memory, kernel_bytes, needs_huge_pages
from tests.unit.quantization.small_models import images, relu_model, saved


class Logged:
    """An engine that writes its name down at each run; the clock below moves as it says."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, name: str, log: list[str], seconds: float, clock: list[float]) -> None:
        self._name, self._log, self._seconds, self._clock = name, log, seconds, clock

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self._log.append(self._name)
        self._clock[0] += self._seconds
        return {}

    def close(self) -> None:
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("service.quantization.proof.latency.time.perf_counter", lambda: now[0])
    return now


def test_both_run_equally_often_and_each_goes_first_every_other_time(clock: list[float]) -> None:
    log: list[str] = []
    engines: dict[str, Engine] = {"a": Logged("a", log, 0.001, clock), "b": Logged("b", log, 0.004, clock)}
    found = measure_in_turn(engines, {}, 8)
    timed = log[4:]
    assert timed[:6] == ["a", "b", "b", "a", "a", "b"]
    assert found["a"]["runs"] == found["b"]["runs"] == 200
    assert found["a"]["p50_seconds"] == pytest.approx(0.001)
    assert found["b"]["p99_seconds"] == pytest.approx(0.004)
    assert found["b"]["rows_per_second"] == pytest.approx(8 / 0.004)
    assert found["b"]["batch"] == 8


def test_slow_engines_get_fewer_runs_but_never_under_ten(clock: list[float]) -> None:
    engines: dict[str, Engine] = {"slow": Logged("slow", [], 5.0, clock)}
    assert measure_in_turn(engines, {}, 1)["slow"]["runs"] == 10


@needs_huge_pages
def test_engines_are_timed_in_huge_pages_as_they_will_serve(clock: list[float]) -> None:
    memory = fresh_memory()
    memory[:] = 1
    timed: list[int] = []

    class Watched(Logged):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            timed.append(kernel_bytes(memory, "AnonHugePages"))
            return super().infer(inputs)

    measure_in_turn({"a": Watched("a", [], 1.0, clock)}, {}, 1)
    assert timed[2:] == [BYTES] * 10


def test_a_loaded_engine_is_seen_to_take_memory(tmp_path: Path) -> None:
    path = saved(relu_model(("batch", 3, 8, 8)), tmp_path / "m.onnx")
    kept: list[Array] = []

    def run(engine: Engine) -> None:
        engine.infer({"x": images(2)})
        kept.append(np.ones(2_000_000))

    engine, growth = loaded_with_growth(lambda: OnnxRuntimeEngine.load(path, 1), run)
    assert engine.inputs[0].name == "x"
    assert growth is None or growth > 8_000_000
