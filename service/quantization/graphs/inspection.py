"""Checks an uploaded ONNX file before anything trusts it, and derives what its callers must know.

Runs in the sandbox: the parsers and shape inference below are native code fed with untrusted bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from service.domain.inference import Array
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.samples import Sampler, sampler_for
from service.errors import EngineFailed, InvalidModel, InvalidTensor
from service.quantization.graphs.graph_checks import (
    check_graph,
    forget_stated_shapes,
    graphs_of,
    nodes_of,
    open_unstated_axes,
)
from service.quantization.graphs.inferred_values import inferred_values
from service.quantization.graphs.sparse_constants import has_sparse_constants, write_out_sparse_constants

OLDEST_OPSET = 7
OLDEST_IR = 3
_PROBE_OPSET = 13
_DEFAULT_DOMAIN = ("", "ai.onnx")
MAX_SAMPLE_ELEMENTS = 2**28
_STARTS = (
    (b"PK", "a zip archive (a PyTorch or Keras file?)"),
    (b"\x80", "a pickle (a PyTorch file?)"),
    (b"\x89HDF", "an HDF5 file (a Keras file?)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip file"),
)
_NEXT_STEP = "send the .onnx file that torch.onnx.export or tf2onnx wrote"


def inspect_model(arguments: dict[str, Any], report_progress: Callable[[float], None]) -> dict[str, Any]:
    """Checks the file at `path`. Returns opset, inputs and outputs (specs), operators (type to count), parameters and
    warnings. Raises InvalidModel with the value and the next step.
    """
    path = Path(arguments["path"])
    model = read_model(path)
    report_progress(0.2)
    open_unstated_axes(model)
    opset = check_versions(model)
    check_graph(model)
    stated = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.output}
    report_progress(0.4)
    _check_by_onnx(model)
    report_progress(0.6)
    engine = _loaded(path)
    warnings = _run_samples(engine, stated)
    return {
        "opset": opset,
        "inputs": [spec.to_json() for spec in engine.inputs],
        "outputs": [spec.to_json() for spec in engine.outputs],
        "operators": dict(sorted(Counter(node.op_type for node in nodes_of(model)).items())),
        "parameters": sum(math.prod(t.dims) for graph in graphs_of(model) for t in graph.initializer),
        "warnings": warnings,
    }


def read_model(path: Path) -> ModelProto:
    """Parses the file without following external data. Raises InvalidModel where it is empty, cut off or no ONNX."""
    data = path.read_bytes()
    if not data:
        raise InvalidModel(f"the file is empty; {_NEXT_STEP}")
    for magic, kind in _STARTS:
        if data.startswith(magic):
            raise InvalidModel(f"the file is {kind}, not ONNX; {_NEXT_STEP}")
    if data[4:8] == b"TFL3":
        raise InvalidModel(f"the file is a TensorFlow Lite model, not ONNX; {_NEXT_STEP}")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModel(f"the {len(data)} bytes are no ONNX protobuf, or are cut off; {_NEXT_STEP}") from error
    if not model.HasField("graph") or not model.ir_version or not model.opset_import:
        raise InvalidModel(f"the {len(data)} bytes parse, but hold no graph, IR version or opset; {_NEXT_STEP}")
    return model


def check_versions(model: ModelProto) -> int:
    """The model's opset, where this onnxruntime and onnx know it and the IR version. Raises InvalidModel.

    One that is stated twice, as skl2onnx does, is one. Where no operator is of ai.onnx, as in onnxmltools' trees, none
    need be stated: it is the newest then, as ONNX Runtime reads it.
    """
    newest_opset, newest_ir = known_versions()
    if not OLDEST_IR <= model.ir_version <= newest_ir:
        raise InvalidModel(f"the IR version is {model.ir_version}; export the model with IR {OLDEST_IR} to {newest_ir}")
    opsets = list({entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAIN})
    if not opsets and not any(node.domain in _DEFAULT_DOMAIN for node in nodes_of(model)):
        return newest_opset
    if len(opsets) != 1:
        raise InvalidModel(f"the model imports {len(opsets)} versions of ai.onnx; export it with exactly one opset")
    if not OLDEST_OPSET <= opsets[0] <= newest_opset:
        raise InvalidModel(f"the opset is {opsets[0]}; export the model with opset {OLDEST_OPSET} to {newest_opset}")
    return opsets[0]


@cache
def known_versions() -> tuple[int, int]:
    """The newest opset and IR version that both installed libraries can quantize, found by trying: neither tells."""
    opset, ir = onnx.defs.onnx_opset_version(), int(onnx.IR_VERSION)
    while not _loads(_PROBE_OPSET, ir):
        ir -= 1
    while not _loads(opset, ir):
        opset -= 1
    return opset, ir


def _loads(opset: int, ir: int) -> bool:
    import onnxruntime

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
    ]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph(nodes, "probe", [x], [y], [scale])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever the reason, this version is not accepted
        return False
    return True


def _check_by_onnx(model: ModelProto) -> None:
    """Also writes out sparse constants, of which ONNX's inference knows nothing: their places are checked before."""
    try:
        if has_sparse_constants(model):
            onnx.checker.check_model(model)
            write_out_sparse_constants(model)
        _check_shapes(model)
    except InvalidModel:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:400]
        raise InvalidModel(f"the ONNX checker refuses the model: {words}; export it again") from error


