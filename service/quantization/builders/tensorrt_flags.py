"""What TensorRT's builder is told beyond precision, as flags: weights that change, sparse kernels, memory."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from service.errors import EngineFailed
from service.quantization.graphs.graph_checks import nodes_of

# Weights that are put back are the ones that were taken out, so that kernels may be chosen by their values.
_OF_WEIGHTS = {"fixed": (), "refittable": ("REFIT",), "stripped": ("STRIP_PLAN", "REFIT_IDENTICAL")}
_SPARSE = "SPARSE_WEIGHTS"
# An engine that allocates while it runs cannot be captured as a CUDA graph; TensorRT-RTX may build one unless told.
_NO_ALLOCATION = "REQUIRE_USER_ALLOCATION"
# Whose results' shapes only the data tell: with one of these TensorRT has to allocate.
_SHAPED_BY_DATA = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique", "Loop", "Scan", "If"})


def is_shaped_by_data(model: ModelProto) -> bool:
    return any(node.op_type in _SHAPED_BY_DATA for node in nodes_of(model))


def flags_of(trt: Any, weights: str, sparse: bool, shaped_by_data: bool = False) -> tuple[str, ...]:
    """The flags' names. Raises EngineFailed where this TensorRT lacks one that the engine cannot do without."""
    known = trt.BuilderFlag.__members__
    lacking = [name for name in _OF_WEIGHTS[weights] if name not in known]
    if lacking:
        raise EngineFailed(
            f"weights is {weights!r}, for which this TensorRT ({trt.__version__}) lacks the builder flag {lacking[0]}; "
            "leave weights out of the recipe"
        )
    # Without the one sparse weights are multiplied like any others; an older TensorRT does not need the other.
    wished = [*([_SPARSE] if sparse else []), *([] if shaped_by_data else [_NO_ALLOCATION])]
    return (*_OF_WEIGHTS[weights], *(name for name in wished if name in known))


def set_flags(trt: Any, config: Any, names: tuple[str, ...]) -> None:
    # FP32 means FP32: TF32 keeps 10 of its 23 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in names:
        config.set_flag(trt.BuilderFlag.__members__[name])
