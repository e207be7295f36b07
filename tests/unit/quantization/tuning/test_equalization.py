"""Equalized graphs compute what they did, with evener channels; what cannot be exact is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.quantization.graphs.graph import Graph
from service.quantization.tuning.channels import channel_power
from service.quantization.tuning.equalization import equalized, factors, streams
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import Array, fp32, model_of, read_in_a_branch, value

SPREAD = np.logspace(-1.5, 1.5, 8).astype(np.float32)


def weights(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0, 0.4, shape).astype(np.float32)


def residual(between: Any = None) -> ModelProto:
    """A stream of uneven channels: written by `in` and `branch`, read by `branch`'s expansion and `out`."""
    node = helper.make_node
    activation = between or node("Relu", ["h"], ["r"], "act")
    nodes = [
        node("Conv", ["x", "in.w", "in.b"], ["s"], "in", kernel_shape=[1, 1]),
        node("Conv", ["s", "up.w"], ["h"], "up", kernel_shape=[3, 3], pads=[1] * 4),
        activation,
        node("Conv", ["r", "dw.w"], ["d"], "dw", kernel_shape=[3, 3], pads=[1] * 4, group=8),
        node("Conv", ["d", "branch.w", "branch.b"], ["b"], "branch", kernel_shape=[1, 1]),
        node("Add", ["s", "b"], ["t"], "add"),
        node("GlobalAveragePool", ["t"], ["g"], "pool"),
        node("Flatten", ["g"], ["f"], "flat"),
        node("Gemm", ["f", "out.w", "out.b"], ["y"], "out"),
    ]
    spread = SPREAD[:, None, None, None]
    constants = {
        "in.w": weights(8, 3, 1, 1) * spread,
        "in.b": weights(8),
        "up.w": weights(8, 8, 3, 3, seed=2) * spread,
        "dw.w": weights(8, 1, 3, 3, seed=3),
        "branch.w": weights(8, 8, 1, 1, seed=4),
        "branch.b": weights(8, seed=5),
        "out.w": weights(8, 5, seed=6),
        "out.b": weights(5, seed=7),
        "zero": fp32(0),
        "six": fp32(6),
    }
    return model_of(nodes, [value("x", ("n", 3, 6, 6))], [value("y", None)], constants)


def rows() -> Array:
    return np.random.default_rng(9).normal(0, 1, (16, 3, 6, 6)).astype(np.float32)


def equalize(model: ModelProto) -> Graph:
    graph = Graph(model)
    found = streams(graph)
    places = [(name, stream.axis) for stream in found for name in stream.tensors]
    seen = channel_power(model, places, lambda: [{"x": rows()}], 1)
    power = {name: values for (name, _), values in seen.items()}
    return equalized(graph, [(stream, factors(stream, graph, power)) for stream in found])


def test_the_float_model_stays_the_same(tmp_path: Path) -> None:
    model = residual()
    before = run(model, {"x": rows()}, tmp_path)["y"]
    after = run(equalize(model).model, {"x": rows()}, tmp_path)["y"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_channels_become_even_where_readers_are_depthwise() -> None:
    before, after = (
        channel_power(model, [("h", 1)], lambda: [{"x": rows()}], 1)["h", 1]
        for model in (residual(), equalize(residual()).model)
    )
    assert before.max() / before.min() > 1e4
    assert after.max() / after.min() < 1.01


def test_a_residual_stream_has_one_factor_for_all_its_operators() -> None:
    (stream,) = [found for found in streams(Graph(residual())) if "s" in found.tensors]
    assert set(stream.tensors) == {"s", "b", "t", "g", "f"}
    assert {node.name for node in stream.writers} == {"in", "branch"}
    assert {node.name for node in stream.readers} == {"up", "out"}


@pytest.mark.parametrize(
    "between",
    [
        helper.make_node("Clip", ["h", "zero", "six"], ["r"], "act"),
        helper.make_node("Sigmoid", ["h"], ["r"], "act"),
        helper.make_node("Softmax", ["h"], ["r"], "act", axis=1),
    ],
)
def test_nothing_is_scaled_through_what_is_not_homogeneous(between: Any) -> None:
    scaled = {name for stream in streams(Graph(residual(between))) for name in stream.tensors}
    assert not scaled & {"h", "r"}


def test_a_clip_without_an_upper_bound_lets_factors_through(tmp_path: Path) -> None:
    model = residual(helper.make_node("Clip", ["h", "zero"], ["r"], "act"))
    assert any("r" in stream.tensors for stream in streams(Graph(model)))
    np.testing.assert_allclose(
        run(equalize(model).model, {"x": rows()}, tmp_path)["y"], run(model, {"x": rows()}, tmp_path)["y"], atol=1e-3
    )


def test_outputs_of_the_model_and_shared_weights_are_left_alone() -> None:
    model = residual()
    model.graph.output.append(value("t", None))
    assert not any("s" in stream.tensors for stream in streams(Graph(model)))
    shared = residual()
    shared.graph.node[4].input[1] = "in.w"
    shared.graph.node[0].input[1] = "branch.w"
    shared.graph.node[4].input[1] = "branch.w"
    assert not any("s" in stream.tensors for stream in streams(Graph(shared)))


@pytest.mark.parametrize("constant", ["in.w", "in.b", "out.w"])
def test_a_stream_whose_weights_a_branch_or_the_caller_reads_is_left_alone(constant: str) -> None:
    given = residual()
    given.graph.output.append(value(constant, None))
    for model in (read_in_a_branch(residual(), constant), given):
        assert not any("s" in stream.tensors for stream in streams(Graph(model)))


def test_channels_that_are_always_zero_keep_their_scale() -> None:
    graph = Graph(residual())
    (stream,) = [found for found in streams(graph) if "s" in found.tensors]
    power = {name: np.r_[0.0, np.ones(7)] for name in stream.tensors}
    found = factors(stream, graph, power)
    assert found[0] == 1
    assert (found > 0).all()


def test_an_operator_that_leaves_out_an_output_is_no_stream() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["", "last", ""], "lstm", hidden_size=4),
        helper.make_node("Squeeze", ["last", "axis"], ["h"], "squeeze"),
        helper.make_node("MatMul", ["h", "m"], ["y"], "head"),
    ]
    random = np.random.default_rng(0)
    constants = {"w": (1, 16, 8), "r": (1, 16, 4), "m": (4, 6)}
    values: dict[str, Array] = {
        name: random.normal(0, 1, shape).astype(np.float32) for name, shape in constants.items()
    }
    values["axis"] = np.array([0], np.int64)
    assert streams(Graph(model_of(nodes, [value("x", (5, "n", 8))], [value("y", ("n", 6))], values))) == []
