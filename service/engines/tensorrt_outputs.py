"""Memory for outputs whose shape the data decides (NonZero, NMS): TensorRT asks for it while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.engines.cuda_memory import DeviceBuffer
from service.errors import EngineFailed


@dataclass(slots=True, eq=False)
class OutputMemory:
    """One output's buffer, the shape that the last run gave it, and why the last request for memory was refused."""

    buffer: DeviceBuffer
    shape: tuple[int, ...] = ()
    refusal: EngineFailed | None = None
    _allocator: Any = None

    def reserve(self, size_bytes: int) -> int:
        """The address of `size_bytes` bytes, or 0, which TensorRT reads as a refusal: it cannot carry an exception."""
        self.refusal = None
        try:
            self.buffer.reserve(size_bytes)
        except EngineFailed as error:
            self.refusal = error
            return 0
        return self.buffer.pointer


def output_allocator(trt: Any, memory: OutputMemory) -> Any:
    """TensorRT's interface to `memory`, the same one every time: the execution context does not keep it alive."""
    if memory._allocator is None:
        memory._allocator = _allocator_class(trt)(memory)
    return memory._allocator


@lru_cache(maxsize=1)
def _allocator_class(trt: Any) -> type:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        """`alignment` is at most 256 bytes, which CUDA gives anyway."""

        def __init__(self, memory: OutputMemory) -> None:
            trt.IOutputAllocator.__init__(self)
            self._memory = memory

        def reallocate_output(self, _name: str, _address: int, size_bytes: int, _alignment: int) -> int:
            return self._memory.reserve(size_bytes)

        def reallocate_output_async(
            self, _name: str, _address: int, size_bytes: int, _alignment: int, _stream: int
        ) -> int:
            return self._memory.reserve(size_bytes)

        def notify_shape(self, _name: str, shape: Any) -> None:
            self._memory.shape = tuple(shape)

    return Allocator