def _check_shapes(model: ModelProto) -> None:
    """Of shapes that are stated otherwise than operators give them, as skl2onnx does, ONNX Runtime believes the latter.

    These have to agree with each other, and with the stated types.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError:
        forget_stated_shapes(model)
        inferred_values(model, strict=True)


def _loaded(path: Path) -> OnnxRuntimeEngine:
    try:
        return OnnxRuntimeEngine.load(path, threads=1)
    except (EngineFailed, UnicodeDecodeError) as error:
        raise InvalidModel(f"ONNX Runtime refuses the model: {str(error)[:600]}") from error


def _run_samples(engine: OnnxRuntimeEngine, stated: dict[str, int]) -> list[str]:
    """Runs one row of zeros, and two where the batch is open; warns where open inner axes can be to blame, or zeros.

    `stated` is how many axes the file gives each output.
    """
    warnings: list[str] = []
    open_axes = [spec.name for spec in engine.inputs if -1 in spec.row_shape]
    if open_axes:
        shown = ", ".join(map(repr, open_axes))
        warnings.append(f"inputs {shown} have open axes behind the batch; only rows that agree on them share a batch")
    batched = any(spec.batched for spec in engine.inputs)
    _check_row_size(engine)
    sampler = _sampler(engine)
    for rows in (1, 2) if batched else (1,):
        try:
            results = engine.infer(sampler.zeros(rows))
        except (EngineFailed, InvalidTensor) as error:
            words = f"the model cannot run on {rows} rows of zeros: {str(error)[:400]}"
            if not open_axes and isinstance(error, InvalidTensor):
                warnings.append(f"{words}; it is served without having run, and none of its requests share a batch")
                break
            if not open_axes:
                advice = "a working dynamic batch, or with a fixed first axis" if rows == 2 else "sound shapes"
                raise InvalidModel(f"{words}; export it with {advice}") from error
            warnings.append(f"{words}; it is served, and requests of such rows do not share a batch")
            break
        if rows == 1:
            warnings += _misstated(engine, results, stated)
    return warnings


def _sampler(engine: OnnxRuntimeEngine) -> Sampler:
    """Where none is found the first, which is then run once more for the model's own words."""
    try:
        return sampler_for(engine) or Sampler(engine.inputs)
    except EngineFailed:
        return Sampler(engine.inputs)


def _check_row_size(engine: OnnxRuntimeEngine) -> None:
    for spec in engine.inputs:
        elements = math.prod(max(extent, 1) for extent in spec.row_shape)
        if elements > MAX_SAMPLE_ELEMENTS:
            raise InvalidModel(
                f"a row of input {spec.name!r} has {elements} elements; send a model with at most {MAX_SAMPLE_ELEMENTS}"
            )


def _misstated(engine: OnnxRuntimeEngine, results: dict[str, Array], stated: dict[str, int]) -> list[str]:
    """Outputs whose number of axes is not what the model states. Raises InvalidModel for what is no tensor."""
    warnings = []
    for spec in engine.outputs:
        value = results[spec.name]
        if not isinstance(value, np.ndarray):
            raise InvalidModel(f"output {spec.name!r} is a {type(value).__name__}; export the model with tensors alone")
        if value.ndim != len(spec.shape):
            axes = f"{stated[spec.name] or 'no'} axes"
            warnings.append(
                f"output {spec.name!r} is stated with {axes} and gave {list(value.shape)}: answers have the shape that "
                "they have, and the model's metadata says otherwise; state it as it is"
            )
    return warnings
