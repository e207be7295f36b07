"""Buffers on a fake driver: what is allocated, when it grows, and that it is given back. No GPU takes part."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Event, Thread
from types import SimpleNamespace

import numpy as np
import pytest

from service.engines import cuda_memory
from service.engines.cuda_memory import CudaContext, DeviceBuffer, PinnedBuffer, free_device_bytes, grown
from service.errors import DeviceFailed, EngineFailed, Unsupported
from tests.fake_cuda import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(size_bytes=10_000)


@pytest.fixture
def cuda(driver: FakeDriver) -> CudaContext:
    return CudaContext(driver)


def test_a_buffer_that_climbs_slowly_is_allocated_a_few_times_only(driver: FakeDriver, cuda: CudaContext) -> None:
    buffer = DeviceBuffer(cuda)
    with cuda.active():
        moves = [size for size in range(1, 4097) if buffer.reserve(size)]
    assert moves == [1, 257, 513, 1025, 2049]
    assert driver.used_bytes == buffer.capacity == 4096


@pytest.mark.parametrize(("capacity", "needed", "wanted"), [(0, 1000, 1024), (256, 257, 512), (512, 5000, 5120)])
def test_capacity_is_what_is_needed_and_at_least_twice_what_was(capacity: int, needed: int, wanted: int) -> None:
    assert grown(capacity, needed) == wanted


def test_where_double_does_not_fit_exactly_what_is_needed_is_tried(driver: FakeDriver, cuda: CudaContext) -> None:
    buffer = DeviceBuffer(cuda)
    with cuda.active():
        buffer.reserve(6144)
        assert buffer.reserve(6200)
    assert driver.used_bytes == 6200


def test_too_little_memory_is_told_with_the_need_and_the_free_bytes_and_costs_no_later_batch(
    driver: FakeDriver, cuda: CudaContext
) -> None:
    buffer = DeviceBuffer(cuda)
    with cuda.active():
        buffer.reserve(256)
    refusal = r"needs 20000 more bytes .* of whose 10000 bytes 10000 are free; send fewer"
    with pytest.raises(EngineFailed, match=refusal), cuda.active():
        buffer.reserve(20_000)
    with cuda.active():
        assert buffer.reserve(256)
        assert buffer.pointer


def test_the_free_bytes_are_told_and_nothing_where_they_cannot_be(
    driver: FakeDriver, cuda: CudaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_memory, "cuda_context", lambda: cuda)
    with cuda.active():
        DeviceBuffer(cuda).reserve(4096)
    assert free_device_bytes() == 10_000 - 4096
    driver.pop_fails = True
    assert free_device_bytes() is None

    def missing() -> CudaContext:
        raise Unsupported("pycuda cannot be imported; install it")

    monkeypatch.setattr(cuda_memory, "cuda_context", missing)
    assert free_device_bytes() is None


def test_pinned_memory_grows_and_is_given_back(driver: FakeDriver, cuda: CudaContext) -> None:
    buffer = PinnedBuffer(cuda)
    with cuda.active():
        assert buffer.view(10).shape == (10,)
        buffer.view(10)[:] = 7
        assert np.array_equal(buffer.view(4), [7] * 4)
        buffer.view(300)
        assert (buffer.capacity, len(driver.pinned)) == (512, 1)
        buffer.free()
        buffer.free()
    assert driver.pinned == set()


def test_a_driver_error_loses_the_device_and_the_context_is_left_all_the_same(
    driver: FakeDriver, cuda: CudaContext
) -> None:
    driver.failing = {"mem_alloc"}
    with pytest.raises(DeviceFailed, match=r"illegal memory access .*restart the server"), cuda.active():
        DeviceBuffer(cuda).reserve(1)
    assert driver.depth.value == 0
    assert driver.detached


def test_engines_that_are_loaded_at_once_share_the_processs_only_context(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)

    class SlowDriver(FakeDriver):
        def init(self) -> None:
            # Whoever is alone here goes on after a moment.
            with suppress(BrokenBarrierError):
                both.wait(0.2)

    slow = SlowDriver()
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=slow))
    monkeypatch.setitem(sys.modules, "pycuda.driver", slow)
    cuda_memory._made_context.cache_clear()
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(cuda_memory.cuda_context) for _ in range(2))
    cuda_memory._made_context.cache_clear()
    assert first.result() is second.result()


def test_every_thread_inside_leaves_a_lost_context_and_tells_the_first_reason(
    driver: FakeDriver, cuda: CudaContext
) -> None:
    inside, lost = Event(), Event()
    told: list[tuple[str, int]] = []

    def beside() -> None:
        try:
            with cuda.active():
                inside.set()
                lost.wait(20)
        except DeviceFailed as error:
            told.append((str(error), driver.depth.value))

    thread = Thread(target=beside)
    thread.start()
    inside.wait(20)
    driver.failing, driver.pop_fails = {"mem_alloc"}, True
    with pytest.raises(DeviceFailed) as first, cuda.active():
        DeviceBuffer(cuda).reserve(1)
    lost.set()
    thread.join()
    assert told == [(str(first.value), 0)]
    assert driver.depth.value == 0


def test_a_context_that_cannot_be_left_is_detached_and_never_entered_again(
    driver: FakeDriver, cuda: CudaContext
) -> None:
    driver.pop_fails = True
    with pytest.raises(DeviceFailed, match="cuCtxPopCurrent"), cuda.active():
        pass
    assert driver.detached
    with pytest.raises(DeviceFailed, match="the GPU failed: cuCtxPopCurrent"), cuda.active():
        raise AssertionError("entered a lost context")
    assert driver.depth.value == 0
