"""Predicts which operators of an emitted graph run in INT8 on a runtime, and by which rule, before it is built."""

from __future__ import annotations

from importlib import import_module

from onnx import ModelProto

from service.errors import InvalidRecipe
from service.quantization.lint.prediction import Predicted

_LINTS = {
    "onnxruntime": "service.quantization.lint.onnxruntime",
    "openvino": "service.quantization.lint.openvino",
    "tensorrt": "service.quantization.lint.tensorrt",
    "onnxruntime-cuda": "service.quantization.lint.onnxruntime_cuda",
    "onnxruntime-tensorrt": "service.quantization.lint.tensorrt",
}


def predict(runtime: str, model: ModelProto) -> tuple[Predicted, ...]:
    """One prediction for each operator of floating-point numbers. Raises InvalidRecipe for a runtime without a lint."""
    if runtime not in _LINTS:
        raise InvalidRecipe(f"runtime {runtime!r} has no fusion lint; send one of {', '.join(_LINTS)}")
    found: tuple[Predicted, ...] = import_module(_LINTS[runtime]).predict(model)
    return found
