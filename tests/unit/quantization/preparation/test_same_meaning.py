"""A raised graph is refused for another answer, and not for roundings or chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization.data.rows import Feed, Rows
from service.quantization.preparation.same_meaning import check_same_meaning
from tests.unit.quantization.small_models import fp32, model_of, saved, value

node = helper.make_node


def check(uploaded: ModelProto, raised: ModelProto, folder: Path) -> None:
    reference = OnnxRuntimeEngine.load(saved(uploaded, folder / "uploaded.onnx"), 1)
    feed = Feed.of(Rows("rows", {"x": np.ones((4, 3), np.float32)}, None), reference.inputs)
    check_same_meaning(reference, saved(raised, folder / "raised.onnx"), feed, 1)


def added(number: float, scale: float = 1.0) -> ModelProto:
    nodes = [node("Mul", ["x", "s"], ["a"], "mul"), node("Add", ["a", "n"], ["y"], "add")]
    constants = {"s": fp32(scale), "n": fp32(number)}
    return model_of(nodes, [value("x", ("n", 3))], [value("y", ("n", 3))], constants, 13)


@pytest.mark.parametrize(
    ("one", "other"), [(0.0, 0.5), (np.inf, -np.inf), (np.inf, np.nan), (np.inf, 0.0), (0.0, np.inf)]
)
def test_another_answer_is_refused(tmp_path: Path, one: float, other: float) -> None:
    with pytest.raises(StageFailed, match="output 'y' is another one"):
        check(added(one), added(other), tmp_path)


def test_what_rounding_leaves_of_nothing_is_nothing(tmp_path: Path) -> None:
    check(added(0.0, scale=0.0), added(1e-9, scale=0.0), tmp_path)
    check(added(np.nan), added(np.nan), tmp_path)


def test_an_answer_by_chance_is_no_other_one(tmp_path: Path) -> None:
    drawn = model_of(
        [node("RandomNormalLike", ["x"], ["y"], "draw")], [value("x", ("n", 3))], [value("y", ("n", 3))], None, 13
    )
    check(drawn, drawn, tmp_path)
