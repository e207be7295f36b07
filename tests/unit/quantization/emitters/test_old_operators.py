"""Operators whose meaning changed between opsets compute the same after a graph was raised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.errors import StageFailed
from service.quantization.emitters.opset import converted
from service.quantization.preparation.preparation import prepare
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import model_of, saved, value

node = helper.make_node
ROWS = {"x": np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)}


def old_model(each: NodeProto, opset: int, scales: tuple[float, ...] = ()) -> ModelProto:
    constants = {"s": np.array((1, 1, *scales), np.float32)} if scales else None
    return model_of([each], [value("x", ("n", 3, 6, 6))], [value("y", None)], constants, opset)


def answers(model: ModelProto, folder: Path) -> list[object]:
    return [np.round(output, 5).tolist() for output in run(model, ROWS, folder).values()]


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 2.3)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_upsample_reads_the_same_pixels(tmp_path: Path, mode: str, scales: tuple[float, ...]) -> None:
    model = old_model(node("Upsample", ["x", "s"], ["y"], mode=mode), 9, scales)
    assert answers(converted(model, 13), tmp_path) == answers(model, tmp_path)


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 2.3), (0.5, 0.5), (0.4, 0.4), (1.0, 0.7)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_of_opset_10_reads_the_same_pixels(tmp_path: Path, mode: str, scales: tuple[float, ...]) -> None:
    model = old_model(node("Resize", ["x", "s"], ["y"], mode=mode), 10, scales)
    assert answers(converted(model, 13), tmp_path) == answers(model, tmp_path)


def test_scales_may_be_constant_nodes(tmp_path: Path) -> None:
    model = old_model(node("Resize", ["x", "s"], ["y"], mode="nearest"), 10, (2.0, 2.0))
    model.graph.node.insert(0, node("Constant", [], ["s"], "scales", value=model.graph.initializer.pop()))
    assert answers(converted(model, 13), tmp_path) == answers(model, tmp_path)


def test_a_nearest_resize_that_grows_and_shrinks_is_refused() -> None:
    model = old_model(node("Resize", ["x", "s"], ["y"], "both", mode="nearest"), 10, (0.5, 2.0))
    with pytest.raises(StageFailed, match=r"node 'both' resizes to the nearest pixel .* opset 11 or newer"):
        converted(model, 13)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_hardmax_is_over_all_axes_from_its_own_on(tmp_path: Path, axis: int) -> None:
    model = old_model(node("Hardmax", ["x"], ["y"], "hard", axis=axis), 12)
    assert answers(converted(model, 13), tmp_path) == answers(model, tmp_path)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_a_pad_of_an_old_opset_is_prepared_for_int8(tmp_path: Path, mode: str) -> None:
    pad = node("Pad", ["x"], ["y"], "pad", mode=mode, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.0)
    model = old_model(pad, 9)
    prepare(saved(model, tmp_path / "float.onnx"), tmp_path / "prepared.onnx", 13)
    prepared = ModelProto.FromString((tmp_path / "prepared.onnx").read_bytes())
    assert answers(prepared, tmp_path) == answers(model, tmp_path)
