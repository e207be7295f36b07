"""ONNX Runtime on the GPU compiles at load, so its engine is the emitted graph; a host without a GPU can emit it too.

There only the CPU provider can look at the graph: that it loads is told, and nothing of the GPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx

from service.engines.cuda_device import find_device, why_no_device
from service.engines.gpu_requirements import missing_for
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.onnxruntime_gpu_engine import OnnxRuntimeGpuEngine, cuda_providers
from service.quantization.builders.builder import BuildOptions, ExecutedOperator
from service.quantization.builders.onnxruntime_builder import executed_operators

_PAIR = ("QuantizeLinear", "DequantizeLinear")


class _OnnxRuntimeGpuBuilder:
    """Copies the converted graph. `runtime` is the engine's name, which says the provider."""

    engine_file = "engine.onnx"
    runtime: str

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        if self.why_not_here():
            OnnxRuntimeEngine.load(converted, options.threads).close()
        else:
            self.load(converted, options.threads).close()
        shutil.copyfile(converted, engine)
        return {}

    def why_not_here(self) -> str:
        if find_device() is None:
            return f"no NVIDIA device on this host; {why_no_device()}"
        return missing_for(self.runtime)

    def load(self, engine: Path, threads: int) -> OnnxRuntimeGpuEngine:
        return OnnxRuntimeGpuEngine.load(engine, self.runtime)


class OnnxRuntimeCudaBuilder(_OnnxRuntimeGpuBuilder):
    """For the CUDA provider, whose kernels behind Q/DQ pairs are all of floating point: known without running any."""

    runtime = "onnxruntime-cuda"

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        told = super().build(converted, engine, options)
        written = onnx.load_model(engine, load_external_data=False).graph.node
        floats = [ExecutedOperator(node.name, node.op_type, False) for node in written if node.op_type not in _PAIR]
        return told | {"executed": [operator.to_json() for operator in floats]}

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        return executed_operators(engine, threads, cuda_providers())


class OnnxRuntimeTensorRtBuilder(_OnnxRuntimeGpuBuilder):
    """For the TensorRT provider, which shows nothing of what it compiled."""

    runtime = "onnxruntime-tensorrt"

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        return ()
