"""What a deserialized engine says of itself: tensors, and the shapes that its optimization profiles take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.tensorrt_import import tensorrt_flavour
from service.engines.tensorrt_log import RuntimeLog, listening, process_logger
from service.errors import EngineFailed, InvalidModel

_DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that one optimization profile takes, smallest and largest, by input name."""

    least: Mapping[str, tuple[int, ...]]
    most: Mapping[str, tuple[int, ...]]

    def takes(self, inputs: Mapping[str, Array]) -> bool:
        return not any(outside(inputs[name].shape, self.least[name], self.most[name]) for name in self.most)


def outside(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> int:
    """The first axis, counted from 1, whose extent is not within the limits; 0 where all are."""
    for axis, (extent, low, high) in enumerate(zip(shape, least, most, strict=True), 1):
        if not low <= extent <= high:
            return axis
    return 0


def deserialized(trt: Any, plan: bytes, name: str) -> Any:
    """The engine of a plan's bytes, inside the GPU's context. Raises EngineFailed with TensorRT's own words."""
    log = RuntimeLog()
    with listening(log.take):
        # The runtime is kept alive by the engine it makes.
        engine = trt.Runtime(process_logger(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        flavour, version = tensorrt_flavour()
        raise EngineFailed(
            f"{flavour} {version} cannot load {name} ({len(plan)} bytes): {log.words()}; the file is damaged, or was "
            "built by another TensorRT or for another GPU: quantize again on this host"
        )
    return engine


def refit(trt: Any, engine: Any, weights: bytes, name: str) -> None:
    """Puts an ONNX graph's weights into an engine that was stripped of them, inside the GPU's context.

    Raises EngineFailed with TensorRT's own words, or the weights that the graph does not have.
    """
    log = RuntimeLog()
    with listening(log.take):
        refitter = trt.Refitter(engine, process_logger(trt))
        parser = trt.OnnxParserRefitter(refitter, process_logger(trt))
        why = ""
        if not parser.refit_from_bytes(weights):
            why = f"its graph is refused: {log.words()}"
        elif missing := refitter.get_missing_weights():
            why = f"its graph lacks {len(missing)} weights, for example {missing[0]!r}"
        elif not refitter.refit_cuda_engine():
            why = f"they are refused: {log.words()}"
    if why:
        raise EngineFailed(f"{name} cannot be given its weights: {why}; quantize again on this host")


def engine_specs(trt: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The engine's inputs and outputs, -1 where a dimension varies. Raises InvalidModel naming the tensor."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in _DATATYPES or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise InvalidModel(
                f"tensor {name!r} of the engine has type {kind}, or is read on the host; use tensors of "
                f"{', '.join(_DATATYPES)} that hold data, or runtime onnxruntime-cuda"
            )
        spec = TensorSpec(name, _DATATYPES[kind], tuple(engine.get_tensor_shape(name)))
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(spec)
    return tuple(inputs), tuple(outputs)


def engine_profiles(engine: Any, inputs: Sequence[TensorSpec]) -> tuple[Profile, ...]:
    """Every optimization profile, in the engine's order."""
    return tuple(_profile(engine, inputs, index) for index in range(engine.num_optimization_profiles))


def _profile(engine: Any, inputs: Sequence[TensorSpec], index: int) -> Profile:
    shapes = {spec.name: engine.get_tensor_profile_shape(spec.name, index) for spec in inputs}
    return Profile(
        {name: tuple(least) for name, (least, _, _) in shapes.items()},
        {name: tuple(most) for name, (_, _, most) in shapes.items()},
    )
