"""TensorRT-RTX beside the fake TensorRT: it compiles for each shape it first meets, into a runtime cache."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from tests.fake_cuda import FakeDriver
from tests.fake_tensorrt import FakeTensorRt, FakeTrtContext, FakeTrtEngine


class FakeRuntimeCache:
    """The rows that kernels were compiled for. Looks at the CUDA context, as the real one does."""

    def __init__(self, trt: FakeTensorRtx) -> None:
        self._trt = trt
        self.kernels: set[int] = set()
        trt.caches += 1

    def __del__(self) -> None:
        self._trt.caches -= 1
        self._trt.out_of_order |= self._trt.contexts > 0

    def deserialize(self, content: bytes) -> bool:
        self._trt.driver.check("deserialize")
        try:
            self.kernels = set(json.loads(content))
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        self._trt.driver.check("serialize")
        if self._trt.serialize_fails:
            raise RuntimeError("no memory for the cache")
        return json.dumps(sorted(self.kernels)).encode()


class FakeTensorRtx(FakeTensorRt):
    """`compiled` are the rows that were compiled for; `caches` counts those alive, `out_of_order` a cache that went
    while a context was left, `general` the runs that were answered with kernels for no shape in particular.
    """

    IRuntimeCache = FakeRuntimeCache
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY=0, EAGER=1)

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__(driver)
        self.compiled: list[int] = []
        self.general = 0
        self.stream_capturable = True
        self.caches = 0
        self.out_of_order = self.serialize_fails = False
        self.takes_caches = True

    def _deserialize(self, logger: Any, data: bytes) -> FakeTrtEngine | None:
        return _Engine(self, **json.loads(data))


class _Engine(FakeTrtEngine):
    trt: FakeTensorRtx

    def create_runtime_config(self) -> _Config:
        return _Config(self.trt)

    def create_execution_context(self, strategy: Any) -> FakeTrtContext | None:
        if isinstance(strategy, _Config):
            return _Context(self, strategy.cache or FakeRuntimeCache(self.trt), strategy)
        return _Context(self, FakeRuntimeCache(self.trt), _Config(self.trt))


class _Config(SimpleNamespace):
    def __init__(self, trt: FakeTensorRtx) -> None:
        lazy = trt.DynamicShapesKernelSpecializationStrategy.LAZY
        super().__init__(trt=trt, cache=None, strategy=0, dynamic_shapes_kernel_specialization_strategy=lazy)

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self.trt)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        # Without owning it: that is for whoever made it. Contexts of a configuration allocate no memory themselves.
        assert self.strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.trt.takes_caches:
            self.cache = cache
        return bool(self.trt.takes_caches)


class _Context(FakeTrtContext):
    def __init__(self, engine: _Engine, cache: FakeRuntimeCache, config: _Config) -> None:
        super().__init__(engine)
        self._rtx = engine.trt
        self._kernels, self._compiled = cache.kernels, engine.trt.compiled
        self._lazy = config.dynamic_shapes_kernel_specialization_strategy == 0

    def is_stream_capturable(self, _stream: int) -> bool:
        return self._rtx.stream_capturable

    def execute_async_v3(self, handle: int) -> bool:
        rows = self._shape[0]
        if self._lazy:
            # They are compiled by another thread, some time.
            self._rtx.general += 1
        elif rows not in self._kernels:
            self._kernels.add(rows)
            self._compiled.append(rows)
        return super().execute_async_v3(handle)
