"""A TensorRT engine without weights is given them when it is loaded, or says why not. On a fake runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engines import tensorrt_engine
from service.engines.stripped_plan import write_stripped
from service.engines.tensorrt_engine import TensorRtEngine
from service.errors import DeviceFailed, EngineFailed
from tests.fake_tensorrt import graph_of, plan
from tests.unit.engines.fake_gpu import FakeGpu, gpu, rows

__all__ = ["gpu"]
NOTHING = (0, 0, 0, 0, 0)
STRIPPED = plan(stripped=("a.w", "b.w"))


def test_a_stripped_engine_is_given_its_weights_when_it_is_loaded(gpu: FakeGpu) -> None:
    engine = gpu.load(STRIPPED, weights=graph_of("a.w", "b.w", "more"))
    assert np.array_equal(engine.infer({"x": rows(3)})["y"], 2 * rows(3))
    engine.close()
    assert gpu.held == NOTHING


def test_without_them_it_would_answer_nothing(gpu: FakeGpu) -> None:
    with pytest.raises(EngineFailed, match="makes no execution context"):
        gpu.load(STRIPPED).infer({"x": rows(3)})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (graph_of("b.w"), r"its graph lacks 1 weights, for example 'a\.w'"),
        (b"no graph", "its graph is refused: Failed to parse ONNX model from byte array."),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_with_the_next_step(gpu: FakeGpu, weights: bytes, words: str) -> None:
    with pytest.raises(EngineFailed, match=rf"engine\.plan cannot be given its weights: {words}; quantize again"):
        gpu.load(STRIPPED, weights=weights)
    assert gpu.held == NOTHING


def test_weights_that_the_engine_refuses_are_told_as_such(gpu: FakeGpu) -> None:
    gpu.trt.refits = False
    with pytest.raises(EngineFailed, match="they are refused: it gave no reason; quantize again"):
        gpu.load(STRIPPED, weights=graph_of("a.w", "b.w"))


def test_a_device_that_fails_while_weights_are_put_in_is_lost(gpu: FakeGpu) -> None:
    gpu.driver.failing = {"refit"}
    with pytest.raises(DeviceFailed, match="illegal memory access"):
        gpu.load(STRIPPED, weights=graph_of("a.w", "b.w"))


def test_the_loader_reads_plan_and_weights_from_one_file(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_engine, "cuda_context", lambda: gpu.cuda)
    (tmp_path / "weights.onnx").write_bytes(graph_of("a.w", "b.w"))
    write_stripped(tmp_path / "engine.plan", STRIPPED, tmp_path / "weights.onnx")
    engine = TensorRtEngine.load(tmp_path / "engine.plan")
    assert np.array_equal(engine.infer({"x": rows(2)})["y"], 2 * rows(2))
