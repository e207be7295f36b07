"""A trained range is found behind what moves values, and of pairs that disagree one range is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from service.quantization.conversion.trained_ranges import trained_ranges
from service.quantization.graphs.graph import Graph
from service.quantization.planning.rules import rules_of
from tests.unit.quantization.small_models import model_of, value

node = helper.make_node
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
# As large as INT8 pays on every runtime.
CONSTANTS = {
    "k": (32, 32, 3, 3),
    "l": (32, 32, 1, 1),
    "m": (32, 32, 1, 1),
    "flat": (32 * 64, 32),
    "wide": (32, 32),
}


def graph_of(*nodes: NodeProto) -> Graph:
    """`r` is what a convolution and its rectifier make; the nodes go on from there to `y`."""
    random = np.random.default_rng(0)
    read = {name for entry in nodes for name in entry.input}
    constants: dict[str, Any] = {
        name: random.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in CONSTANTS.items()
        if name in read | {"k"}
    }
    constants["shape"] = np.array([0, 32 * 64], np.int64)
    first = node("Conv", ["x", "k"], ["h"], "first", pads=[1] * 4), node("Relu", ["h"], ["r"], "relu")
    return Graph(model_of([*first, *nodes], [value("x", ("n", 32, 8, 8))], [value("y", None)], constants))


def range_of_r(graph: Graph, runtime: str, trained: dict[str, tuple[float, float]]) -> tuple[float, float] | None:
    placement = rules_of(runtime).place(graph, ())
    assert "r" in placement.observed
    found = trained_ranges(placement, graph, trained)
    assert set(found) <= set(placement.observed)
    return found.get("r")


POOL = node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2])
MOVES = {
    "MaxPool": [POOL, node("Conv", ["p", "l"], ["y"], "last")],
    "Flatten": [node("Flatten", ["r"], ["p"], "it"), node("Gemm", ["p", "flat"], ["y"], "last")],
    "Reshape": [node("Reshape", ["r", "shape"], ["p"], "it"), node("Gemm", ["p", "flat"], ["y"], "last")],
    "Transpose": [
        node("Transpose", ["r"], ["p"], "it", perm=[0, 2, 3, 1]), node("MatMul", ["p", "wide"], ["y"], "last")
    ],
    "two": [
        POOL, node("Transpose", ["p"], ["q"], "it", perm=[0, 1, 3, 2]), node("Conv", ["q", "l"], ["y"], "last")
    ],
}  # fmt: skip


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("move", MOVES)
def test_a_range_that_was_trained_behind_an_operator_that_moves_values_is_found(move: str, runtime: str) -> None:
    assert range_of_r(graph_of(*MOVES[move]), runtime, {"p": (0.0, 1.5)}) == (0.0, 1.5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_without_a_trained_range_on_the_way_there_is_none(runtime: str) -> None:
    assert range_of_r(graph_of(*MOVES["MaxPool"]), runtime, {"x": (-4.0, 4.0), "y": (-2.0, 2.0)}) is None


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("ranges", [{"r": (0.0, 6.0), "p": (0.0, 1.5)}, {"r": (0.0, 1.5), "p": (0.0, 6.0)}])
def test_of_two_pairs_on_the_way_to_a_reader_the_narrower_counts(
    ranges: dict[str, tuple[float, float]], runtime: str
) -> None:
    shape = node("Shape", ["r"], ["extents"], "shape of r")
    assert range_of_r(graph_of(shape, *MOVES["MaxPool"]), runtime, ranges) == (0.0, 1.5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_readers_that_were_trained_on_other_ranges_get_one_that_holds_what_each_of_them_saw(runtime: str) -> None:
    readers = [
        POOL,
        node("Conv", ["p", "l"], ["a"], "pooled"),
        node("MaxPool", ["r"], ["q"], "pool again", kernel_shape=[2, 2]),
        node("Conv", ["q", "m"], ["b"], "pooled again"),
        node("Add", ["a", "b"], ["y"], "add"),
    ]
    trained = {"p": (-1.0, 1.5), "q": (-0.5, 3.0)}
    assert range_of_r(graph_of(*readers), runtime, trained) == (-1.0, 3.0)
