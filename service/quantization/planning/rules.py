"""What each runtime's INT8 kernels want of a plan: where operators may run, which grids, and who writes the graph.

No runtime is imported here: emitters write ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from service.domain.plan import QuantizationPlan
from service.errors import InvalidRecipe
from service.quantization.emitters.onnxruntime import emit_onnxruntime
from service.quantization.emitters.openvino import emit_openvino
from service.quantization.emitters.tensorrt import emit_tensorrt
from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.placements.openvino import place as place_openvino
from service.quantization.placements.placement import Placement
from service.quantization.placements.tensorrt import place as place_tensorrt


@dataclass(frozen=True, slots=True)
class GridRules:
    """The integers of activations (UINT8 or INT8), whether their zero point may be any, and the bias's form."""

    activation: str
    free_zero_point: bool
    integer_bias: bool

    def mirrored(self, scheme: str) -> bool:
        """Whether the ranges of signed activations are as wide below zero as above it, for a recipe of this scheme."""
        return scheme == "symmetric" or not self.free_zero_point


@dataclass(frozen=True, slots=True)
class RuntimeRules:
    """One runtime's way from a float graph to its quantized one. `place` takes the graph and keep_float patterns."""

    grids: GridRules
    place: Callable[[Graph, Sequence[str]], Placement]
    emit: Callable[[ModelProto, QuantizationPlan], ModelProto]


_TENSORRT = RuntimeRules(GridRules("INT8", False, False), place_tensorrt, emit_tensorrt)
_RULES = {
    "onnxruntime": RuntimeRules(GridRules("UINT8", True, True), place, emit_onnxruntime),
    "openvino": RuntimeRules(GridRules("UINT8", True, False), place_openvino, emit_openvino),
    "tensorrt": _TENSORRT,
    # The CUDA provider has kernels for INT8 and UINT8 pairs with scales of FP32 or FP16, none for the INT32 biases of
    # the CPU's form, which would be dequantized on the processor in every run.
    "onnxruntime-cuda": _TENSORRT,
    "onnxruntime-tensorrt": _TENSORRT,
}


def rules_of(runtime: str) -> RuntimeRules:
    """Raises InvalidRecipe for a runtime that takes no quantized graph."""
    if runtime not in _RULES:
        raise InvalidRecipe(f"runtime {runtime!r} takes no INT8 graph; send one of {', '.join(_RULES)}")
    return _RULES[runtime]
