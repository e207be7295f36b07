"""Stands in for pycuda.driver and for libcuda's graph calls, to prove the buffer logic of engines and nothing of a GPU.

Streams run when somebody waits for them, so that an answer read too early is wrong; memory is counted; a call outside
of the context is refused, as the driver refuses it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Work = Callable[[], None]
_NON_BLOCKING = 1


class CudaError(Exception):
    pass


class CudaMemoryError(CudaError):
    pass


@dataclass(eq=False)
class FakeStream:
    driver: FakeDriver
    handle: int
    blocking: bool = True
    waiting: list[tuple[str, Work]] = field(default_factory=list)
    captured: list[tuple[str, Work]] | None = None
    # The thread that began the capture, which may not allocate, free or wait for this stream until it has ended it.
    capturer: int = 0

    def enqueue(self, name: str, work: Work) -> None:
        (self.waiting if self.captured is None else self.captured).append((name, work))

    def synchronize(self) -> None:
        self.driver.check("synchronize")
        if self.captured is not None:
            raise CudaError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
        while self.waiting:
            name, work = self.waiting.pop(0)
            self.driver.ran.append((self.handle, name))
            work()

    def __del__(self) -> None:
        self.driver.streams.pop(self.handle, None)


class _Allocation:
    def __init__(self, driver: FakeDriver, size_bytes: int) -> None:
        self._driver = driver
        self._address = driver.next_address
        driver.next_address += size_bytes + 4096
        driver.memory[self._address] = np.full(size_bytes, 0xAB, np.uint8)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._driver.check_memory("free")
        del self._driver.memory[self._address]

    def __del__(self) -> None:
        self._driver.drop(self._address in self._driver.memory)


class _Pinned:
    """What numpy keeps as the base of a page-locked array."""

    def __init__(self, driver: FakeDriver, size_bytes: int) -> None:
        self._driver = driver
        self._bytes = np.full(size_bytes, 0xCD, np.uint8)
        self.__array_interface__ = self._bytes.__array_interface__
        driver.pinned.add(id(self))

    def free(self) -> None:
        self._driver.check_memory("free")
        self._driver.pinned.remove(id(self))

    def __del__(self) -> None:
        self._driver.drop(id(self) in self._driver.pinned)


class _Context:
    """pycuda keeps a stack of contexts for each thread, and aborts the process where one ends with any left on it."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def push(self) -> None:
        self._driver.depth.value = getattr(self._driver.depth, "value", 0) + 1

    def pop(self) -> None:
        if self._driver.pop_fails:
            raise CudaError("cuCtxPopCurrent failed: an illegal memory access was encountered")
        if self._driver.detached:
            self.get_current()
            raise CudaError("m_stack::pop failed: invalid device context - cannot pop context from empty stack")
        self._driver.depth.value -= 1

    def detach(self) -> None:
        if self._driver.detached:
            raise CudaError("context::detach failed: cannot detach from invalid context")
        self._driver.detached = True
        self.get_current()

    def get_current(self) -> _Context | None:
        if self._driver.detached:
            # Detached contexts go from the stack of the thread that asks.
            self._driver.depth.value = 0
        return self if getattr(self._driver.depth, "value", 0) else None


class _Device:
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def retain_primary_context(self) -> _Context:
        return _Context(self._driver)


