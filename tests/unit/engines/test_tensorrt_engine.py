"""What a TensorRT engine does with memory, streams and errors, on a fake driver and a fake runtime.

These prove the buffer logic alone; that TensorRT answers right is for tests/gpu, on a device.
"""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.engines.cuda_memory import loading
from service.errors import DeviceFailed, EngineFailed, InvalidTensor
from tests.fake_tensorrt import ACTIVATION_BYTES, plan
from tests.unit.engines.fake_gpu import FakeGpu, gpu, rows

__all__ = ["gpu"]
NOTHING = (0, 0, 0, 0, 0)


def test_it_tells_the_engines_tensors_and_what_its_profiles_take(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, found=True, profiles=2))
    assert engine.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert engine.outputs == (TensorSpec("y", "FP32", (-1, 4)), TensorSpec("found", "INT64", (-1,)))
    assert [profile.most["x"] for profile in engine.profiles] == [(8, 4), (16, 4)]


def test_rows_of_every_size_are_answered_in_their_callers_memory(gpu: FakeGpu) -> None:
    engine = gpu.load()
    answers = [engine.infer({"x": rows(count)})["y"] for count in (1, 3, 8, 2)]
    for count, answer in zip((1, 3, 8, 2), answers, strict=True):
        assert np.array_equal(answer, 2 * rows(count))


def test_buffers_are_allocated_once_for_equal_and_smaller_batches(gpu: FakeGpu) -> None:
    engine = gpu.load()
    engine.infer({"x": rows(8)})
    before = gpu.driver.allocations
    for count in (8, 4, 1, 8):
        engine.infer({"x": rows(count)})
    assert gpu.driver.allocations == before == 3
    assert gpu.driver.used_bytes == 1024 + 2 * 256
    assert gpu.driver.used_bytes > ACTIVATION_BYTES


def test_copy_in_compute_and_copy_out_are_queued_in_this_order_and_waited_for_once(gpu: FakeGpu) -> None:
    gpu.load().infer({"x": rows(2)})
    assert [name for _, name in gpu.driver.ran] == ["in", "compute", "out"]


def test_two_batches_at_once_go_through_two_streams(gpu: FakeGpu) -> None:
    engine = gpu.load()
    with engine.lane() as first:
        first.stage({"x": rows(2)}, 0)
        first.launch()
        with ThreadPoolExecutor(1) as other:
            beside = other.submit(engine.infer, {"x": rows(3, 50.0)}).result(10)
        assert np.array_equal(beside["y"], 2 * rows(3, 50.0))
        assert np.array_equal(first.collect(["y"])["y"], 2 * rows(2))
    assert len({stream for stream, _ in gpu.driver.ran}) == 2


def test_a_third_batch_waits_for_a_lane(gpu: FakeGpu) -> None:
    engine = gpu.load(lanes=1)
    third = Thread(target=engine.infer, args=[{"x": rows(1)}])
    with engine.lane() as lane:
        third.start()
        lane.stage({"x": rows(2)}, 0)
        lane.launch()
        assert np.array_equal(lane.collect(["y"])["y"], 2 * rows(2))
    third.join(10)
    assert not third.is_alive()
    assert len(gpu.driver.streams) == 1


def test_many_threads_each_get_their_own_answers(gpu: FakeGpu) -> None:
    engine = gpu.load()
    batches = [rows(1 + seed % 8, 100.0 * seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda batch: engine.infer({"x": batch})["y"], batches))
    for batch, answer in zip(batches, answers, strict=True):
        assert np.array_equal(answer, 2 * batch)


def test_a_shape_that_repeats_is_captured_once_and_launched_as_a_graph(gpu: FakeGpu) -> None:
    engine = gpu.load()
    for first in range(6):
        assert np.array_equal(engine.infer({"x": rows(4, first)})["y"], 2 * rows(4, first))
    assert gpu.library.launches == 3
    assert (len(gpu.library.launchable), len(gpu.library.graphs)) == (1, 0)


