"""What every runtime's builder does, and where to find it; no runtime is imported before its builder is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from service.domain.recipe import BatchProfile
from service.engines.engine import Engine
from service.errors import InvalidRecipe

_BUILDERS = {
    "onnxruntime": "service.quantization.builders.onnxruntime_builder:OnnxRuntimeBuilder",
    "openvino": "service.quantization.builders.openvino_builder:OpenVinoBuilder",
    "onnxruntime-cuda": "service.quantization.builders.onnxruntime_gpu_builder:OnnxRuntimeCudaBuilder",
    "onnxruntime-tensorrt": "service.quantization.builders.onnxruntime_gpu_builder:OnnxRuntimeTensorRtBuilder",
    "tensorrt": "service.quantization.builders.tensorrt_builder:TensorRtBuilder",
}


@dataclass(frozen=True, slots=True)
class ExecutedOperator:
    """One operator as the loaded engine runs it; `name` is the graph node's that it came from, where it says."""

    name: str
    operator: str
    int8: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build: threads of the CPU, rows in a batch, the file that keeps what timing kernels has shown, and where
    a plan has its weights.
    """

    threads: int
    batch: BatchProfile
    timing_cache: Path | None = None
    weights: str = "fixed"


class Builder(Protocol):
    """Makes one runtime's engine file from a converted graph, and reads it back."""

    @property
    def engine_file(self) -> str:
        """The engine's file name."""
        ...

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        """Writes the engine; gives what a report should tell of the build, as JSON: `executed` where the builder knows
        the operators that it compiled without running the engine.

        Raises EngineFailed with the runtime's own words, InvalidModel for a graph that the runtime refuses.
        """
        ...

    def why_not_here(self) -> str:
        """Why this host can build engines of the runtime but not run them; "" where it can."""
        ...

    def load(self, engine: Path, threads: int) -> Engine:
        """The engine, ready to infer. Raises EngineFailed."""
        ...

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        """The operators that the runtime really runs on this host."""
        ...


def builder_for(runtime: str) -> Builder:
    """The runtime's builder. Raises InvalidRecipe for a runtime without one."""
    if runtime not in _BUILDERS:
        raise InvalidRecipe(f"runtime {runtime!r} has no builder; send one of {', '.join(_BUILDERS)}")
    module, _, name = _BUILDERS[runtime].partition(":")
    builder: Builder = getattr(import_module(module), name)()
    return builder
