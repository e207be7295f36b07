"""What every runtime's builder does, and where to find it; no runtime is imported before its builder is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from service.engines.engine import Engine
from service.errors import InvalidRecipe

_BUILDERS = {
    "onnxruntime": "service.quantization.builders.onnxruntime_builder:OnnxRuntimeBuilder",
    "openvino": "service.quantization.builders.openvino_builder:OpenVinoBuilder",
}


@dataclass(frozen=True, slots=True)
class ExecutedOperator:
    """One operator as the loaded engine runs it; `name` is the graph node's that it came from, where it says."""

    name: str
    operator: str
    int8: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Builder(Protocol):
    """Makes one runtime's engine file from a converted graph, and reads it back."""

    @property
    def engine_file(self) -> str:
        """The engine's file name."""
        ...

    def build(self, converted: Path, engine: Path, threads: int) -> None:
        """Writes the engine. Raises EngineFailed with the runtime's own words."""
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