class FakeDriver:
    """One device of `size_bytes`. `failing` names the calls that fail from now on, as after an illegal access."""

    Error = CudaError
    MemoryError = CudaMemoryError

    def __init__(self, size_bytes: int = 1 << 30) -> None:
        self.size_bytes = size_bytes
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.pinned: set[int] = set()
        self.streams: dict[int, FakeStream] = {}
        self.ran: list[tuple[int, str]] = []
        self.failing: set[str] = set()
        self.allocations = 0
        self.depth = threading.local()
        self.pop_fails = self.detached = False
        # Of buffers that nobody freed by name, while pycuda would still have entered the context for them.
        self.dropped = 0
        self.next_address = 4096
        self._next_stream = 1

    def init(self) -> None:
        pass

    def Device(self, _number: int) -> _Device:  # noqa: N802 (pycuda's name)
        return _Device(self)

    def Stream(self, flags: int = 0) -> FakeStream:  # noqa: N802 (pycuda's name)
        self.check("stream")
        handle = self._next_stream
        self._next_stream += 1
        stream = FakeStream(self, handle, blocking=flags != _NON_BLOCKING)
        self.streams[handle] = _Weak(stream)  # type: ignore[assignment]
        return stream

    def stream_of(self, handle: int) -> FakeStream:
        return self.streams[handle].get()  # type: ignore[attr-defined, no-any-return]

    def check(self, call: str) -> None:
        if not getattr(self.depth, "value", 0):
            raise CudaError(f"{call}: no currently active context?")
        if call in self.failing:
            raise CudaError(f"{call} failed: an illegal memory access was encountered")

    def check_memory(self, call: str) -> None:
        """Nothing is allocated or freed by a thread that captures."""
        self.check(call)
        streams = [weak.get() for weak in list(self.streams.values())]  # type: ignore[attr-defined]
        if any(stream is not None and stream.capturer == threading.get_ident() for stream in streams):
            raise CudaError(f"{call} failed: operation not permitted when stream is capturing")

    def check_pinned(self, host: np.ndarray[Any, Any]) -> None:
        """Copies that run beside the processor need memory that stays where it is."""
        held: Any = host
        while isinstance(held, np.ndarray):
            held = held.base
        assert id(held) in self.pinned, "a copy of memory that is not page-locked, or no longer"
        assert host.flags.c_contiguous, "a copy of memory with gaps"

    def drop(self, held: bool) -> None:
        """Memory's last reference goes: what is held then pycuda frees in a destructor, unless its context is dead."""
        self.dropped += held and not self.detached

    @property
    def used_bytes(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def mem_get_info(self) -> tuple[int, int]:
        self.check("mem_get_info")
        return self.size_bytes - self.used_bytes, self.size_bytes

    def mem_alloc(self, size_bytes: int) -> _Allocation:
        self.check_memory("mem_alloc")
        if self.used_bytes + size_bytes > self.size_bytes:
            raise CudaMemoryError("cuMemAlloc failed: out of memory")
        self.allocations += 1
        return _Allocation(self, size_bytes)

    def pagelocked_empty(self, size_bytes: int, dtype: object) -> np.ndarray[Any, Any]:
        self.check_memory("pagelocked_empty")
        assert dtype is np.uint8
        return np.asarray(_Pinned(self, size_bytes))

    def memcpy_htod_async(self, address: int, source: np.ndarray[Any, Any], stream: FakeStream) -> None:
        self.check("memcpy")
        self.check_pinned(source)
        stream.enqueue("in", lambda: self.write(address, source))

    def memcpy_dtoh_async(self, target: np.ndarray[Any, Any], address: int, stream: FakeStream) -> None:
        self.check("memcpy")
        self.check_pinned(target)
        stream.enqueue("out", lambda: np.copyto(target, self.read(address, len(target))))

    def read(self, address: int, size_bytes: int) -> np.ndarray[Any, Any]:
        block = self.memory[address]
        assert size_bytes <= len(block), "a copy runs over the end of its buffer"
        return block[:size_bytes]

    def write(self, address: int, values: np.ndarray[Any, Any]) -> None:
        self.read(address, len(values))[:] = values


class _Weak:
    """A stream that the driver knows by its handle and does not keep alive."""

    def __init__(self, stream: FakeStream) -> None:
        import weakref

        self.get = weakref.ref(stream)


class FakeGraphLibrary:
    """libcuda's calls as ctypes makes them. `failing` names calls that give an error number."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver
        self.failing: set[str] = set()
        self.graphs: dict[int, list[tuple[str, Work]]] = {}
        self.launchable: dict[int, list[tuple[str, Work]]] = {}
        self.launches = 0
        self._next = 1

    def cuStreamBeginCapture_v2(self, stream: Any, _mode: Any) -> int:  # noqa: N802
        if "cuStreamBeginCapture_v2" in self.failing:
            return 900
        recorded = self._driver.stream_of(stream.value)
        if recorded.blocking:
            # Any copy of another library on the legacy stream would end the capture; there is always one here.
            return 906
        recorded.captured, recorded.capturer = [], threading.get_ident()
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:  # noqa: N802
        recorded = self._driver.stream_of(stream.value)
        if recorded.capturer != threading.get_ident():
            return 908
        captured, recorded.captured, recorded.capturer = recorded.captured, None, 0
        if "cuStreamEndCapture" in self.failing:
            return 901
        graph._obj.value = self._keep(self.graphs, captured or [])
        return 0

    def cuGraphInstantiateWithFlags(self, launchable: Any, graph: Any, _flags: Any) -> int:  # noqa: N802
        if "cuGraphInstantiateWithFlags" in self.failing:
            return 1
        launchable._obj.value = self._keep(self.launchable, self.graphs[graph.value])
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        del self.graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, launchable: Any) -> int:  # noqa: N802
        del self.launchable[launchable.value]
        return 0

    def cuGraphLaunch(self, launchable: Any, stream: Any) -> int:  # noqa: N802
        if "cuGraphLaunch" in self.failing:
            return 700
        self.launches += 1
        for name, work in self.launchable[launchable.value]:
            self._driver.stream_of(stream.value).enqueue(f"graph {name}", work)
        return 0

    def _keep(self, where: dict[int, list[tuple[str, Work]]], captured: list[tuple[str, Work]]) -> int:
        self._next += 1
        where[self._next] = captured
        return self._next
