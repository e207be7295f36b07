"""What a recipe asks of TensorRT beyond precision, as flags of its builder: weights that change, sparse kernels."""

from __future__ import annotations

from typing import Any

from service.errors import EngineFailed

# Weights that are put back are the ones that were taken out, so that kernels may be chosen by their values.
_OF_WEIGHTS = {"fixed": (), "refittable": ("REFIT",), "stripped": ("STRIP_PLAN", "REFIT_IDENTICAL")}
_SPARSE = "SPARSE_WEIGHTS"


def flags_of(trt: Any, weights: str, sparse: bool) -> tuple[str, ...]:
    """The flags' names. Raises EngineFailed where this TensorRT lacks one that the engine cannot do without."""
    known = trt.BuilderFlag.__members__
    lacking = [name for name in _OF_WEIGHTS[weights] if name not in known]
    if lacking:
        raise EngineFailed(
            f"weights is {weights!r}, for which this TensorRT ({trt.__version__}) lacks the builder flag {lacking[0]}; "
            "leave weights out of the recipe"
        )
    # Without it sparse weights are multiplied like any others.
    return (*_OF_WEIGHTS[weights], *((_SPARSE,) if sparse and _SPARSE in known else ()))


def set_flags(trt: Any, config: Any, names: tuple[str, ...]) -> None:
    # FP32 means FP32: TF32 keeps 10 of its 23 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in names:
        config.set_flag(trt.BuilderFlag.__members__[name])
