"""TensorRT engines on a fake driver and a fake runtime, for what they do with memory and streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from service.engines import tensorrt_bindings, tensorrt_engine
from service.engines.cuda_graph import CudaGraphs
from service.engines.cuda_memory import CudaContext
from service.engines.engine import Array
from service.engines.runtime_cache import CacheStore
from service.engines.tensorrt_engine import TensorRtEngine
from service.engines.tensorrt_outputs import _allocator_class
from tests.fake_cuda import FakeDriver, FakeGraphLibrary
from tests.fake_tensorrt import WIDTH, FakeTensorRt, plan


@dataclass
class FakeGpu:
    driver: FakeDriver
    trt: FakeTensorRt
    library: FakeGraphLibrary
    cuda: CudaContext

    def load(
        self,
        content: bytes | None = None,
        lanes: int = 2,
        weights: bytes | None = None,
        kernels: CacheStore | None = None,
    ) -> TensorRtEngine:
        content = plan() if content is None else content
        return TensorRtEngine.from_plan((content, weights), "engine.plan", self.cuda, lanes, kernels)

    @property
    def held(self) -> tuple[int, int, int, int, int]:
        """Device bytes, pinned arrays, streams, execution contexts and graphs that somebody holds now."""
        graphs = len(self.library.launchable) + len(self.library.graphs)
        return self.driver.used_bytes, len(self.driver.pinned), len(self.driver.streams), self.trt.contexts, graphs


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    driver = FakeDriver()
    trt, library = FakeTensorRt(driver), FakeGraphLibrary(driver)
    monkeypatch.setattr(tensorrt_engine, "tensorrt_module", lambda: trt)
    monkeypatch.setattr(tensorrt_bindings, "tensorrt_flavour", lambda: ("tensorrt", trt.__version__))
    monkeypatch.setattr(tensorrt_engine, "cuda_graphs", lambda: CudaGraphs(library))
    _allocator_class.cache_clear()
    yield FakeGpu(driver, trt, library, CudaContext(driver))
    _allocator_class.cache_clear()


def rows(count: int, first: float = 1.0) -> Array:
    return np.arange(first, first + count * WIDTH, dtype=np.float32).reshape(count, WIDTH)
