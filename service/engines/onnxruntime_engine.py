"""ONNX Runtime on the CPU: the reference, and the home of the CPU variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.refused_shapes import onnxruntime_refusal, shapes_vary
from service.errors import EngineFailed, InvalidModel, InvalidTensor

# How long an engine's threads look out for work. Long enough for the next operator of a run, too short to hold a core
# that requests are read and answered on; where a run takes milliseconds, long enough for a caller's next request.
_SPIN_MICROSECONDS = "100"
_LONG_SPIN_MICROSECONDS = "500"
# Told by the file: who weighs so much is no model of microseconds.
_LONG_SPIN_BYTES = 2**20
_FATAL = 4
# ONNX Runtime 1.32 ends the process where one of these meets an empty axis; RNN is of their family.
_ENDS_ON_EMPTY = ("GRU", "LSTM", "RNN", "DynamicQuantizeLSTM", "Einsum")
# It ends where this divides the least integer of these types by -1, and a file does not tell who divides by what.
_ENDS_ON_LEAST = "Div"
_DIVIDED = ("INT32", "INT64")
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


# It quantizes what a graph keeps in float between two pairs, on one grid for all channels of a weight: a loss that no
# plan knows of. For sessions' `disabled_optimizers`.
LEFT_OUT_OPTIMIZERS = ("WeightBiasQuantization",)


# The metadata key of graphs that compute in FP16 and turn a first axis, such as time before batch. ONNX Runtime 1.32
# fuses such a Transpose into a MatMul, which then has no FP16 kernel on the CPU, and a later pass ends the process.
TURNED_HALF = "octavo.turned_half"
_FUSES_TRANSPOSES = "MatmulTransposeFusion"
_METADATA_BYTES = 2**16


def left_out_optimizers(file: bytes | mmap) -> tuple[str, ...]:
    """For the `disabled_optimizers` of a session over the bytes of an ONNX file, whose metadata stand at its end."""
    turned = file.rfind(TURNED_HALF.encode(), max(0, len(file) - _METADATA_BYTES)) >= 0
    return (*LEFT_OUT_OPTIMIZERS, *((_FUSES_TRANSPOSES,) if turned else ()))


def _mentions(file: mmap, *node_types: str) -> bool:
    """Whether an ONNX file may hold a node of one of these types, told by how it spells them."""
    return any(file.find(b'"' + bytes([len(name)]) + name.encode()) >= 0 for name in node_types)


class OnnxRuntimeEngine:
    """One inference session. Loads any ONNX file that ONNX Runtime's CPU provider can run."""

    def __init__(self, session: ort.InferenceSession, takes_empty: bool = True, takes_least: bool = True) -> None:
        self._session = session
        self._takes_empty = takes_empty
        self.inputs = tuple(tensor_spec(node) for node in session.get_inputs())
        self.outputs = tuple(tensor_spec(node) for node in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._shapes_vary = shapes_vary(self.inputs)
        # What fails is told by the exception; on stderr it would be told again, in colour and for each bad request.
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = _FATAL
        self._divided = [spec.name for spec in self.inputs if not takes_least and spec.datatype in _DIVIDED]
        self._text_inputs = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]

    @classmethod
    def load(cls, path: Path, threads: int) -> OnnxRuntimeEngine:
        """Opens `path` with `threads` intra-op threads. Raises EngineFailed with ONNX Runtime's own words."""
        try:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                left_out = left_out_optimizers(content)
                takes_empty = not _mentions(content, *_ENDS_ON_EMPTY)
                takes_least = not _mentions(content, _ENDS_ON_LEAST)
            options, providers = session_options(threads, path.stat().st_size), ["CPUExecutionProvider"]
            session = ort.InferenceSession(str(path), options, providers, disabled_optimizers=left_out)
        except Exception as error:
            raise EngineFailed(f"ONNX Runtime cannot load {path.name}: {error}; check the model") from error
        return cls(session, takes_empty, takes_least)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        names = self._output_names if outputs is None else list(outputs)
        if not self._takes_empty:
            _refuse_empty(inputs)
        for name in self._divided:
            _refuse_least(name, inputs[name])
        if self._text_inputs:
            inputs = dict(inputs) | {name: text_of(name, inputs[name]) for name in self._text_inputs}
        try:
            arrays = self._session.run(names, inputs, self._quiet)
        except Exception as error:
            refused = onnxruntime_refusal(inputs, error, self._shapes_vary)
            if refused is not None:
                raise refused from error
            raise EngineFailed(f"ONNX Runtime failed on this batch: {error}") from error
        return dict(zip(names, arrays, strict=True))

    def close(self) -> None:
        del self._session


def session_options(threads: int, file_bytes: int = 0) -> ort.SessionOptions:
    """What sessions of every provider have in common: `threads` intra-op threads, that spin as a model's size asks."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spin = _LONG_SPIN_MICROSECONDS if file_bytes >= _LONG_SPIN_BYTES else _SPIN_MICROSECONDS
    options.add_session_config_entry("session.intra_op.spin_duration_us", spin)
    return options


def _refuse_empty(inputs: Mapping[str, Array]) -> None:
    for name, array in inputs.items():
        if not array.size:
            raise InvalidTensor(f"input {name!r} has shape {list(array.shape)}; this model takes no empty tensors")


def _refuse_least(name: str, array: Array) -> None:
    least = int(np.iinfo(array.dtype).min)
    if array.size and int(array.min()) == least:
        raise InvalidTensor(
            f"input {name!r} holds {least}, which this model may divide by -1; send {least + 1} or more"
        )


def text_of(name: str, elements: Array) -> Array:
    """ONNX strings are UTF-8 text; the runtime would write bytes out as Python shows them. Raises InvalidTensor."""
    try:
        words = [item.decode() if isinstance(item, bytes) else str(item) for item in elements.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidTensor(f"input {name!r} holds {error.object[:40]!r}, which is not UTF-8; send text") from error
    text = np.empty(len(words), np.object_)
    text[:] = words
    return text.reshape(elements.shape)


def tensor_spec(node: ort.NodeArg) -> TensorSpec:
    """A session's input or output, -1 where a dimension varies. Raises InvalidModel for a type without an array."""
    if node.type not in _DATATYPES:
        raise InvalidModel(f"tensor {node.name!r} has type {node.type}; use one of {', '.join(_DATATYPES)}")
    shape = tuple(extent if isinstance(extent, int) else -1 for extent in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], shape)
