"""What TensorRT-RTX compiled is lent to the next load and kept after warming, and no failure of it costs an engine.

On a fake driver and a fake runtime: they prove who is given what and when, and nothing of TensorRT-RTX.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.engines import runtime_cache, tensorrt_engine
from service.engines.engine import Compiling
from service.engines.runtime_cache import CacheStore
from service.errors import DeviceFailed, EngineFailed, StoreUnavailable
from tests.fake_tensorrt_rtx import FakeTensorRtx
from tests.unit.engines.fake_gpu import FakeGpu, gpu, rows

__all__ = ["gpu"]
NOTHING = (0, 0, 0, 0, 0)


class Kept:
    """A store of one engine's kernels that lists what was written."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content
        self.written: list[bytes] = []
        self.store = CacheStore(lambda: self.content, self._write)

    def _write(self, content: bytes) -> None:
        self.written.append(content)
        self.content = content


@pytest.fixture
def rtx(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRtx:
    trt = FakeTensorRtx(gpu.driver)
    gpu.trt = trt
    monkeypatch.setattr(tensorrt_engine, "tensorrt_module", lambda: trt)
    return trt


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.message}: {record.__dict__.get('reason')}" for record in caplog.records]


def test_what_one_load_compiled_the_next_is_given_before_it_runs(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    kept = Kept()
    for _ in range(2):
        engine = gpu.load(kernels=kept.store)
        assert isinstance(engine, Compiling)
        for count in (8, 2):
            engine.warm_lanes({"x": rows(count)})
        engine.keep_compiled()
        assert np.array_equal(engine.infer({"x": rows(2)})["y"], 2 * rows(2))
        engine.close()
    assert rtx.compiled == [8, 2]
    assert kept.written == [b"[2, 8]"]


def test_what_is_stored_already_is_not_stored_again_and_what_came_since_is(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    kept = Kept()
    engine = gpu.load(kernels=kept.store)
    for count in (4, 4, 3):
        engine.infer({"x": rows(count)})
        engine.keep_compiled()
    assert kept.written == [b"[4]", b"[3, 4]"]


def test_all_lanes_and_their_graphs_share_one_cache(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    engine = gpu.load(lanes=3, kernels=Kept().store)
    engine.warm_lanes({"x": rows(4)})
    assert rtx.contexts == 6
    assert (rtx.caches, rtx.compiled) == (1, [4])


@pytest.mark.parametrize("content", [b"", b"\xff damaged"])
def test_a_damaged_cache_is_logged_compiled_anew_and_replaced(
    gpu: FakeGpu, rtx: FakeTensorRtx, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    kept = Kept(content)
    engine = gpu.load(kernels=kept.store)
    assert np.array_equal(engine.infer({"x": rows(3)})["y"], 2 * rows(3))
    engine.keep_compiled()
    assert reasons(caplog)[0].startswith("stored kernels are not used; they are compiled again: TensorRT-RTX refuses")
    assert kept.written == [b"[3]"]


def unreachable(*_: object) -> Any:
    raise StoreUnavailable("the store failed")


@pytest.mark.parametrize("error", [unreachable, lambda *_: 1 / 0])
def test_a_store_out_of_reach_costs_no_engine(
    gpu: FakeGpu, rtx: FakeTensorRtx, caplog: pytest.LogCaptureFixture, error: Callable[..., Any]
) -> None:
    engine = gpu.load(kernels=CacheStore(error, error))
    assert np.array_equal(engine.infer({"x": rows(3)})["y"], 2 * rows(3))
    engine.keep_compiled()
    told = [reason.split(":")[0] for reason in reasons(caplog)]
    assert told == ["stored kernels are not used; they are compiled again", "compiled kernels are not stored"]


def test_a_runtime_that_takes_or_gives_no_cache_costs_no_engine(
    gpu: FakeGpu, rtx: FakeTensorRtx, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(b"[3]")
    rtx.serialize_fails = True
    engine = gpu.load(kernels=kept.store)
    engine.infer({"x": rows(1)})
    engine.keep_compiled()
    rtx.takes_caches = False
    engine = gpu.load(kernels=kept.store)
    assert np.array_equal(engine.infer({"x": rows(3)})["y"], 2 * rows(3))
    engine.keep_compiled()
    assert reasons(caplog) == [
        "compiled kernels are not stored: RuntimeError: no memory for the cache",
        "this engine's kernels are not kept: TensorRT-RTX refuses the cache",
    ]
    assert kept.written == []


def test_a_cache_over_the_bound_is_not_stored(
    gpu: FakeGpu, rtx: FakeTensorRtx, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_cache, "MAX_RUNTIME_CACHE_BYTES", 3)
    kept = Kept()
    engine = gpu.load(kernels=kept.store)
    for count in (4, 3):
        engine.infer({"x": rows(count)})
        engine.keep_compiled()
    assert kept.written == [b"[4]"]
    assert reasons(caplog) == ["compiled kernels are not stored: over the limit of 3 bytes"]


def test_tensorrt_proper_is_left_as_it_is(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(b"[3]")
    with caplog.at_level(logging.DEBUG):
        engine = gpu.load(kernels=kept.store)
        engine.infer({"x": rows(3)})
        engine.keep_compiled()
    assert (kept.written, reasons(caplog)) == ([], [])


def test_without_a_store_all_lanes_share_what_was_compiled_all_the_same(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    engine = gpu.load()
    engine.warm_lanes({"x": rows(3)})
    engine.keep_compiled()
    assert (rtx.compiled, rtx.caches) == ([3], 1)
    engine.close()
    assert (gpu.held, rtx.caches) == (NOTHING, 0)


@pytest.mark.parametrize("store", [None, Kept().store])
def test_no_answer_waits_for_better_kernels_behind_its_back(
    gpu: FakeGpu, rtx: FakeTensorRtx, store: CacheStore | None
) -> None:
    engine = gpu.load(kernels=store)
    for _ in range(8):
        engine.infer({"x": rows(3)})
    assert rtx.general == 0


def test_work_that_tensorrt_rtx_cannot_have_captured_is_not(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    rtx.stream_capturable = False
    engine = gpu.load()
    for _ in range(8):
        assert np.array_equal(engine.infer({"x": rows(3)})["y"], 2 * rows(3))
    assert gpu.library.launchable == {}


def test_the_cache_goes_after_every_context_also_of_a_lost_gpu(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    engine = gpu.load(lanes=3, kernels=Kept().store)
    engine.warm_lanes({"x": rows(4)})
    engine.close()
    assert (gpu.held, rtx.caches, rtx.out_of_order) == (NOTHING, 0, False)
    lost = gpu.load(kernels=Kept().store)
    lost.infer({"x": rows(1)})
    gpu.driver.failing = {"synchronize", "free", "memcpy"}
    with pytest.raises(DeviceFailed):
        lost.infer({"x": rows(1)})
    with pytest.raises(DeviceFailed):
        lost.keep_compiled()
    lost.close()
    assert (rtx.contexts, rtx.caches, rtx.out_of_order) == (0, 0, False)


def test_a_closed_engine_keeps_nothing(gpu: FakeGpu, rtx: FakeTensorRtx) -> None:
    kept = Kept()
    engine = gpu.load(kernels=kept.store)
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.keep_compiled()
    assert kept.written == []
