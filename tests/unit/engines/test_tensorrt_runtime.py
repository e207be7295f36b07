"""The real runtime as far as it goes without a GPU: what it says of a file, and that it takes our log and allocator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.engines.cuda_memory import CudaContext, DeviceBuffer
from service.engines.tensorrt_bindings import deserialized
from service.engines.tensorrt_import import tensorrt_flavour, tensorrt_module
from service.engines.tensorrt_outputs import OutputMemory, output_allocator
from service.errors import EngineFailed, Unsupported
from tests.fake_cuda import FakeDriver
from tests.served_models import write_linear


@pytest.fixture
def trt() -> Any:
    try:
        return tensorrt_module()
    except Unsupported as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("content", [b"short", b"not an engine" * 100])
def test_a_damaged_plan_is_refused_in_the_runtimes_own_words(trt: Any, content: bytes) -> None:
    said = rf"cannot load engine\.plan \({len(content)} bytes\): .*Error Code .*: quantize again"
    with pytest.raises(EngineFailed, match=said):
        deserialized(trt, content, "engine.plan")


def test_an_onnx_file_is_no_plan(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="cannot load"):
        deserialized(trt, write_linear(tmp_path / "m.onnx").read_bytes(), "m.onnx")


def test_tensorrt_rtx_has_the_calls_that_keep_its_kernels_and_tensorrt_proper_no_cache(trt: Any) -> None:
    if not hasattr(trt, "IRuntimeCache"):
        assert tensorrt_flavour()[0] == "tensorrt"
        return
    assert callable(trt.ICudaEngine.create_runtime_config)
    for name in ("create_runtime_cache", "set_runtime_cache", "set_execution_context_allocation_strategy"):
        assert callable(getattr(trt.IRuntimeConfig, name))
    for name in ("serialize", "deserialize"):
        assert callable(getattr(trt.IRuntimeCache, name))
    assert "runtime_config" in trt.ICudaEngine.create_execution_context.__doc__


def test_the_allocator_is_one_that_the_runtime_takes_and_stays_the_same(trt: Any) -> None:
    cuda = CudaContext(FakeDriver())
    memory = OutputMemory(DeviceBuffer(cuda))
    allocator = output_allocator(trt, memory)
    assert isinstance(allocator, trt.IOutputAllocator)
    assert output_allocator(trt, memory) is allocator
    allocator.notify_shape("y", trt.Dims((3, 4)))
    assert memory.shape == (3, 4)
    with cuda.active():
        assert allocator.reallocate_output_async("y", 0, 100, 256, 1) == memory.buffer.pointer > 0
