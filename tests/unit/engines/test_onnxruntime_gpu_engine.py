"""ONNX Runtime's bindings as the GPU engine uses them, bound to the processor's memory: the real runtime, no GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from service.engines.engine import Array
from service.engines.onnxruntime_gpu_engine import OnnxRuntimeGpuEngine
from service.errors import DeviceFailed, EngineFailed, InvalidTensor
from service.quantization.sandbox.verdict import is_of_the_gpu
from tests.served_models import write_identity, write_linear


def engine_of(path: Path) -> OnnxRuntimeGpuEngine:
    return OnnxRuntimeGpuEngine(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]), "cpu")


@pytest.fixture
def engine(tmp_path: Path) -> OnnxRuntimeGpuEngine:
    return engine_of(write_linear(tmp_path / "m.onnx"))


def batch(rows: int, value: float) -> dict[str, Array]:
    return {"x": np.full((rows, 1, 2, 2), value, np.float32)}


def answer(value: float) -> list[float]:
    return [6 * value, 12 * value, 18 * value]


def test_rows_of_every_size_are_answered_and_an_answer_stays_its_callers(engine: OnnxRuntimeGpuEngine) -> None:
    answers = [engine.infer(batch(rows, rows))["y"] for rows in (1, 3, 3, 2, 1)]
    assert [given.tolist() for given in answers] == [[answer(rows)] * rows for rows in (1, 3, 3, 2, 1)]


def test_the_binding_writes_batches_of_one_shape_into_the_same_memory(
    engine: OnnxRuntimeGpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Array] = []
    allocate = ort.OrtValue.ortvalue_from_numpy

    def counted(values: Array, *where: Any) -> Any:
        made.append(values)
        return allocate(values, *where)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", counted)
    for value in range(5):
        assert engine.infer(batch(2, value))["y"].tolist() == [answer(value)] * 2
    assert len(made) == 1


def test_callers_at_once_are_bound_to_memory_of_their_own(engine: OnnxRuntimeGpuEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: engine.infer(batch(1 + value % 3, value))["y"][0].tolist(), range(200)))
    assert answers == [answer(value) for value in range(200)]


def test_an_empty_batch_is_answered(tmp_path: Path) -> None:
    engine = engine_of(write_identity(tmp_path / "m", {"a": TensorProto.FLOAT}))
    assert engine.infer({"a": np.zeros((0, 2), np.float32)})["a_out"].shape == (0, 2)


def test_text_which_cannot_be_bound_is_answered_without(tmp_path: Path) -> None:
    engine = engine_of(write_identity(tmp_path / "m", {"a": TensorProto.STRING, "b": TensorProto.FLOAT}))
    given = engine.infer({"a": np.array([[b"x", b"y"]], object), "b": np.ones((1, 2), np.float32)})
    assert given["a_out"].tolist() == [["x", "y"]]
    with pytest.raises(InvalidTensor, match="not UTF-8"):
        engine.infer({"a": np.array([[b"\xff"]], object), "b": np.zeros((1, 2), np.float32)})


def test_only_asked_for_outputs_are_given_and_what_is_unknown_is_refused(engine: OnnxRuntimeGpuEngine) -> None:
    assert engine.infer(batch(1, 1), ["y"]).keys() == {"y"}
    for inputs, outputs in ((batch(1, 1), ["z"]), ({}, None)):
        with pytest.raises(EngineFailed, match="lacks input, or the model output"):
            engine.infer(inputs, outputs)
    with pytest.raises(EngineFailed, match="failed on this batch"):
        engine.infer({"x": np.zeros((1, 1, 2, 3), np.float32)})
    assert engine.infer(batch(1, 1))["y"].tolist() == [answer(1)]


def test_a_full_gpu_is_told_from_a_full_host(engine: OnnxRuntimeGpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Array]:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 8192")

    monkeypatch.setattr(engine, "_run", fail)
    with pytest.raises(EngineFailed) as refused:
        engine.infer(batch(1, 1))
    assert is_of_the_gpu(str(refused.value))


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("CUDA failure 719: unspecified launch failure", True),
        ("CUDA failure 2: out of memory ; GPU=0", False),
        ("Invalid rank for input: x", False),
    ],
)
def test_an_error_that_ends_the_device_ends_the_engine_and_no_other_does(
    engine: OnnxRuntimeGpuEngine, monkeypatch: pytest.MonkeyPatch, words: str, lost: bool
) -> None:
    def fail(*_: object) -> list[Array]:
        raise RuntimeError(words)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_run", fail)
        with pytest.raises(DeviceFailed if lost else EngineFailed):
            engine.infer(batch(1, 1))
    if lost:
        with pytest.raises(DeviceFailed, match="restart the server"):
            engine.infer(batch(1, 1))
    else:
        assert engine.infer(batch(1, 1))["y"].tolist() == [answer(1)]


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_left_the_gpu_without_a_word_is_refused(tmp_path: Path, runtime: str) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(EngineFailed, match=r"has loaded m\.onnx without its .*ExecutionProvider"):
        OnnxRuntimeGpuEngine.load(write_linear(tmp_path / "m.onnx"), runtime)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_file_that_is_no_model_is_refused_in_the_runtimes_words(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineFailed, match=r"cannot load m\.onnx on the GPU"):
        OnnxRuntimeGpuEngine.load(tmp_path / "m.onnx", "onnxruntime-cuda")
