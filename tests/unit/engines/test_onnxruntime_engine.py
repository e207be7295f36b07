"""ONNX Runtime behind the engine protocol, on real small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.domain.tensor import TensorSpec
from service.engines.onnxruntime_engine import OnnxRuntimeEngine, session_options
from service.engines.samples import Sampler
from service.errors import EngineFailed, InvalidTensor
from tests.served_models import write_identity, write_linear
from tests.unit.quantization.small_models import model_of, saved, value

KINDS = {
    "b": (TensorProto.BOOL, "BOOL"),
    "u8": (TensorProto.UINT8, "UINT8"),
    "i8": (TensorProto.INT8, "INT8"),
    "i32": (TensorProto.INT32, "INT32"),
    "i64": (TensorProto.INT64, "INT64"),
    "f16": (TensorProto.FLOAT16, "FP16"),
    "f32": (TensorProto.FLOAT, "FP32"),
    "f64": (TensorProto.DOUBLE, "FP64"),
    "s": (TensorProto.STRING, "BYTES"),
}


def test_specs_and_answers_of_every_datatype_go_through(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "m.onnx", {name: kind for name, (kind, _) in KINDS.items()})
    engine = OnnxRuntimeEngine.load(path, threads=1)
    assert engine.inputs == tuple(TensorSpec(name, datatype, (-1, -1)) for name, (_, datatype) in KINDS.items())
    batch = Sampler(engine.inputs).zeros(2)
    answer = engine.infer(batch)
    for name, array in batch.items():
        assert answer[f"{name}_out"].shape == array.shape
    engine.close()


def test_only_the_wanted_outputs_are_computed(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "m.onnx", {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT})
    engine = OnnxRuntimeEngine.load(path, threads=1)
    assert list(engine.infer(Sampler(engine.inputs).zeros(1), ["b_out"])) == ["b_out"]


def test_text_goes_through_as_text_and_what_is_no_text_is_refused(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine.load(write_identity(tmp_path / "m.onnx", {"s": TensorProto.STRING}), threads=1)
    words = np.array([["grün".encode(), b"", b"b'x'"]], dtype=np.object_)
    assert engine.infer({"s": words})["s_out"].tolist() == [["grün", "", "b'x'"]]
    words[0, 1] = b"\xff"
    with pytest.raises(InvalidTensor, match=r"input 's' holds b'\\xff', which is not UTF-8"):
        engine.infer({"s": words})


def test_a_batch_that_the_runtime_refuses_fails_in_its_words(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine.load(write_linear(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(EngineFailed, match="ONNX Runtime failed on this batch: "):
        engine.infer({"x": np.zeros((1, 1, 2, 7), np.float32)})


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_an_integer_that_would_end_the_process_where_it_is_divided_by_minus_one_is_refused(
    tmp_path: Path, kind: type[np.signedinteger[Any]]
) -> None:
    element = TensorProto.INT32 if kind is np.int32 else TensorProto.INT64
    pair, quotient = [value("a", ["n"], element), value("b", ["n"], element)], [value("y", ["n"], element)]
    model = model_of([helper.make_node("Div", ["a", "b"], ["y"])], pair, quotient)
    engine = OnnxRuntimeEngine.load(saved(model, tmp_path / "m.onnx"), threads=1)
    least, ones = np.iinfo(kind).min, np.full(2, -1, kind)
    with pytest.raises(InvalidTensor, match=f"input 'a' holds {least}, .* by -1; send {least + 1} or more"):
        engine.infer({"a": np.array([1, least], kind), "b": ones})
    assert engine.infer({"a": np.array([1, least + 1], kind), "b": ones})["y"].tolist() == [-1, -(least + 1)]


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "Einsum"])
def test_an_empty_sequence_is_refused_where_the_runtime_would_end_the_process(tmp_path: Path, kind: str) -> None:
    gates = {"GRU": 3, "LSTM": 4}.get(kind, 1)
    weights = [
        numpy_helper.from_array(np.zeros((1, 4 * gates, 3), np.float32), "w"),
        numpy_helper.from_array(np.zeros((1, 4 * gates, 4), np.float32), "r"),
        numpy_helper.from_array(np.zeros((4, 3), np.float32), "e"),
    ]
    node = helper.make_node(kind, ["x", "w", "r"], ["", "y"], hidden_size=4)
    if kind == "Einsum":
        node = helper.make_node(kind, ["x", "e"], ["y"], equation="sbi,hi->bh")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4] if kind == "Einsum" else [1, 1, 4])],
        weights,
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    engine = OnnxRuntimeEngine.load(path, 1)
    assert engine.infer({"x": np.zeros((2, 1, 3), np.float32)})["y"].size == 4
    with pytest.raises(InvalidTensor, match="takes no empty tensors"):
        engine.infer({"x": np.zeros((0, 1, 3), np.float32)})


@pytest.mark.parametrize(("file_bytes", "microseconds"), [(2**20 - 1, "100"), (2**20, "500")])
def test_threads_of_a_large_model_look_out_for_the_next_request(file_bytes: int, microseconds: str) -> None:
    options = session_options(2, file_bytes)
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == microseconds
