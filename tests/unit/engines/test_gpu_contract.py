"""How tests/gpu opens engines, on a fake driver and a fake runtime: what no GPU may be needed to find out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from service.engines import tensorrt_engine
from service.engines.engine import Engine
from tests.fake_tensorrt_rtx import FakeTensorRtx
from tests.gpu import conftest
from tests.unit.engines.fake_gpu import FakeGpu, gpu, rows

__all__ = ["gpu"]


def test_an_engine_that_a_test_leaves_open_is_given_back_in_order(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = gpu.trt = FakeTensorRtx(gpu.driver)

    def load_one(path: Path, *_: object, **__: Any) -> Engine:
        return gpu.load()

    monkeypatch.setattr(tensorrt_engine, "tensorrt_module", lambda: trt)
    monkeypatch.setattr(conftest, "load_engine", load_one)
    monkeypatch.setattr(conftest, "compiled", lambda path: path)
    with conftest.opening("tensorrt") as load:
        engine = load(Path("m.onnx"))
        for _ in range(5):
            engine.infer({"x": rows(4)})
    del engine
    gc.collect()
    assert (gpu.held, trt.caches, trt.out_of_order, gpu.driver.dropped) == ((0, 0, 0, 0, 0), 0, False, 0)
