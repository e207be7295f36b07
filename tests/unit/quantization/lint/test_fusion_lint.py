"""Every runtime that takes a quantized graph has a lint, found by its name."""

from __future__ import annotations

import pytest

from service.errors import InvalidRecipe
from service.quantization.lint.fusion_lint import predict
from tests.unit.quantization.small_models import relu_model


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_float_graph_runs_in_float_everywhere(runtime: str) -> None:
    (only,) = predict(runtime, relu_model())
    assert (only.name, only.operator, only.int8) == ("relu", "Relu", False)
    assert only.to_json()["rule"] == only.rule != ""


def test_a_runtime_without_a_lint_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="'tvm' has no fusion lint; send one of onnxruntime"):
        predict("tvm", relu_model())
