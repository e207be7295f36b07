"""Milliseconds of one batch on the GPU, from events that the device itself records around it: no copy, no Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.errors import CannotMeasure
from benchmarks.gpu_figures import Times
from benchmarks.gpu_plans import shape_for
from service.domain.tensor import TensorSpec
from service.engines.cuda_memory import cuda_context
from service.engines.engine import Array
from service.engines.onnxruntime_engine import session_options, tensor_spec
from service.engines.onnxruntime_gpu_engine import cuda_options
from service.engines.tensorrt_engine import TensorRtEngine

_WARM_RUNS = 10
# A measurement covers so many batches between its two events that their own cost vanishes.
_RUNS = 20


def time_tensorrt(plan: Path, batches: tuple[int, ...], rounds: int, times: Times) -> None:
    """Puts milliseconds a batch of each size, one figure a round, into `times`: what it has when one fails stays.

    CUDA graphs are captured as in serving.
    """
    engine = TensorRtEngine.load(plan)
    try:
        for rows in batches:
            times[rows] = _time_lane(engine, _feed(engine.inputs, rows), rounds)
    finally:
        engine.close()


def _time_lane(engine: TensorRtEngine, feed: dict[str, Array], rounds: int) -> list[float]:
    with engine.lane() as lane:
        lane.stage(feed, 0)
        return _rounds(lane.launch, lane.stream, rounds)


def time_onnxruntime(graph: Path, batches: tuple[int, ...], tf32: bool, rounds: int, times: Times) -> None:
    """As `time_tensorrt`, by the CUDA provider on a stream of ours, inputs and outputs bound to the device."""
    cuda, failure = cuda_context(), ""
    with cuda.active():
        stream = cuda.stream()
        options = cuda_options(tf32) | {"user_compute_stream": str(stream.handle)}
        try:
            session = cuda_session(graph, options)
            inputs = [tensor_spec(node) for node in session.get_inputs()]
            for rows in batches:
                times[rows] = _rounds(_bound(session, _feed(inputs, rows)), stream, rounds)
        except cuda.driver.Error:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own have no class in common
            # Words alone: an error that is passed on keeps the session beyond the stream that it runs on.
            failure = str(error)
        session = None
        del stream
    if failure:
        raise CannotMeasure(failure)


def cuda_session(graph: Path, options: dict[str, str]) -> ort.InferenceSession:
    """Raises CannotMeasure where ONNX Runtime leaves the GPU, which it does with no more than a line of its log."""
    providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    session = ort.InferenceSession(str(graph), session_options(1), providers=providers, enable_fallback=0)
    first = session.get_providers()[0]
    if first != "CUDAExecutionProvider":
        raise CannotMeasure(f"ONNX Runtime runs {graph.name} on its {first}, not on CUDA; its log says why")
    return session


def _bound(session: ort.InferenceSession, feed: dict[str, Array]) -> Callable[[], None]:
    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
    for node in session.get_outputs():
        binding.bind_output(node.name, "cuda")
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return lambda: session.run_with_iobinding(binding, options)


def _rounds(launch: Callable[[], None], stream: Any, rounds: int) -> list[float]:
    driver = cuda_context().driver
    for _ in range(_WARM_RUNS):
        launch()
    stream.synchronize()
    return [_milliseconds(launch, stream, driver) for _ in range(rounds)]


def _milliseconds(launch: Callable[[], None], stream: Any, driver: Any) -> float:
    start, end = driver.Event(), driver.Event()
    start.record(stream)
    for _ in range(_RUNS):
        launch()
    end.record(stream)
    end.synchronize()
    return float(start.time_till(end)) / _RUNS


def _feed(inputs: list[TensorSpec] | tuple[TensorSpec, ...], rows: int) -> dict[str, Array]:
    """Noise for numbers, zeros and ones for integers, which every vocabulary and mask has."""
    random = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for spec in inputs:
        shape = shape_for(spec.shape, rows)
        noise = random.normal(0, 1, shape) if spec.dtype.kind == "f" else random.integers(0, 2, shape)
        feed[spec.name] = noise.astype(spec.dtype)
    return feed
