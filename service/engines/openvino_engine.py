"""OpenVINO on the CPU. Reads ONNX files, and computes in the precision that the graph states, never a lower one.

Refuses text, and integers beyond 32 bits: the CPU device computes all integers in 32 bits and would cut them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.openvino_import import FrontEndManager
from service.engines.openvino_import import openvino as ov
from service.engines.openvino_indices import Bounds, index_bounds
from service.engines.openvino_passing import OUTPUT_SUFFIX, copy_outputs, passed_on
from service.engines.openvino_shapes import TriedShapes, last_words, tried_shapes
from service.engines.refused_shapes import openvino_refusal, shapes_vary
from service.errors import EngineFailed, InvalidModel, InvalidTensor

_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
}
_WIDE = ("UINT32", "UINT64", "INT64")
_COMPUTED = np.iinfo(np.int32)
_MAX_WORDS = 500
_NO_ROWS = "this batch holds no rows, which this engine has no answer to; send at least one"
_NEXT_STEP = "check the model, or have it built by runtime onnxruntime, which reads more"
_PLACES = ("Exception from ", "Caught exception: Exception from ", "Check '")


class OpenVinoEngine:
    """One compiled model. Each caller runs on a request of its own, so that several threads may infer at once."""

    def __init__(
        self, compiled: ov.CompiledModel, bounds: Sequence[Bounds | None], tried: TriedShapes | None = None
    ) -> None:
        """`bounds` are of the inputs, in their order; `tried` is there where shapes have to be tried first."""
        self._compiled = compiled
        self._bounds = tuple(bounds)
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._tried = tried
        self._shapes_vary = shapes_vary(self.inputs)
        self._positions = {spec.name: index for index, spec in enumerate(self.outputs)}
        self._free: deque[ov.InferRequest] = deque()

    @classmethod
    def load(cls, path: Path, threads: int, instances: int = 1) -> OpenVinoEngine:
        """Opens an ONNX file; `instances` batches may run beside each other on `threads` threads each, others wait.

        Raises EngineFailed with OpenVINO's own words, InvalidModel for a tensor type that it has no array for.
        """
        return cls(*compile_model(path, threads, instances))

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        names = list(self._positions if outputs is None else outputs)
        unknown = [
            *(spec.name for spec in self.inputs if spec.name not in inputs),
            *(set(names) - set(self._positions)),
        ]
        if unknown:
            raise EngineFailed(f"this batch lacks input, or the model output, {unknown[0]!r}; see the model's metadata")
        tensors = [
            _tensor(spec, inputs[spec.name], bounds) for spec, bounds in zip(self.inputs, self._bounds, strict=True)
        ]
        if self._tried is not None:
            self._tried.check(self.inputs, inputs)
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            # On one thread `infer` swallows what goes wrong, and the outputs are still those of an earlier caller.
            request.start_async(share_inputs=True)
            request.wait()
        except Exception as error:
            refused = openvino_refusal(inputs, str(error), last_words(error)) if self._shapes_vary else None
            if refused is not None:
                raise refused from error
            if not all(inputs[spec.name].size for spec in self.inputs):
                raise InvalidTensor(_NO_ROWS) from error
            raise EngineFailed(f"OpenVINO failed on this batch: {_words(error)}") from error
        answers = {name: self._owned(request, name) for name in names}
        self._free.append(request)
        if not all(inputs[spec.name].size for spec in self.inputs):
            self._refuse_stale(answers)
        return answers

    def _refuse_stale(self, answers: Mapping[str, Array]) -> None:
        """An empty batch leaves some graphs' outputs as an earlier batch made them: that is nobody else's to see."""
        for name, values in answers.items():
            if self.outputs[self._positions[name]].batched and len(values):
                raise InvalidTensor(_NO_ROWS)

    def _owned(self, request: ov.InferRequest, name: str) -> Array:
        """A copy: the request writes its next answer where it wrote this one."""
        index = self._positions[name]
        values = np.array(request.get_output_tensor(index).data)
        return values.view(np.uint16) if self.outputs[index].datatype == "BF16" else values

    def close(self) -> None:
        self._free.clear()
        del self._compiled


def compile_model(
    path: Path, threads: int, instances: int = 1
) -> tuple[ov.CompiledModel, tuple[Bounds | None, ...], TriedShapes | None]:
    """The ONNX model at `path`, ready for this CPU; what integers its inputs may hold, in their order; and what tries
    their shapes, where this device does not check them.

    Raises EngineFailed with OpenVINO's own words.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        # Left alone, a CPU with BF16 instructions would run FP32 graphs in BF16. A BF16 graph still runs in BF16.
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": str(instances),
        "INFERENCE_NUM_THREADS": str(threads * instances),
        # Several processes share this host's cores; each pinned to the first ones would crowd them.
        "ENABLE_CPU_PINNING": "NO",
        "CACHE_DIR": "",
    }
    try:
        # Asked for by its format: the file may have any name, and the readers of other formats stay out of it.
        frontend = FrontEndManager().load_by_framework("onnx")
        read = frontend.load(str(path))
        # Asked for here: to convert a model empties what was read.
        inputs = [place.get_names()[0] for place in read.get_inputs()]
        model = frontend.convert(read)
        if not model.outputs:
            raise EngineFailed(f"OpenVINO cannot load {path.name}: it holds no model; check the model")
        bounds, tried = index_bounds(model), tried_shapes(model)
        compiled = ov.Core().compile_model(model, "CPU", settings)
        names = passed_on(compiled)
        if names:
            copy_outputs(model, names, inputs)
            compiled = ov.Core().compile_model(model, "CPU", settings)
            _check_copied(compiled, path)
        return compiled, bounds, tried
    except EngineFailed:
        raise
    except Exception as error:
        raise EngineFailed(f"OpenVINO cannot load {path.name}: {_words(error)}; {_NEXT_STEP}") from error


