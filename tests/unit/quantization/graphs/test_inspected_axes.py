"""Axes that an upload leaves open, or states otherwise than it has them: taken with a warning where they work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from service.errors import InvalidModel
from tests.unit.quantization.inspecting import inspect
from tests.unit.quantization.int8 import quantize, run
from tests.unit.quantization.small_models import fp32, model_of, relu_model, value


def test_open_inner_axes_are_taken_with_a_warning(tmp_path: Path) -> None:
    found = inspect(tmp_path, relu_model(("batch", "length", 4)))
    assert found["inputs"][0]["shape"] == [-1, -1, 4]
    assert "inputs 'x' have open axes behind the batch" in found["warnings"][0]


def test_a_model_that_needs_longer_open_axes_than_one_is_tried_with_longer_ones(tmp_path: Path) -> None:
    slice_node = helper.make_node("Gather", ["x", "third"], ["y"], axis=1)
    constants = {"third": np.array([3], np.int64)}
    model = model_of([slice_node], [value("x", ("batch", "length"))], [value("y", ("batch", 1))], constants)
    (warning,) = inspect(tmp_path, model)["warnings"]
    assert "open axes behind the batch" in warning


def test_a_model_whose_open_axes_belong_together_is_taken_with_a_warning(tmp_path: Path) -> None:
    pad = helper.make_node("Pad", ["x", "more"], ["longer"])
    product = helper.make_node("MatMul", ["longer", "m"], ["y"])
    inputs = [value("x", ("batch", 1, "length")), value("m", ("batch", "total", 1))]
    constants = {"more": np.array([0, 0, 0, 0, 0, 6], np.int64)}
    model = model_of([pad, product], inputs, [value("y", ("batch", 1, 1))], constants)
    warning = inspect(tmp_path, model)["warnings"][1]
    assert "cannot run on 1 rows of zeros" in warning
    assert "it is served, and requests of such rows do not share a batch" in warning


def test_an_axis_of_minus_one_is_an_open_axis(tmp_path: Path) -> None:
    model = relu_model(("batch", 3, "height"))
    for axis in (0, 2):
        for side in (model.graph.input[0], model.graph.output[0]):
            side.type.tensor_type.shape.dim[axis].dim_value = -1
    assert inspect(tmp_path, model)["inputs"][0]["shape"] == [-1, 3, -1]


def test_no_axis_of_minus_one_is_counted_with(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["twice"], axis=2),
        helper.make_node("Conv", ["twice", "k"], ["y"], strides=[2]),
    ]
    sides = [value("x", ("batch", 3, "length")), value("y", ("batch", 2, "half"))]
    for axis in (0, 2):
        for side in sides:
            side.type.tensor_type.shape.dim[axis].dim_value = -1
    model = model_of(nodes, sides[:1], sides[1:], {"k": np.ones((2, 3, 1), np.float32)})
    assert inspect(tmp_path, model)["outputs"][0]["shape"] == [-1, 2, -1]


def test_a_batch_axis_that_is_open_in_name_only_is_refused(tmp_path: Path) -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"], "stuck")
    constants = {"shape": np.array([1, 2, 2], np.int64)}
    model = model_of([reshape], [value("x", ("batch", 4))], [value("y", ("batch", 2, 2))], constants)
    with pytest.raises(InvalidModel, match=r"cannot run on 2 rows of zeros.*with a working dynamic batch"):
        inspect(tmp_path, model)


def test_an_output_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = value("shape", ["rank"], TensorProto.INT64)
    model = model_of([reshape], [value("x", [1]), shape], [value("y", None)])
    with pytest.raises(InvalidModel, match="output 'y' has no known rank; state its shape"):
        inspect(tmp_path, model)


@pytest.mark.parametrize(("stated", "words"), [((1, 4), "with 2 axes"), ((), "with no axes")])
def test_an_output_of_other_axes_than_stated_is_taken_with_a_warning(
    tmp_path: Path, stated: tuple[int, ...], words: str
) -> None:
    nodes = [
        helper.make_node("Compress", ["candidates", "chosen"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    # Nothing but a run tells the number of axes.
    constants = {"candidates": np.array([1, 1, 4, 9]), "chosen": np.array([True, True, True, False])}
    model = model_of(nodes, [value("x", [1, 4])], [value("y", stated)], constants)
    (warning,) = inspect(tmp_path, model)["warnings"]
    assert warning.startswith(f"output 'y' is stated {words} and gave [1, 1, 4]: answers have the shape")


def relus(inner: ValueInfoProto | None, stated: ValueInfoProto) -> ModelProto:
    """y = Relu(Relu(x)) of FP32 [batch, 4], stated to be as is told."""
    nodes = [helper.make_node("Relu", ["x"], ["t"], "first"), helper.make_node("Relu", ["t"], ["y"], "second")]
    model = model_of(nodes, [value("x", ("batch", 4))], [stated])
    model.graph.value_info.extend([inner] if inner is not None else [])
    return model


@pytest.mark.parametrize(
    ("stated", "served"), [(("batch", 5), [-1, -1]), (("batch", "c", 1), []), (("batch",), []), ((), [])]
)
def test_an_output_that_is_stated_otherwise_than_its_operators_tell_is_taken(
    tmp_path: Path, stated: tuple[int | str, ...], served: list[int]
) -> None:
    found = inspect(tmp_path, relus(None, value("y", stated)))
    assert found["outputs"][0]["shape"] == served
    told = [f"output 'y' is stated with {len(stated) or 'no'} axes and gave [1, 4]"] if len(stated) != 2 else []
    assert [warning.split(":")[0] for warning in found["warnings"]] == told


def test_a_tensor_inside_that_is_stated_otherwise_than_its_operator_tells_is_taken(tmp_path: Path) -> None:
    for stated in (("batch", 5), ("batch",)):
        found = inspect(tmp_path, relus(value("t", stated), value("y", ("batch", 4))))
        assert (found["outputs"][0]["shape"], found["warnings"]) == ([-1, 4], [])


def test_a_tensor_that_is_stated_of_another_type_is_refused(tmp_path: Path) -> None:
    for stated in ((4,), ("batch", 4)):
        for model in (
            relus(None, value("y", stated, TensorProto.INT64)),
            relus(value("t", stated, TensorProto.INT64), value("y", ("batch", 4))),
        ):
            with pytest.raises(InvalidModel, match=r"the ONNX checker refuses the model: .*type"):
                inspect(tmp_path, model)


def test_operators_that_contradict_each_other_are_refused_whatever_is_stated(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    for width in (5, 2000):
        weights = {"w": np.ones((width, 4), np.float32)}
        model = model_of([product], [value("x", ("batch", 4))], [value("y", ("batch",))], weights)
        with pytest.raises(InvalidModel, match=r"the ONNX checker refuses the model: .*Incompatible dimensions"):
            inspect(tmp_path, model)


def test_a_model_that_states_its_output_wrongly_is_quantized(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        [value("x", ("batch", 4))],
        [value("y", ("batch",))],
        {"w": np.eye(4, dtype=np.float32)},
    )
    rows = {"x": fp32(np.random.default_rng(0).normal(0, 1, (32, 4)))}
    emitted, _ = quantize(model, rows, tmp_path)
    assert np.abs(run(emitted, rows, tmp_path)["y"] - rows["x"]).max() < 0.1


@pytest.mark.parametrize("opset", [11, 17])
def test_a_model_that_states_a_tensor_inside_wrongly_is_quantized(tmp_path: Path, opset: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "a"),
        helper.make_node("Relu", ["h"], ["r"], "b"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "c"),
    ]
    model = model_of(
        nodes, [value("x", ("batch", 4))], [value("y", ("batch", 4))], {"w": np.eye(4, dtype=np.float32)}, opset=opset
    )
    model.graph.value_info.append(value("h", ("batch", 3)))
    rows = {"x": fp32(np.random.default_rng(0).uniform(0, 1, (32, 4)))}
    emitted, _ = quantize(model, rows, tmp_path)
    assert np.abs(run(emitted, rows, tmp_path)["y"] - rows["x"]).max() < 0.1


def test_a_list_of_tensors_is_refused_with_how_to_make_one_of_it(tmp_path: Path) -> None:
    # As skl2onnx writes the probabilities of a MultiOutputClassifier, whatever its options are.
    construct = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    listed = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    model = model_of([construct], [value("x", ("batch", 4))], [listed])
    with pytest.raises(
        InvalidModel, match=r"output 'y' is a list of tensors; .* ConcatFromSequence \(axis=1, new_axis=1\)"
    ):
        inspect(tmp_path, model)
    model.graph.node.append(helper.make_node("ConcatFromSequence", ["y"], ["joined"], axis=1, new_axis=1))
    model.graph.output[0].CopyFrom(value("joined", ("batch", 2, 4)))
    assert inspect(tmp_path, model)["outputs"][0]["shape"] == [-1, 2, 4]
