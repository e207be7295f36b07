"""ONNX Runtime compiles at load, so its engine is the converted graph: an optimized one would fit one host only."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto

from service.engines.onnxruntime_engine import OnnxRuntimeEngine, left_out_optimizers
from service.errors import EngineFailed
from service.quantization.builders.builder import BuildOptions, ExecutedOperator

_INT8_KERNELS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "QAttention", "DynamicQuantize")
_INT8_TYPES = (TensorProto.INT8, TensorProto.UINT8)
# Kernels that take INT8 and give floating point.
_FLOAT_RESULTS = ("DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_QGEMM_INPUTS_WITH_OUTPUT_SCALE = 8
# The layout pass renames what it moves to channels-last.
_LAYOUT_SUFFIX = re.compile(r"(_token_\d+|_nhwc|_nchwc)$")


class OnnxRuntimeBuilder:
    """Copies the converted graph and proves that it loads."""

    engine_file = "engine.onnx"

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        OnnxRuntimeEngine.load(converted, options.threads).close()
        shutil.copyfile(converted, engine)
        return {}

    def why_not_here(self) -> str:
        return ""

    def load(self, engine: Path, threads: int) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine.load(engine, threads)

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        return executed_operators(engine, threads, ["CPUExecutionProvider"])


def executed_operators(engine: Path, threads: int, providers: Sequence[Any]) -> tuple[ExecutedOperator, ...]:
    """What ONNX Runtime makes of a graph for these providers. Raises EngineFailed."""
    written = onnx.load_model(engine, load_external_data=False).graph.node
    maker = {name: node for node in written for name in node.output}
    names = {node.name for node in written}
    return tuple(
        replace(operator, name=_written_name(operator, names, maker))
        for operator in _executed(_optimized(engine, threads, providers))
    )


def _optimized(engine: Path, threads: int, providers: Sequence[Any]) -> ModelProto:
    """The graph as ONNX Runtime rewrites it for this host."""
    with tempfile.TemporaryDirectory(dir=engine.parent) as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            with engine.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                left_out = left_out_optimizers(content)
            ort.InferenceSession(str(engine), options, list(providers), disabled_optimizers=left_out)
        except Exception as error:
            raise EngineFailed(f"ONNX Runtime cannot load {engine.name}: {error}; check the recipe") from error
        return onnx.load_model(options.optimized_model_filepath, load_external_data=False)


def _written_name(operator: ExecutedOperator, names: set[str], maker: Mapping[str, NodeProto]) -> str:
    """The name of the graph's node behind an executed one, where it can be told."""
    if operator.name in names:
        return operator.name
    name = _LAYOUT_SUFFIX.sub("", operator.name)
    # Blocked float kernels are named after the tensor that they make, which may be that of a clip fused into them.
    node = maker.get(name)
    while node is not None and operator.operator == "Conv" and node.op_type != "Conv":
        node = maker.get(node.input[0])
    return name if node is None else node.name


def _executed(model: ModelProto) -> tuple[ExecutedOperator, ...]:
    """Follows INT8 tensors from node to node: operators that only move them have no INT8 name of their own."""
    int8 = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _INT8_TYPES}
    operators = []
    for node in model.graph.node:
        kernel = node.op_type.startswith(_INT8_KERNELS)
        moved = bool(node.input) and node.input[0] in int8 and node.op_type != "DequantizeLinear"
        if _makes_int8(node, kernel or moved):
            int8.update(node.output)
        operators.append(ExecutedOperator(node.name, node.op_type, kernel or moved))
    return tuple(operators)


def _makes_int8(node: NodeProto, runs_int8: bool) -> bool:
    if node.op_type == "QuantizeLinear":
        return True
    if node.op_type == "QGemm":
        return len(node.input) > _QGEMM_INPUTS_WITH_OUTPUT_SCALE - 1
    return runs_int8 and node.op_type not in _FLOAT_RESULTS
