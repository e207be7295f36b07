"""The layers of a network before it is compiled, and those of the engine: by the builder's log, or its inspector.

The log needs no GPU; the inspector reads a stored engine, and needs one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.engines.stripped_plan import read_plan
from service.engines.tensorrt_import import tensorrt_module
from service.engines.tensorrt_log import listening, process_logger
from service.errors import EngineFailed
from service.quantization.builders.builder import ExecutedOperator
from service.quantization.builders.tensorrt_log import BuildLog

_KEPT_LAYERS = 5000
# What TensorRT writes itself around the kernels that multiply: element by element, copies, shapes.
_WRITTEN = ("kgen", "shape_call")
_INT8 = "Int8"
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def network_layers(network: Any) -> list[dict[str, str]]:
    """Name, kind and the type of the first result of each layer that the parser made."""
    layers = (network.get_layer(index) for index in range(min(network.num_layers, _KEPT_LAYERS)))
    return [{"name": layer.name, "kind": layer.type.name, "type": _result_type(layer)} for layer in layers]


def _result_type(layer: Any) -> str:
    # What bounds a loop, or chooses a branch, gives no tensor.
    return str(layer.get_output(0).dtype.name) if layer.num_outputs else "none"


def compiled_operators(layers: Iterable[dict[str, Any]]) -> tuple[ExecutedOperator, ...]:
    """The operators that a kernel was chosen for, from the layers of a `BuildLog`; the rest is fused around these.

    A kernel is named after the operator that it multiplies for; its other origins are the Q/DQ nodes in front of that.
    """
    found: dict[str, ExecutedOperator] = {}
    for layer in layers:
        if layer["kind"] in _WRITTEN:
            continue
        # The longest, for one operator's name may begin with another's.
        name = max(filter(layer["name"].startswith, layer["origins"]), key=len, default="")
        if name and not name.endswith(("/quantize", "/dequantize")):
            found.setdefault(name, ExecutedOperator(name, layer["kind"], _INT8 in layer["reads"]))
    return tuple(found.values())


def operators_of(engine: Path) -> tuple[ExecutedOperator, ...]:
    """What the engine runs, by its inspector; needs a GPU. Raises EngineFailed where the file cannot be read."""
    trt = tensorrt_module()
    log = BuildLog()
    with listening(log.take):
        loaded = trt.Runtime(process_logger(trt)).deserialize_cuda_engine(read_plan(engine)[0])
    if loaded is None:
        raise EngineFailed(f"TensorRT cannot read {engine.name}: {log.reason}; quantize again on this host")
    told = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return executed_operators(json.loads(told))


def executed_operators(information: dict[str, Any]) -> tuple[ExecutedOperator, ...]:
    """As `compiled_operators`, from what the inspector tells: {"Layers": [{Name, LayerType, Inputs, Metadata}]}."""
    # At a lower verbosity than ours the inspector gives names alone.
    told = (layer for layer in information.get("Layers", ()) if isinstance(layer, dict))
    return compiled_operators(
        {
            "name": str(layer.get("Name", "")),
            "kind": str(layer.get("LayerType", "unknown")),
            "reads": [_type(tensor) for tensor in layer.get("Inputs", ())],
            "origins": _ORIGIN.findall(str(layer.get("Metadata", ""))),
        }
        for layer in told
    )


def _type(tensor: dict[str, Any]) -> str:
    """The element type, which the inspector writes by itself or in front of the layout."""
    words = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format", "")).split()
    return words[0] if words else "unknown"
