"""A model whose data lies in another file is refused, wherever in the graph it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from service.errors import InvalidModel
from tests.unit.quantization.inspecting import inspect
from tests.unit.quantization.small_models import model_of, relu_model, value


def external(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_data_in_another_file_is_refused_by_tensor_and_place(tmp_path: Path, location: str) -> None:
    model = relu_model()
    model.graph.initializer.append(external("w", location))
    with pytest.raises(InvalidModel, match=f"tensor 'w' keeps its data in another file, '{location}'; save the model"):
        inspect(tmp_path, model)


def test_data_in_another_file_is_found_in_attributes_and_branches_too(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=external("deep", "../x"))], "inner", [], [value("k", [4])]
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["j"])], "other", [], [value("j", [4])])
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other)
    flag = value("yes", [], TensorProto.BOOL)
    model = model_of([branch], [value("x", [4]), flag], [value("y", [4])])
    with pytest.raises(InvalidModel, match="tensor 'deep' keeps its data in another file"):
        inspect(tmp_path, model)
