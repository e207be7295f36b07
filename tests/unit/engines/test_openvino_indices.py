"""OpenVINO looks integers up unchecked, so they are checked before, and graphs where they cannot be are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.engines.openvino_engine import OpenVinoEngine
from service.errors import EngineFailed, InvalidTensor

pytest.importorskip("openvino", reason="OpenVINO is not installed")
TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)


def loaded(folder: Path, nodes: list[NodeProto], shape: list[str | int], *inputs: str) -> OpenVinoEngine:
    """A graph over a table `t` of 10 rows, another `wide` of 20, and updates `u`; its indices are INT64 inputs."""
    constants = {
        "t": TABLE,
        "wide": np.concatenate([TABLE, TABLE]),
        "u": np.full((1, 4), 99, np.float32),
        "one": np.ones(1, np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs or ("x",)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, folder / "m.onnx")
    return OpenVinoEngine.load(folder / "m.onnx", 1)


LOOKUPS = {
    "Gather": [helper.make_node("Gather", ["t", "x"], ["y"])],
    "GatherND": [helper.make_node("GatherND", ["t", "x"], ["y"])],
    "ScatterND": [helper.make_node("ScatterND", ["t", "x", "u"], ["y"])],
    "carried": [
        helper.make_node("Transpose", ["x"], ["turned"]),
        helper.make_node("Cast", ["turned"], ["short"], to=TensorProto.INT32),
        helper.make_node("GatherND", ["t", "short"], ["y"]),
    ],
}


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("index", [10, -11, 1_000_000])
def test_an_index_outside_of_the_table_is_refused(tmp_path: Path, lookup: str, index: int) -> None:
    engine = loaded(tmp_path, LOOKUPS[lookup], [1, 1])
    with pytest.raises(InvalidTensor, match=rf"input 'x' holds {index}, which .* a table of 10; send -10 to 9"):
        engine.infer({"x": np.full((1, 1), index)})
    for inside in (-10, 9):
        engine.infer({"x": np.full((1, 1), inside)})


def test_the_smallest_of_several_tables_counts(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", [table, "x"], [table + "y"]) for table in ("t", "wide")]
    engine = loaded(tmp_path, [*nodes, helper.make_node("Add", ["ty", "widey"], ["y"])], ["n"])
    with pytest.raises(InvalidTensor, match="holds 10,"):
        engine.infer({"x": np.array([3, 10])})


def test_a_place_that_is_computed_from_what_a_caller_sends_is_refused_where_memory_depends_on_it(
    tmp_path: Path,
) -> None:
    computed = helper.make_node("Add", ["x", "one"], ["z"])
    for kind in ("GatherND", "ScatterND"):
        inputs = ["t", "z", *(["u"] if kind == "ScatterND" else [])]
        with pytest.raises(EngineFailed, match=rf"\({kind[:-2]}.*wherever what a caller sends says"):
            loaded(tmp_path, [computed, helper.make_node(kind, inputs, ["y"])], [1, 1])
    engine = loaded(tmp_path, [computed, helper.make_node("Gather", ["t", "z"], ["y"])], ["n"])
    assert np.array_equal(engine.infer({"x": np.array([3])})["y"], TABLE[4:5])


def test_a_place_that_is_found_among_the_data_may_be_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["t"], ["best"], axis=0, keepdims=0),
        helper.make_node("Unsqueeze", ["best", "one"], ["places"]),
        helper.make_node("GatherND", ["t", "places"], ["rows"]),
        helper.make_node("Cast", ["x"], ["more"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["rows", "more"], ["y"]),
    ]
    answer = loaded(tmp_path, nodes, [1, 1]).infer({"x": np.array([[1_000_000]])})["y"]
    assert np.array_equal(answer, TABLE[[9] * 4] + 1_000_000)


def test_a_read_inside_of_a_branch_is_refused(tmp_path: Path) -> None:
    def branch(name: str, node: NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("Cast", ["one"], ["flags"], to=TensorProto.BOOL),
        helper.make_node("Greater", ["x", "one"], ["each"]),
        helper.make_node("Squeeze", ["each"], ["large"]),
        helper.make_node(
            "If",
            ["large"],
            ["y"],
            then_branch=branch("a", helper.make_node("GatherND", ["t", "x"], ["a"])),
            else_branch=branch("b", helper.make_node("Identity", ["u"], ["b"])),
        ),
    ]
    with pytest.raises(EngineFailed, match="use runtime onnxruntime"):
        loaded(tmp_path, nodes, [1, 1])