def _check_copied(compiled: ov.CompiledModel, path: Path) -> None:
    if passed_on(compiled):
        raise EngineFailed(
            f"OpenVINO cannot load {path.name}: an output is an input as it came, which it would answer wrongly; "
            "take that output out of the model, or use runtime onnxruntime"
        )


def _spec(port: ov.ConstOutput) -> TensorSpec:
    name, kind = _name(port), port.get_element_type().get_type_name()
    if kind not in _DATATYPES:
        raise InvalidModel(
            f"tensor {name!r} has type {kind}, which OpenVINO's CPU device gives no array of; use one of "
            f"{', '.join(_DATATYPES)}, or runtime onnxruntime"
        )
    shape = tuple(-1 if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape())
    return TensorSpec(name, _DATATYPES[kind], shape)


def _name(port: ov.ConstOutput) -> str:
    """The tensor's name in the file: a tensor that the compiler merged with another bears the names of both."""
    stated = port.get_node().get_friendly_name().removesuffix(OUTPUT_SUFFIX)
    return str(stated if stated in port.get_names() else port.get_any_name())


def _tensor(spec: TensorSpec, values: Array, bounds: Bounds | None) -> ov.Tensor:
    """The array as the runtime sees it, without a copy where it may be written to. Raises InvalidTensor."""
    if bounds is not None:
        bounds.check(spec.name, values)
    elif spec.datatype in _WIDE and values.size:
        _check_fits(spec.name, int(values.min()), int(values.max()))
    if spec.datatype == "BF16":
        return ov.Tensor(values, ov.Shape(list(values.shape)), ov.Type.bf16)
    return ov.Tensor(values, shared_memory=values.flags.writeable)


def _check_fits(name: str, low: int, high: int) -> None:
    if high > _COMPUTED.max or low < _COMPUTED.min:
        raise InvalidTensor(
            f"input {name!r} holds {max(low, high, key=abs)}, but this engine computes integers in 32 bits; send "
            f"{_COMPUTED.min} to {_COMPUTED.max}"
        )


def _words(error: Exception) -> str:
    """The runtime's message on one line, without the places in its source that precede it."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_PLACES)]
    return " ".join(said or lines)[:_MAX_WORDS]
