"""OpenVINO behind the engine protocol, on real small models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.domain.tensor import TensorSpec
from service.engines.openvino_engine import OpenVinoEngine
from service.engines.samples import Sampler
from service.errors import EngineFailed, InvalidModel, InvalidTensor
from tests.served_models import save, write_identity, write_linear
from tests.unit.quantization.small_models import linear_regressor, model_of, saved, value

KINDS = {
    "b": (TensorProto.BOOL, "BOOL"),
    "u8": (TensorProto.UINT8, "UINT8"),
    "u16": (TensorProto.UINT16, "UINT16"),
    "u32": (TensorProto.UINT32, "UINT32"),
    "u64": (TensorProto.UINT64, "UINT64"),
    "i8": (TensorProto.INT8, "INT8"),
    "i16": (TensorProto.INT16, "INT16"),
    "i32": (TensorProto.INT32, "INT32"),
    "i64": (TensorProto.INT64, "INT64"),
    "f16": (TensorProto.FLOAT16, "FP16"),
    "bf16": (TensorProto.BFLOAT16, "BF16"),
    "f32": (TensorProto.FLOAT, "FP32"),
    "f64": (TensorProto.DOUBLE, "FP64"),
}


def test_specs_and_answers_of_every_datatype_go_through(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "m.onnx", {name: kind for name, (kind, _) in KINDS.items()})
    engine = OpenVinoEngine.load(path, threads=1)
    assert engine.inputs == tuple(TensorSpec(name, datatype, (-1, -1)) for name, (_, datatype) in KINDS.items())
    batch = {spec.name: np.array([[1, 0]], spec.dtype) for spec in engine.inputs}
    answer = engine.infer(batch)
    for name, array in batch.items():
        assert answer[f"{name}_out"].dtype == array.dtype
        assert np.array_equal(answer[f"{name}_out"], array)
    engine.close()


def test_text_is_refused_at_load_with_the_runtime_that_takes_it(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "m.onnx", {"s": TensorProto.STRING})
    with pytest.raises((InvalidModel, EngineFailed), match="string"):
        OpenVinoEngine.load(path, threads=1)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_integers_that_the_device_would_cut_are_refused(tmp_path: Path, number: int) -> None:
    engine = OpenVinoEngine.load(write_identity(tmp_path / "m.onnx", {"i": TensorProto.INT64}), threads=1)
    with pytest.raises(InvalidTensor, match=f"input 'i' holds {number}, but this engine computes integers in 32 bits"):
        engine.infer({"i": np.array([[0, number]], np.int64)})
    assert engine.infer({"i": np.array([[-5, 2**31 - 1]], np.int64)})["i_out"].tolist() == [[-5, 2**31 - 1]]


def test_only_the_wanted_outputs_are_given(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "m.onnx", {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT})
    engine = OpenVinoEngine.load(path, threads=1)
    assert list(engine.infer(Sampler(engine.inputs).zeros(1), ["b_out"])) == ["b_out"]


def test_tensors_keep_their_names_where_the_compiler_takes_operators_out(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Identity", ["x"], ["after_x"], "i"),
        node("Relu", ["after_x"], ["middle"], "r"),
        node("Mul", ["middle", "one"], ["before"], "m"),
        node("Identity", ["before"], ["y"], "j"),
    ]
    outputs = [value(name, ("n", 4)) for name in ("y", "middle")]
    model = model_of(nodes, [value("x", ("n", 4))], outputs, {"one": np.ones((), np.float32)})
    engine = OpenVinoEngine.load(saved(model, tmp_path / "m.onnx"), threads=1)
    assert [spec.name for spec in (*engine.inputs, *engine.outputs)] == ["x", "y", "middle"]
    assert engine.infer({"x": np.ones((2, 4), np.float32)})["middle"].tolist() == [[1] * 4] * 2


@pytest.mark.parametrize(("fed", "wanted"), [("other", None), ("x", ["other"])])
def test_a_missing_input_or_output_is_named(tmp_path: Path, fed: str, wanted: list[str] | None) -> None:
    engine = OpenVinoEngine.load(write_linear(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(EngineFailed, match="'x'" if wanted is None else "'other'"):
        engine.infer({fed: np.zeros((1, 1, 2, 2), np.float32)}, wanted)


def test_a_batch_that_the_runtime_refuses_fails_in_its_words(tmp_path: Path) -> None:
    engine = OpenVinoEngine.load(write_linear(tmp_path / "m.onnx"), threads=1)
    for wrong in (np.zeros((1, 1, 2, 7), np.float32), np.zeros((1, 1, 2, 2), np.float64)):
        with pytest.raises(EngineFailed, match="OpenVINO failed on this batch: "):
            engine.infer({"x": wrong})
    assert engine.infer({"x": np.ones((1, 1, 2, 2), np.float32)})["y"].shape == (1, 3)


def test_an_empty_batch_is_never_answered_with_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    shape = ("n", 2, 6, 6)
    model = model_of([pool], [value("x", shape)], [value("y", shape)])
    engine = OpenVinoEngine.load(saved(model, tmp_path / "m.onnx"), threads=1)
    assert engine.infer({"x": np.ones((4, 2, 6, 6), np.float32)})["y"].shape == (4, 2, 6, 6)
    with pytest.raises(InvalidTensor, match="holds no rows"):
        engine.infer({"x": np.ones((0, 2, 6, 6), np.float32)})


def test_a_model_that_only_the_other_runtime_reads_is_refused_with_its_name(tmp_path: Path) -> None:
    path = saved(linear_regressor(), tmp_path / "m.onnx")
    with pytest.raises(
        EngineFailed, match=r"ai\.onnx\.ml\.LinearRegressor; .* or have it built by runtime onnxruntime"
    ):
        OpenVinoEngine.load(path, threads=1)


@pytest.mark.parametrize("content", [b"not a model", b""])
def test_a_file_that_is_no_model_is_refused_in_one_line_and_without_noise(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(EngineFailed, match=r"OpenVINO cannot load m\.onnx: .*; check the model") as refused:
        OpenVinoEngine.load(tmp_path / "m.onnx", threads=1)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


def test_a_model_is_read_whatever_its_file_is_called(tmp_path: Path) -> None:
    engine = OpenVinoEngine.load(write_linear(tmp_path / "0f3a"), threads=1)
    assert engine.outputs == (TensorSpec("y", "FP32", (-1, 3)),)


def test_read_only_arrays_are_taken_and_no_input_is_written_to(tmp_path: Path) -> None:
    engine = OpenVinoEngine.load(write_linear(tmp_path / "m.onnx"), threads=1)
    batch = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    frozen = batch.copy()
    frozen.flags.writeable = False
    assert np.array_equal(engine.infer({"x": batch})["y"], engine.infer({"x": frozen})["y"])
    assert np.array_equal(batch, frozen)


def test_fp32_is_computed_in_fp32_even_where_the_cpu_has_bf16(tmp_path: Path) -> None:
    weights = np.full((64, 64), 1 + 2**-12, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "fine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    engine = OpenVinoEngine.load(save(tmp_path / "m.onnx", graph), threads=1)
    assert np.allclose(engine.infer({"x": np.ones((2, 64), np.float32)})["y"], 64 * (1 + 2**-12), rtol=1e-6)


def test_loading_it_leaves_nothing_in_the_home_folder_and_no_telemetry_in_the_process(tmp_path: Path) -> None:
    code = (
        "import sys; from service.engines.openvino_engine import OpenVinoEngine;"
        "print([m for m in sys.modules if 'telemetry' in m or m.startswith('openvino.tools.ovc.')])"
    )
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
