"""Pruning leaves the two largest of every four weights of a sum, and what is sparse is found in every emitted form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from service.domain.recipe import Calibration, Recipe
from service.errors import InvalidRecipe
from service.quantization.emitters.half import emit_half
from service.quantization.emitters.tensorrt import emit_tensorrt, plan_in_half
from service.quantization.graphs.graph import Graph
from service.quantization.graphs.sparsity import prune, sparse_operators
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import Array, model_of, read_in_a_branch, relu_model, value
from tests.unit.quantization.transformer_block import tokens, transformer_block

node = helper.make_node


def one_operator(kind: str, weight: Array, **attributes: Any) -> ModelProto:
    fed: list[int | str] = ["batch", 8, 4, 4] if kind == "Conv" else ["batch", 8]
    return model_of(
        [node(kind, ["x", "w"], ["y"], "it", **attributes)], [value("x", fed)], [value("y", None)], {"w": weight}
    )


def weights(*shape: int) -> Array:
    return np.random.default_rng(5).normal(0, 1, shape).astype(np.float32)


def constant(model: ModelProto, name: str = "w") -> Array:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


@pytest.mark.parametrize(
    ("kind", "shape", "axis", "attributes"),
    [
        ("Conv", (6, 8, 3, 3), 1, {}),
        ("Gemm", (6, 8), 1, {"transB": 1}),
        ("Gemm", (8, 6), 0, {}),
        ("MatMul", (8, 6), 0, {}),
    ],
)
def test_of_every_four_in_a_sum_the_two_largest_stay_as_they_are(
    kind: str, shape: tuple[int, ...], axis: int, attributes: dict[str, int]
) -> None:
    dense = weights(*shape)
    model = one_operator(kind, dense, **attributes)
    assert sparse_operators(model) == []
    prune(model)
    left = np.moveaxis(constant(model), axis, -1).reshape(-1, 4)
    was = np.moveaxis(dense, axis, -1).reshape(-1, 4)
    assert (np.count_nonzero(left, axis=1) == 2).all()
    assert np.array_equal(left[left != 0], was[left != 0])
    assert (
        np.abs(was).min(axis=1, where=left != 0, initial=9) >= np.abs(was).max(axis=1, where=left == 0, initial=0)
    ).all()
    assert constant(model).shape == shape
    assert sparse_operators(model) == ["it"]


def test_pruning_again_changes_nothing() -> None:
    model = one_operator("MatMul", weights(8, 6))
    prune(model)
    once = constant(model)
    prune(model)
    assert np.array_equal(constant(model), once)


@pytest.mark.parametrize(
    "model",
    [
        relu_model(),
        one_operator("Conv", weights(8, 1, 3, 3), group=8),
        model_of(
            [node("MatMul", ["x", "w"], ["y"], "it")], [value("x", ["n", 6])], [value("y", None)], {"w": weights(6, 4)}
        ),
        model_of(
            [node("MatMul", ["x", "w"], ["a"], "first"), node("MatMul", ["a", "w"], ["y"], "second")],
            [value("x", ["n", 8])], [value("y", None)], {"w": weights(8, 8)},
        ),
        read_in_a_branch(one_operator("MatMul", weights(8, 6)), "w"),
        model_of(
            [node("MatMul", ["x", "w"], ["y"], "it")], [value("x", ["n", 8])], [value("y", None), value("w", None)],
            {"w": weights(8, 6)},
        ),
    ],
    ids=["no weights", "depthwise", "six products", "shared", "shared with a branch", "shared with the caller"],
)  # fmt: skip
def test_a_model_in_which_nothing_can_be_pruned_is_refused(model: ModelProto) -> None:
    with pytest.raises(InvalidRecipe, match=r"sums a multiple of 4 products; leave sparsity out"):
        prune(model)


def test_sparse_weights_are_found_in_every_emitted_form(tmp_path: Path) -> None:
    model = transformer_block()
    prune(model)
    wanted = set(sparse_operators(model))
    assert {"query", "key", "value"} <= wanted
    recipe = Recipe(calibration=Calibration(method="minmax"))
    int8, plan = quantize(model, {"x": tokens(16)}, tmp_path, recipe, runtime="tensorrt")
    graph = Graph.load(tmp_path / "prepared.onnx")
    around = emit_tensorrt(graph.model, plan_in_half(plan, graph, (), "fp16"), "fp16")
    for emitted in (int8, around, emit_half(graph.model, (), "fp16"), emit_half(graph.model, (), "bf16")):
        assert set(sparse_operators(emitted)) == wanted
