"""Every lane of a TensorRT engine is run before it serves, as far as the GPU's memory goes. On a fake driver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.errors import DeviceFailed, EngineFailed
from tests.unit.engines.fake_gpu import FakeGpu, gpu, rows

__all__ = ["gpu"]
NOTHING = (0, 0, 0, 0, 0)


def test_warming_runs_every_lane_until_it_is_captured_and_no_caller_meets_a_first_run(gpu: FakeGpu) -> None:
    engine = gpu.load(lanes=3)
    engine.warm_lanes({"x": rows(4)})
    assert (len(gpu.driver.streams), len(gpu.library.launchable)) == (3, 3)
    made, allocated = gpu.trt.contexts, gpu.driver.allocations
    with engine.lane() as first, engine.lane() as second, engine.lane() as third:
        for lane in (first, second, third):
            assert np.array_equal(lane.run({"x": rows(4, 7)}, 0, ["y"])["y"], 2 * rows(4, 7))
    assert (gpu.trt.contexts, gpu.driver.allocations, gpu.library.launches) == (made, allocated, 3)


def test_a_lane_without_room_is_left_for_later_and_the_others_serve(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    engine = gpu.load(lanes=3)
    engine.infer({"x": rows(8)})
    gpu.driver.size_bytes = 2 * gpu.driver.used_bytes
    engine.warm_lanes({"x": rows(8)})
    (warning,) = [record for record in caplog.records if "not every lane" in record.message]
    assert (warning.warmed, warning.of) == (2, 3)  # type: ignore[attr-defined]
    assert "0 are free" in warning.reason  # type: ignore[attr-defined]
    with engine.lane() as first, engine.lane() as second:
        for lane in (first, second):
            assert np.array_equal(lane.run({"x": rows(8)}, 0, ["y"])["y"], 2 * rows(8))
    engine.close()
    assert gpu.held == NOTHING


def test_an_engine_without_room_for_one_lane_cannot_be_warmed(gpu: FakeGpu) -> None:
    engine = gpu.load()
    gpu.driver.size_bytes = 100
    with pytest.raises(EngineFailed, match="of whose 100 bytes 100 are free"):
        engine.warm_lanes({"x": rows(8)})


def test_a_device_error_while_warming_loses_the_engine(gpu: FakeGpu) -> None:
    engine = gpu.load()
    engine.infer({"x": rows(1)})
    gpu.driver.failing = {"synchronize"}
    with pytest.raises(DeviceFailed):
        engine.warm_lanes({"x": rows(1)})
    gpu.driver.failing = set()
    with pytest.raises(DeviceFailed):
        engine.infer({"x": rows(1)})


def test_batches_that_meet_the_warming_are_answered_after_it(gpu: FakeGpu) -> None:
    engine = gpu.load()
    with ThreadPoolExecutor(4) as pool:
        warmings = [pool.submit(engine.warm_lanes, {"x": rows(8)}) for _ in range(4)]
        answers = [pool.submit(engine.infer, {"x": rows(3, first)}) for first in range(40)]
    assert [warming.result() for warming in warmings] == [None] * 4
    for first, answer in enumerate(answers):
        assert np.array_equal(answer.result()["y"], 2 * rows(3, first))