def test_a_buffer_that_moves_takes_the_graphs_that_point_to_it_along(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(1024))
    for _ in range(4):
        engine.infer({"x": rows(4)})
    assert len(gpu.library.launchable) == 1
    assert np.array_equal(engine.infer({"x": rows(1000)})["y"], 2 * rows(1000))
    assert len(gpu.library.launchable) == 0
    assert np.array_equal(engine.infer({"x": rows(4, 9)})["y"], 2 * rows(4, 9))


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]
)
def test_where_a_graph_fails_the_shape_goes_on_without(gpu: FakeGpu, call: str) -> None:
    gpu.library.failing = {call}
    engine = gpu.load()
    for first in range(8):
        assert np.array_equal(engine.infer({"x": rows(4, first)})["y"], 2 * rows(4, first))
    assert (gpu.library.launches, gpu.library.launchable, gpu.library.graphs) == (0, {}, {})


def test_an_engine_that_cannot_be_captured_is_not_asked_a_second_time(gpu: FakeGpu) -> None:
    gpu.trt.capturable = False
    engine = gpu.load()
    for first in range(8):
        assert np.array_equal(engine.infer({"x": rows(4, first)})["y"], 2 * rows(4, first))
    assert gpu.library.launchable == {}
    assert gpu.trt.contexts == 1


def test_a_capture_waits_for_no_load_and_is_made_up_for_once_that_is_over(gpu: FakeGpu) -> None:
    engine = gpu.load()
    holding, over = Event(), Event()

    def load_another() -> None:
        with loading:
            holding.set()
            over.wait(20)

    thread = Thread(target=load_another)
    thread.start()
    holding.wait(20)
    for _ in range(5):
        engine.infer({"x": rows(4)})
    assert gpu.library.launchable == {}
    over.set()
    thread.join()
    engine.infer({"x": rows(4)})
    assert len(gpu.library.launchable) == 1


def test_graphs_are_bounded_however_many_shapes_come(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(64))
    engine.infer({"x": rows(64)})
    for count in range(1, 65):
        for _ in range(4):
            engine.infer({"x": rows(count)})
    assert len(gpu.library.launchable) == 16


def test_outputs_whose_shape_the_data_decides_are_given_memory_while_the_engine_runs(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, found=True))
    for places in ([3], [], [0, 5, 7], list(range(32))):
        batch = np.zeros((8, 4), np.float32)
        batch.reshape(-1)[places] = 1
        answer = engine.infer({"x": batch})
        assert answer["found"].tolist() == places
        assert np.array_equal(answer["y"], 2 * batch)
    assert gpu.library.launchable == {}


def test_an_output_allocator_is_lent_once_however_many_batches_come(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, found=True, profiles=2), lanes=1)
    for count in (4, 9, 4, 9, 4):
        engine.infer({"x": rows(count)})
    assert gpu.trt.allocators_kept == 2


def test_memory_refused_to_such_an_output_fails_the_batch_with_the_need(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(64, found=True))
    empty = np.zeros((64, 4), np.float32)
    engine.infer({"x": empty})
    gpu.driver.size_bytes = gpu.driver.used_bytes
    with pytest.raises(EngineFailed, match="needs 2048 more bytes"):
        engine.infer({"x": empty + 1})
    assert engine.infer({"x": empty})["found"].size == 0


def test_only_asked_for_outputs_are_copied(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, found=True))
    assert engine.infer({"x": rows(1)}, ["found"]).keys() == {"found"}
    assert [name for _, name in gpu.driver.ran].count("out") == 1


def test_a_batch_over_every_profile_is_the_callers_error_and_names_the_limit(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, profiles=2))
    assert np.array_equal(engine.infer({"x": rows(16)})["y"], 2 * rows(16))
    for count in (17, 0):
        with pytest.raises(InvalidTensor, match=rf"'x' has shape \[{count}, 4\], .* built for 1 to 16 rows; send"):
            engine.infer({"x": rows(count)})
    assert gpu.trt.contexts == 1


