"""FP16 graphs that turn their first axis load: ONNX Runtime would fuse a Transpose into a MatMul without a kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from service.engines.onnxruntime_engine import TURNED_HALF, left_out_optimizers
from service.quantization.emitters.half import emit_half
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import fp32, model_of, value

CONSTANTS = {"w": fp32(np.linspace(-1, 1, 36).reshape(6, 6)), "eighth": fp32(0.125)}
ROWS = {"x": fp32(np.linspace(-1, 1, 216).reshape(6, 6, 6))}


def turned(*order: int, between: tuple[str, ...] = (), left: bool = True) -> ModelProto:
    """x [n, n, n] turned, perhaps something done to it, and multiplied by weights from the right, or from the left."""
    turn = helper.make_node("Transpose", ["x"], ["t"], "turn")
    turn.attribute.extend([helper.make_attribute("perm", order)] if order else [])
    nodes: list[NodeProto] = [turn]
    for number, operator in enumerate(between):
        operands = [nodes[-1].output[0], *(["eighth"] if operator in ("Mul", "Div") else [])]
        nodes.append(helper.make_node(operator, operands, [f"b{number}"], f"between{number}"))
    operands = [nodes[-1].output[0], "w"]
    nodes.append(helper.make_node("MatMul", operands if left else operands[::-1], ["y"], "product"))
    return model_of(nodes, [value("x", ("n", "n", "n"))], [value("y", ("n", "n", "n"))], CONSTANTS)


def optimizers(model: ModelProto) -> tuple[str, ...]:
    return left_out_optimizers(model.SerializeToString())


@pytest.mark.parametrize(
    "model",
    [
        turned(1, 0, 2),
        turned(1, 0, 2, between=("Identity",)),
        turned(1, 0, 2, between=("Mul",)),
        turned(1, 2, 0, left=False),
        turned(1, 2, 0, between=("Div",), left=False),
        turned(),
    ],
    ids=["from the right", "through nothing", "scaled", "from the left", "divided", "reversed"],
)
def test_the_engine_loads_and_answers(model: ModelProto, tmp_path: Path) -> None:
    halved = emit_half(model, (), "fp16")
    assert "MatmulTransposeFusion" in optimizers(halved)
    wanted, found = (run(each, ROWS, tmp_path)["y"] for each in (model, halved))
    assert np.allclose(wanted, found, atol=2e-2)


@pytest.mark.parametrize("model", [turned(0, 2, 1), turned(0, 2, 1, between=("Relu",))])
def test_a_graph_that_keeps_its_first_axis_first_keeps_the_fusion(model: ModelProto) -> None:
    assert "MatmulTransposeFusion" not in optimizers(emit_half(model, (), "fp16"))


def test_the_fusion_is_left_out_of_fp16_alone() -> None:
    model = turned(1, 0, 2)
    for other in (model, emit_half(model, (), "bf16")):
        assert TURNED_HALF not in [entry.key for entry in other.metadata_props]
        assert "MatmulTransposeFusion" not in optimizers(other)
