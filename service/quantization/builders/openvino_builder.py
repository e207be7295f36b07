"""OpenVINO compiles at load, from ONNX as fast as from its own format, so its engine is the converted graph, but for
operators that it would compute wrongly, activations that it would compute slowly and empty inputs that it cannot read.

What the compiled model runs is read from its runtime model, which names the operators that each kernel was made of.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from service.engines.openvino_engine import OpenVinoEngine, compile_model
from service.quantization.builders.builder import BuildOptions, ExecutedOperator
from service.quantization.builders.openvino_activations import write_activations
from service.quantization.builders.openvino_operators import write_operators
from service.quantization.builders.openvino_reductions import separate_reductions
from service.quantization.graphs.graph_checks import drop_empty_inputs
from service.quantization.graphs.sparse_constants import write_out_sparse_constants

_INT8 = {"i8", "u8"}
# Layers that compute nothing: what feeds and what reads the graph.
_ENDS = ("Const", "Input", "Output")
# What the reader and the transformations append to the name of an operator that they split into several.
_BARE_SUFFIXES = ("/WithoutBiases", "_original")
_SCALE_SUFFIX = "/DequantizationMultiply"
_PAIR = ("QuantizeLinear", "DequantizeLinear")


class OpenVinoBuilder:
    """Writes the converted graph and proves that it loads."""

    engine_file = "engine.onnx"

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        shutil.copyfile(converted, engine)
        # What is no model, OpenVINO says in its own words.
        with suppress(DecodeError):
            model = onnx.load_model(converted)
            changed = write_out_sparse_constants(model)
            written = write_operators(model)
            changed |= drop_empty_inputs(written) | separate_reductions(written) | write_activations(written)
            if changed or written is not model:
                onnx.save_model(written, engine)
        try:
            OpenVinoEngine.load(engine, options.threads).close()
        except BaseException:
            engine.unlink()
            raise
        return {}

    def why_not_here(self) -> str:
        return ""

    def load(self, engine: Path, threads: int) -> OpenVinoEngine:
        return OpenVinoEngine.load(engine, threads)

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        """One entry for each operator of the graph that a kernel was made of; `operator` is the kernel's type."""
        written = onnx.load_model(engine, load_external_data=False).graph.node
        # The operator that makes an output of the model is known by that output's name.
        maker = {name: node.name for node in written for name in node.output}
        kinds = {node.name: node.op_type for node in written}
        found: dict[str, ExecutedOperator] = {}
        for layer in compile_model(engine, threads)[0].get_runtime_model().get_ordered_ops():
            kind = _text(layer, "layerType")
            if kind in _ENDS:
                continue
            origins = [name if name in kinds else maker.get(name, name) for name in _origins(layer, kind)]
            for name in origins:
                # A rounding inside a kernel is a part of it; by itself it is an operator of its own.
                if name in kinds and (kinds[name] not in _PAIR or len(origins) == 1):
                    # The kernel itself comes before what is left of its dequantization.
                    found.setdefault(name, ExecutedOperator(name, kind, _runs_int8(layer)))
        return tuple(found.values())


def _runs_int8(layer: Any) -> bool:
    """Whether the layer is an integer kernel; one that works element by element, whether it reads and writes INT8."""
    if _text(layer, "layerType") != "Eltwise":
        return _text(layer, "runtimePrecision") in _INT8
    read = {port.get_element_type().get_type_name() for port in layer.inputs()}
    made = {port.get_element_type().get_type_name() for port in layer.outputs()}
    return bool(read & _INT8) and made <= _INT8


def _origins(layer: Any, kind: str) -> Iterator[str]:
    """The names of the operators that a layer was made of, as far as the graph knows them."""
    for name in _text(layer, "originalLayersNames").split(","):
        for suffix in (*_BARE_SUFFIXES, *(() if kind == "Eltwise" else (_SCALE_SUFFIX,))):
            name = name.removesuffix(suffix)
        yield name


def _text(layer: Any, key: str) -> str:
    info = layer.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""