def test_each_profile_has_a_context_of_its_own(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, profiles=2))
    for count in (8, 16, 8, 16):
        assert np.array_equal(engine.infer({"x": rows(count)})["y"], 2 * rows(count))
    assert gpu.trt.contexts == 2


def test_a_wrong_shape_a_missing_input_and_an_unknown_output_are_refused(gpu: FakeGpu) -> None:
    engine = gpu.load()
    with pytest.raises(EngineFailed, match=r"failed on this batch: input 'x' has shape \[1, 5\]"):
        engine.infer({"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(EngineFailed, match="lacks input, or the model output, 'x'"):
        engine.infer({})
    with pytest.raises(EngineFailed, match="'z'"):
        engine.infer({"x": rows(1)}, ["z"])


def test_a_batch_that_tensorrt_refuses_fails_alone(gpu: FakeGpu) -> None:
    engine = gpu.load()
    gpu.trt.enqueues = False
    with pytest.raises(EngineFailed, match="TensorRT failed on this batch"):
        engine.infer({"x": rows(1)})
    gpu.trt.enqueues = True
    assert np.array_equal(engine.infer({"x": rows(1)})["y"], 2 * rows(1))


def test_a_device_error_loses_the_engine_for_good_and_no_later_batch_reaches_the_device(gpu: FakeGpu) -> None:
    engine = gpu.load()
    engine.infer({"x": rows(1)})
    gpu.driver.failing = {"synchronize"}
    with pytest.raises(DeviceFailed, match="illegal memory access"):
        engine.infer({"x": rows(1)})
    gpu.driver.failing = set()
    ran = len(gpu.driver.ran)
    with pytest.raises(DeviceFailed, match="illegal memory access"):
        engine.infer({"x": rows(1)})
    assert len(gpu.driver.ran) == ran


def test_a_lost_engine_closes_without_raising_and_no_destructor_reaches_the_device(gpu: FakeGpu) -> None:
    engine = gpu.load()
    engine.infer({"x": rows(1)})
    gpu.driver.failing = {"synchronize", "free", "memcpy"}
    with pytest.raises(DeviceFailed):
        engine.infer({"x": rows(1)})
    engine.close()
    del engine
    gc.collect()
    assert gpu.trt.contexts == gpu.driver.dropped == 0


def test_a_full_device_fails_the_batch_and_not_the_engine(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(1024))
    engine.infer({"x": rows(1)})
    gpu.driver.size_bytes = gpu.driver.used_bytes
    with pytest.raises(EngineFailed, match="send fewer rows, or deploy fewer engines"):
        engine.infer({"x": rows(1000)})
    assert np.array_equal(engine.infer({"x": rows(1)})["y"], 2 * rows(1))


def test_a_closed_engine_has_given_everything_back_and_says_so(gpu: FakeGpu) -> None:
    engine = gpu.load(plan(8, found=True, profiles=2))
    for _ in range(5):
        engine.infer({"x": rows(8)})
    assert min(gpu.held[:4]) > 0
    engine.close()
    engine.close()
    assert gpu.held == NOTHING
    with pytest.raises(EngineFailed, match="closed"):
        engine.infer({"x": rows(1)})


def test_a_thousand_loads_leave_nothing_behind(gpu: FakeGpu) -> None:
    for turn in range(1000):
        engine = gpu.load(plan(8, found=turn % 2 == 0))
        for _ in range(4):
            engine.infer({"x": rows(1 + turn % 8)})
        engine.close()
    assert gpu.held == NOTHING


@pytest.mark.parametrize("content", [b"", b"not an engine"])
def test_a_damaged_plan_is_refused_in_tensorrts_words_with_the_next_step(gpu: FakeGpu, content: bytes) -> None:
    with pytest.raises(
        EngineFailed, match=r"tensorrt 11\.4\.0\.106 cannot load engine\.plan .*kMAGIC_TAG failed.*quantize again"
    ):
        gpu.load(content)
    assert gpu.held == NOTHING
