"""FP16 inside, the uploaded types outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from service.errors import StageFailed
from service.quantization.emitters.half import emit_half
from service.quantization.preparation import prepare
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import classifier, images, relu_model, saved

ROWS = {"x": images(16)}


def prepared(folder: Path) -> ModelProto:
    import onnx

    prepare(saved(classifier(), folder / "float.onnx"), folder / "prepared.onnx", 0)
    return onnx.load_model(folder / "prepared.onnx")


def weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def types(model: ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_weights_become_half_and_results_stay_close(tmp_path: Path) -> None:
    model = prepared(tmp_path)
    halved = emit_half(model, ())
    assert TensorProto.FLOAT16 in types(halved).values()
    assert weight_bytes(halved) == weight_bytes(model) / 2
    reference, given = (run(each, ROWS, tmp_path)["scores"] for each in (model, halved))
    assert given.dtype == np.float32
    assert np.allclose(reference, given, atol=0.05)
    assert not np.array_equal(reference, given)


def test_kept_operators_keep_float_weights(tmp_path: Path) -> None:
    model = prepared(tmp_path)
    halved = types(emit_half(model, ("op:Gemm",)))
    assert halved["head.w"] == TensorProto.FLOAT
    assert halved["dw.w"] == TensorProto.FLOAT16


def test_a_graph_that_cannot_be_halved_says_so() -> None:
    broken = relu_model()
    del broken.opset_import[:]
    with pytest.raises(StageFailed, match="cannot be turned into FP16"):
        emit_half(broken, ())
